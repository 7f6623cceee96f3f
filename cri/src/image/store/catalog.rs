//! What images there are: an immutable picture of index.json, replaced whole when that changes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::super::ImageConfig;
use super::super::digest::{ChainId, Digest, ImageId};
use super::super::error::Error;
use super::super::manifest::{Description, Descriptor};
use super::super::reference::Reference;
use super::super::types::{Image, Usage};

/// Why an image is in index.json.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Label {
    /// `registry/repository:tag` or `registry/repository@digest`.
    Name(String),
    /// It lost its last name, or never had one.
    Nameless,
    /// It was removed while in use: hidden, but kept for its leases.
    Removed,
}

/// One line of index.json.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(super) label: Label,
    pub(super) pinned: bool,
    pub(super) manifest: Descriptor,
}

impl Entry {
    pub(super) fn is_named(&self, name: &str) -> bool {
        matches!(&self.label, Label::Name(own) if own == name)
    }
}

/// What one manifest amounts to.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) id: ImageId,
    pub(super) config: ImageConfig,
    /// Lowest first.
    pub(super) chain: Vec<ChainId>,
    pub(super) blobs: Vec<Digest>,
    /// Bytes of the blobs and of the unpacked layers.
    pub(super) size: u64,
}

impl Record {
    pub(super) fn new(description: &Description, usage: impl Fn(&ChainId) -> Usage) -> Record {
        let layers = &description.layers;
        let mut blobs: Vec<&Descriptor> = description.blobs().collect();
        blobs.sort_by_key(|blob| blob.digest);
        blobs.dedup_by_key(|blob| blob.digest);
        let unpacked: u64 = layers.iter().map(|layer| usage(&layer.chain).bytes).sum();
        Record {
            id: description.config_blob.digest,
            config: description.config.clone(),
            chain: layers.iter().map(|layer| layer.chain).collect(),
            size: blobs.iter().map(|blob| blob.size).sum::<u64>() + unpacked,
            blobs: blobs.iter().map(|blob| blob.digest).collect(),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Catalog {
    pub(super) entries: Vec<Entry>,
    /// By manifest.
    records: HashMap<Digest, Arc<Record>>,
    /// What is shown: all but the removed.
    images: BTreeMap<ImageId, Arc<Image>>,
}

impl Catalog {
    /// Entries without a record are dropped.
    pub(super) fn new(mut entries: Vec<Entry>, mut records: HashMap<Digest, Arc<Record>>) -> Catalog {
        entries.retain(|entry| records.contains_key(&entry.manifest.digest));
        records.retain(|manifest, _| entries.iter().any(|entry| entry.manifest.digest == *manifest));
        let mut images: BTreeMap<ImageId, Image> = BTreeMap::new();
        for entry in entries.iter().filter(|entry| entry.label != Label::Removed) {
            let Some(record) = records.get(&entry.manifest.digest) else { continue };
            let image = images.entry(record.id).or_insert_with(|| shown(record));
            image.pinned |= entry.pinned;
            match &entry.label {
                Label::Name(name) if name.contains('@') => image.repo_digests.push(name.clone()),
                Label::Name(name) => image.tags.push(name.clone()),
                Label::Nameless | Label::Removed => {}
            }
        }
        for image in images.values_mut() {
            image.tags.sort();
            image.repo_digests.sort();
        }
        let images = images.into_iter().map(|(id, image)| (id, Arc::new(image))).collect();
        Catalog { entries, records, images }
    }

    /// The catalog with other entries, and perhaps one more record.
    pub(super) fn with(&self, entries: Vec<Entry>, new: Option<(Digest, Record)>) -> Catalog {
        let mut records = self.records.clone();
        records.extend(new.map(|(manifest, record)| (manifest, Arc::new(record))));
        Catalog::new(entries, records)
    }

    pub(super) fn list(&self) -> Vec<Arc<Image>> {
        self.images.values().cloned().collect()
    }

    pub(super) fn records(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.records.values()
    }

    /// The record of an image, also of one that was removed while in use.
    pub(super) fn record(&self, id: &ImageId) -> Option<&Arc<Record>> {
        self.records.values().find(|record| record.id == *id)
    }

    pub(super) fn id_of(&self, entry: &Entry) -> Option<ImageId> {
        self.records.get(&entry.manifest.digest).map(|record| record.id)
    }

    /// The entry with this name.
    pub(crate) fn named(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.is_named(name))
    }

    /// By id, by name, or by a prefix of the id.
    pub(super) fn find(&self, name: &str) -> Result<Option<Arc<Image>>, Error> {
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        if let Ok(id) = Digest::from_hex(hex) {
            return Ok(self.images.get(&id).cloned());
        }
        if let Ok(reference) = Reference::parse(name) {
            let id = key(&reference).and_then(|key| self.named(&key)).and_then(|entry| self.id_of(entry));
            if let Some(image) = id.and_then(|id| self.images.get(&id)) {
                return Ok(Some(image.clone()));
            }
        }
        if hex.is_empty() || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(None);
        }
        let mut matches: Vec<_> = self.images.iter().filter(|(id, _)| id.hex().starts_with(hex)).collect();
        match matches.len() {
            0 | 1 => Ok(matches.pop().map(|(_, image)| image.clone())),
            matches => Err(Error::Ambiguous { prefix: hex.to_owned(), matches }),
        }
    }
}

/// The name under which an image that was asked for by this reference is kept.
pub(crate) fn key(reference: &Reference) -> Option<String> {
    match reference.digest() {
        Some(digest) => Some(reference.with_digest(&digest)),
        None => reference.tagged(),
    }
}

fn shown(record: &Record) -> Image {
    Image {
        id: record.id,
        tags: Vec::new(),
        repo_digests: Vec::new(),
        config: record.config.clone(),
        size: record.size,
        pinned: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: Digest) -> Arc<Record> {
        Arc::new(Record { id, config: ImageConfig::default(), chain: Vec::new(), blobs: Vec::new(), size: 1 })
    }

    #[test]
    fn images_are_found_by_every_kind_of_name() {
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let manifest = Descriptor::new("type", b"m");
        let entry = |label, manifest: &Descriptor| Entry { label, pinned: false, manifest: manifest.clone() };
        let by_digest = format!("docker.io/library/a@{}", manifest.digest);
        let hidden = Descriptor::new("type", b"h");
        let entries = vec![
            entry(Label::Name("docker.io/library/a:1".to_owned()), &manifest),
            entry(Label::Name(by_digest.clone()), &manifest),
            entry(Label::Removed, &hidden),
            entry(Label::Nameless, &Descriptor::new("type", b"no record")),
        ];
        let catalog =
            Catalog::new(entries, HashMap::from([(manifest.digest, record(one)), (hidden.digest, record(two))]));
        assert_eq!(catalog.entries.len(), 3);
        assert_eq!(catalog.list().len(), 1);
        let found = |name: &str| catalog.find(name).unwrap().map(|image| image.id);
        for name in ["a:1", &by_digest, &one.to_string(), &one.hex(), &one.hex()[..12], &one.to_string()[..20]] {
            assert_eq!(found(name), Some(one), "{name}");
        }
        assert_eq!(found("a:1@sha256:"), None);
        assert_eq!(found("a"), None);
        assert_eq!(found(&two.hex()), None, "removed images are hidden");
        assert!(catalog.record(&two).is_some(), "but still known");
        assert_eq!(catalog.list()[0].tags, ["docker.io/library/a:1"]);
        assert_eq!(catalog.list()[0].repo_digests, [by_digest]);
    }
}
