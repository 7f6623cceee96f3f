//! Puts an image together: makes every part of it be here, whole, and then gives it its names.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{oneshot, watch};

use super::super::digest::{ChainId, Digest, ImageId};
use super::super::error::Error;
use super::super::feed::{Feed, feed};
use super::super::manifest::{Description, Descriptor, Layer};
use super::super::types::Progress;
use super::Inner;
use super::catalog::{Entry, Label, Record};
use super::ingest::ingest;
use super::layout::write_new;
use super::objects::Pins;

/// Where the compressed layers of an image come from.
pub(crate) trait Source: Sync {
    /// Feeds the whole blob. What is fed is verified by the reader.
    fn blob(&self, blob: &Descriptor, feed: &Feed) -> impl Future<Output = Result<(), Error>> + Send;
}

/// How an image that is whole is recorded.
pub(crate) struct Naming {
    /// Names that it gets, taken from images that had them.
    pub(crate) names: Vec<String>,
    pub(crate) pin: bool,
}

impl Inner {
    /// Installs an image. Dropping the future stops it; what is unfinished is removed.
    pub(crate) async fn install(
        self: &Arc<Self>,
        description: Description,
        naming: Naming,
        source: &impl Source,
        progress: Option<watch::Sender<Progress>>,
    ) -> Result<ImageId, Error> {
        let id = description.config_blob.digest;
        let wanted =
            description.blobs().map(|blob| blob.digest).chain(description.layers.iter().map(|layer| layer.chain));
        let pins = Pins::new(self, wanted.collect());
        if let Some(progress) = &progress {
            let missing = description.layers.iter().filter(|layer| !self.has_layer(layer));
            let bytes_total = missing.map(|layer| layer.blob.size).sum();
            progress.send_modify(|p| (p.bytes_total, p.layers_total) = (bytes_total, description.layers.len()));
        }
        self.install_layers(&description.layers, source, progress).await?;
        let inner = self.clone();
        self.blocking(move || {
            inner.write_blob(&description.config_blob, &description.config_content)?;
            inner.write_blob(&description.manifest, &description.manifest_content)?;
            inner.layout.sync()?;
            let record = inner.describe(&description);
            inner.record(&description.manifest, Some(record), naming)
        })
        .await?;
        drop(pins);
        Ok(id)
    }

    /// All layers at the same time, as far as permits allow; each is committed after the one below it.
    async fn install_layers(
        self: &Arc<Self>,
        layers: &[Layer],
        source: &impl Source,
        progress: Option<watch::Sender<Progress>>,
    ) -> Result<(), Error> {
        let mut work = Vec::new();
        let mut under: Option<oneshot::Receiver<()>> = None;
        let mut below: Vec<PathBuf> = Vec::new();
        for layer in layers {
            let (done, next) = oneshot::channel();
            work.push(self.install_layer(layer, source, below.clone(), under.replace(next), done, progress.clone()));
            below.insert(0, self.layout.layer_root(&layer.chain));
        }
        futures::future::try_join_all(work).await.map(|_| ())
    }

    async fn install_layer(
        self: &Arc<Self>,
        layer: &Layer,
        source: &impl Source,
        below: Vec<PathBuf>,
        under: Option<oneshot::Receiver<()>>,
        done: oneshot::Sender<()>,
        progress: Option<watch::Sender<Progress>>,
    ) -> Result<(), Error> {
        // Another pull may be at the same layer: wait for it and find it done, or take over. Whoever holds a layer
        // waits only for layers below, so that nobody waits in a circle.
        let _held = self.hold(layer.chain).await;
        if !self.has_layer(layer) {
            let permit = self.permits.acquire().await.map_err(|_| Error::Cancelled)?;
            let ready = self.ingest_layer(layer, source, progress.clone()).await?;
            drop(permit);
            if let Some(under) = under {
                under.await.map_err(|_| Error::Cancelled)?;
            }
            self.blocking(move || ready.commit(&below)).await?;
        } else if let Some(under) = under {
            under.await.map_err(|_| Error::Cancelled)?;
        }
        if let Some(progress) = &progress {
            progress.send_modify(|p| p.layers_done += 1);
        }
        // The layer above has failed or was here already; it needs no telling.
        let _ = done.send(());
        Ok(())
    }

    async fn ingest_layer(
        self: &Arc<Self>,
        layer: &Layer,
        source: &impl Source,
        progress: Option<watch::Sender<Progress>>,
    ) -> Result<super::ingest::Ready, Error> {
        let (writer, reader) = feed(progress);
        let (inner, own) = (self.clone(), layer.clone());
        let worker = self.blocking(move || ingest(&inner, own, reader));
        let download = async move {
            let result = if self.has_blob(&layer.blob) {
                writer.file(&self.layout.blob(&layer.blob.digest)).await
            } else {
                source.blob(&layer.blob, &writer).await
            };
            if result.is_ok() {
                writer.end().await;
            }
            result
        };
        let (ready, downloaded) = futures::join!(worker, download);
        match (ready, downloaded) {
            // Each side sees the other's failure as a cancellation.
            (Err(Error::Cancelled), Err(error)) => Err(error),
            (ready, _) => ready,
        }
    }

