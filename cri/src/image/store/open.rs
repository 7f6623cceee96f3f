//! Opening a store: reading what is there, checking it as far as that is cheap, and removing what is in no image.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::super::digest::{ChainId, Digest};
use super::super::error::Error;
use super::super::feed::feed;
use super::super::manifest::{Description, Descriptor, Layer};
use super::super::settings::RegistryConfig;
use super::super::types::Usage;
use super::Inner;
use super::catalog::{Catalog, Entry, Record};
use super::ingest::ingest;
use super::layout::Layout;
use super::objects::Objects;

impl Inner {
    /// Opens a store. Blocks.
    pub(super) fn open(root: &Path, config: RegistryConfig) -> Result<Arc<Inner>, Error> {
        super::layout::make_dir(root)?;
        let lock = lock(root)?;
        let layout = Layout::create(root.to_owned())?;
        let objects = Objects { blobs: blobs(&layout)?, layers: layers(&layout)?, ..Objects::default() };
        let inner = Arc::new(Inner::new(layout, config, objects, lock));
        inner.discard_ingests()?;
        let entries = inner.layout.read_index()?;
        let records = inner.records(&entries);
        let lost = entries.iter().filter(|entry| !records.contains_key(&entry.manifest.digest)).count();
        let catalog = Catalog::new(entries, records);
        if lost > 0 {
            inner.layout.write_index(&catalog.entries)?;
        }
        inner.publish(catalog);
        inner.sweep();
        inner.empty_trash();
        Ok(inner)
    }

    /// The images of index.json that are whole. Of one that is not, the good parts stay until the next start.
    fn records(self: &Arc<Self>, entries: &[Entry]) -> HashMap<Digest, Arc<Record>> {
        let mut records = HashMap::new();
        for entry in entries {
            let manifest = &entry.manifest;
            if records.contains_key(&manifest.digest) {
                continue;
            }
            match self.load(manifest) {
                Ok(record) => drop(records.insert(manifest.digest, Arc::new(record))),
                Err(error) => {
                    let error = super::super::error::chain(&error);
                    tracing::warn!(image = ?entry.label, manifest = %manifest.digest, error, "an image is damaged and must be pulled again");
                }
            }
        }
        records
    }

    /// Reads one image, and unpacks again what of its layers is missing.
    fn load(self: &Arc<Self>, manifest: &Descriptor) -> Result<Record, Error> {
        let read = |digest: &Digest| {
            let path = self.layout.blob(digest);
            std::fs::read(&path).map(Bytes::from).map_err(Error::io("read", &path))
        };
        let limits = &self.config.limits;
        let content = read(&manifest.digest)?;
        let config = super::super::manifest::parse(manifest, &content, limits)?.config;
        let description = Description::new(manifest.clone(), content, read(&config.digest)?, limits)?;
        let whole = |blob: &Descriptor| self.objects().blobs.get(&blob.digest) == Some(&blob.size);
        let damaged = description.blobs().find(|blob| !whole(blob)).cloned();
        if let Some(blob) = damaged {
            self.keep_rest(&description, &blob.digest);
            let actual = self.objects().blobs.remove(&blob.digest).unwrap_or_default();
            return Err(Error::Size { what: format!("blob {}", blob.digest), expected: blob.size, actual });
        }
        self.restore(&description)?;
        let objects = self.objects();
        let usage = |chain: &ChainId| objects.layers.get(chain).copied().unwrap_or_default();
        Ok(Record::new(&description, usage))
    }

    /// Pins what is good of a damaged image, so that to pull it again fetches only what is bad.
    fn keep_rest(&self, description: &Description, damaged: &Digest) {
        let mut objects = self.objects();
        for blob in description.blobs().filter(|blob| blob.digest != *damaged) {
            objects.pin(blob.digest);
        }
        for layer in &description.layers {
            objects.pin(layer.chain);
        }
    }

    /// Unpacks the layers that are missing, from their blobs.
    fn restore(self: &Arc<Self>, description: &Description) -> Result<(), Error> {
        let mut below = Vec::new();
        for layer in &description.layers {
            if !self.objects().layers.contains_key(&layer.chain) {
                tracing::warn!(layer = %layer.chain, "an unpacked layer is missing; unpacking it again");
                self.unpack_again(layer, &below)?;
            }
            below.insert(0, self.layout.layer_root(&layer.chain));
        }
        Ok(())
    }

    /// On threads of its own, because the caller may be one of an async runtime, where a feed must not block.
    fn unpack_again(self: &Arc<Self>, layer: &Layer, below: &[PathBuf]) -> Result<(), Error> {
        let path = self.layout.blob(&layer.blob.digest);
        let mut file = File::open(&path).map_err(Error::io("open", &path))?;
        let (writer, reader) = feed(None);
        std::thread::scope(|scope| {
            let feeding = scope.spawn(|| writer.copy_from(&mut file));
            let ready = scope.spawn(|| ingest(self, layer.clone(), reader)).join().map_err(|_| Error::Panicked)?;
            feeding.join().map_err(|_| Error::Panicked)?.map_err(Error::io("read", &path))?;
            ready?.commit(below)
        })
    }

    /// Work that was interrupted goes to the trash.
    fn discard_ingests(&self) -> Result<(), Error> {
        let folder = self.layout.ingest();
        for entry in std::fs::read_dir(&folder).map_err(Error::io("list", &folder))? {
            let path = entry.map_err(Error::io("list", &folder))?.path();
            std::fs::rename(&path, self.layout.trash().join(self.unique())).map_err(Error::io("discard", &path))?;
        }
        Ok(())
    }
}

/// One process at a time.
fn lock(root: &Path) -> Result<File, Error> {
    let path = root.join("lock");
    let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(Error::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::Locked { path }),
        Err(std::fs::TryLockError::Error(error)) => Err(Error::io("lock", &path)(error)),
    }
}

/// The blobs that are there, with their sizes.
fn blobs(layout: &Layout) -> Result<HashMap<Digest, u64>, Error> {
    let mut found = HashMap::new();
    for (digest, path) in named(&layout.blobs())? {
        let size = std::fs::symlink_metadata(&path).map_err(Error::io("stat", &path))?.len();
        found.insert(digest, size);
    }
    Ok(found)
}

/// The layers that are there and whole; the rest goes to the trash.
fn layers(layout: &Layout) -> Result<HashMap<ChainId, Usage>, Error> {
    let mut found = HashMap::new();
    for (chain, path) in named(&layout.layers())? {
        match layout.read_layer_file(&chain) {
            Ok(file) if layout.layer_root(&chain).is_dir() => drop(found.insert(chain, file.usage())),
            _ => {
                tracing::warn!(layer = %chain, "an unpacked layer is damaged and dropped");
                let target = layout.trash().join(format!("damaged-{}-{:016x}", chain.hex(), rand::random::<u64>()));
                std::fs::rename(&path, &target).map_err(Error::io("discard", &path))?;
            }
        }
    }
    Ok(found)
}

/// What in a folder is named by a digest.
fn named(folder: &Path) -> Result<Vec<(Digest, PathBuf)>, Error> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let entry = entry.map_err(Error::io("list", folder))?;
        if let Some(digest) = entry.file_name().to_str().and_then(|name| Digest::from_hex(name).ok()) {
            found.push((digest, entry.path()));
        }
    }
    Ok(found)
}