    pub(crate) fn has_blob(&self, blob: &Descriptor) -> bool {
        self.objects().blobs.get(&blob.digest) == Some(&blob.size)
    }

    fn has_layer(&self, layer: &Layer) -> bool {
        self.has_blob(&layer.blob) && self.objects().layers.contains_key(&layer.chain)
    }

    /// Waits until nobody else works on this layer.
    async fn hold(&self, chain: ChainId) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            locks.entry(chain).or_default().clone()
        };
        lock.lock_owned().await
    }

    /// Writes a small blob whose content is verified.
    fn write_blob(&self, blob: &Descriptor, content: &[u8]) -> Result<(), Error> {
        if self.has_blob(blob) {
            return Ok(());
        }
        let staged = self.layout.ingest().join(self.unique());
        write_new(&staged, content)?;
        let mut objects = self.objects();
        let path = self.layout.blob(&blob.digest);
        std::fs::rename(&staged, &path).map_err(Error::io("rename to", &path))?;
        objects.blobs.insert(blob.digest, blob.size);
        Ok(())
    }

    fn describe(&self, description: &Description) -> Record {
        let objects = self.objects();
        Record::new(description, |chain| objects.layers.get(chain).copied().unwrap_or_default())
    }

    /// Names an image that is here by what a registry calls it. None: there is none.
    pub(crate) async fn name_present(
        self: &Arc<Self>,
        target: Digest,
        naming: Naming,
    ) -> Result<Option<ImageId>, Error> {
        let inner = self.clone();
        self.blocking(move || {
            let catalog = inner.catalog();
            let suffix = format!("@{target}");
            let served = |entry: &&Entry| matches!(&entry.label, Label::Name(name) if name.ends_with(&suffix));
            let Some(entry) = catalog.entries.iter().find(served) else { return Ok(None) };
            if naming
                .names
                .iter()
                .all(|name| catalog.named(name).is_some_and(|e| e.manifest.digest == entry.manifest.digest))
            {
                return Ok(catalog.id_of(entry));
            }
            inner.record(&entry.manifest, None, naming)?;
            Ok(inner.catalog().id_of(entry))
        })
        .await
    }

    /// Writes an image into index.json. Without a record it must be there already.
    fn record(self: &Arc<Self>, manifest: &Descriptor, record: Option<Record>, naming: Naming) -> Result<(), Error> {
        let _writing = self.writing();
        let catalog = self.catalog();
        let entry = |label| Entry { label, pinned: naming.pin, manifest: manifest.clone() };
        let mut entries: Vec<Entry> = Vec::new();
        for old in &catalog.entries {
            let own = old.manifest.digest == manifest.digest;
            let moved = naming.names.iter().any(|name| old.is_named(name));
            match old.label {
                // It has a name now, or is here again.
                Label::Nameless | Label::Removed if own => {}
                _ if moved => entries.extend(orphan(&catalog.entries, old, &naming.names, own)),
                _ => entries.push(old.clone()),
            }
        }
        if naming.names.is_empty() && !entries.iter().any(|entry| entry.manifest.digest == manifest.digest) {
            entries.push(entry(Label::Nameless));
        }
        entries.extend(naming.names.iter().map(|name| entry(Label::Name(name.clone()))));
        let keep_pin = catalog.entries.iter().any(|old| old.pinned && old.manifest.digest == manifest.digest);
        for entry in entries.iter_mut().filter(|entry| entry.manifest.digest == manifest.digest) {
            entry.pinned |= keep_pin;
        }
        let next = catalog.with(entries, record.map(|record| (manifest.digest, record)));
        self.layout.write_index(&next.entries)?;
        self.publish(next);
        Ok(())
    }
}

/// What stays of an image that loses a name: the image itself, nameless, when it was its last.
fn orphan(all: &[Entry], old: &Entry, taken: &[String], own: bool) -> Option<Entry> {
    let same = |other: &&Entry| other.manifest.digest == old.manifest.digest;
    let keeps = |other: &Entry| !taken.iter().any(|name| other.is_named(name));
    let last = !all.iter().filter(same).any(keeps);
    let first = all.iter().find(same) == Some(old);
    (last && first && !own).then(|| Entry { label: Label::Nameless, ..old.clone() })
}

/// Removes entries; gives what of the image stays nameless.
pub(super) fn without_name(entries: &[Entry], name: &str) -> Vec<Entry> {
    let taken = [name.to_owned()];
    let keep =
        |entry: &Entry| if entry.is_named(name) { orphan(entries, entry, &taken, false) } else { Some(entry.clone()) };
    entries.iter().filter_map(keep).collect()
}
