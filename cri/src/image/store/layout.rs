//! The files of a store: an OCI image layout (OCI image spec, image-layout.md), and the unpacked layers beside it.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::digest::{ChainId, Digest};
use super::super::error::Error;
use super::super::manifest::{Descriptor, Index, OCI_INDEX};
use super::super::types::Usage;
use super::catalog::{Entry, Label};

/// OCI image spec, annotations.md.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const PINNED: &str = "io.orlop.image.pinned";
/// On an image that was removed while a container used it.
const REMOVED: &str = "io.orlop.image.removed";

/// Where everything is.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) root: PathBuf,
}

/// What `layers/<chain id>/layer.json` says: written last, it shows that the layer is whole.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct LayerFile {
    pub(super) diff_id: Digest,
    pub(super) bytes: u64,
    pub(super) inodes: u64,
}

impl LayerFile {
    pub(super) fn usage(self) -> Usage {
        Usage { bytes: self.bytes, inodes: self.inodes }
    }
}

impl Layout {
    /// Makes the folders and the layout file, where missing.
    pub(super) fn create(root: PathBuf) -> Result<Layout, Error> {
        let layout = Layout { root };
        for dir in [layout.blobs(), layout.layers(), layout.ingest(), layout.trash()] {
            make_dir(&dir)?;
        }
        let marker = layout.root.join("oci-layout");
        if !marker.is_file() {
            replace(&marker, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        if !layout.index().exists() {
            layout.write_index(&[])?;
        }
        Ok(layout)
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    pub(super) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(super) fn layer(&self, chain: &ChainId) -> PathBuf {
        self.layers().join(chain.hex())
    }

    pub(super) fn layer_root(&self, chain: &ChainId) -> PathBuf {
        self.layer(chain).join("fs")
    }

    pub(super) fn ingest(&self) -> PathBuf {
        self.root.join("ingest")
    }

    pub(super) fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    fn index(&self) -> PathBuf {
        self.root.join("index.json")
    }

    pub(super) fn read_layer_file(&self, chain: &ChainId) -> Result<LayerFile, Error> {
        let path = self.layer(chain).join("layer.json");
        let text = std::fs::read(&path).map_err(Error::io("read", &path))?;
        serde_json::from_slice(&text).map_err(|error| Error::manifest(path.display(), error))
    }

    pub(super) fn read_index(&self) -> Result<Vec<Entry>, Error> {
        let path = self.index();
        let text = std::fs::read(&path).map_err(Error::io("read", &path))?;
        let index = Index::parse(&path.display().to_string(), &text)?;
        Ok(index.manifests.into_iter().map(entry).collect())
    }

    /// Replaces index.json, durably: from here on the images exist.
    pub(super) fn write_index(&self, entries: &[Entry]) -> Result<(), Error> {
        let manifests = entries.iter().map(descriptor).collect();
        let index = Index { schema_version: 2, media_type: Some(OCI_INDEX.to_owned()), manifests };
        let path = self.index();
        let text = serde_json::to_vec_pretty(&index).map_err(|error| Error::manifest(path.display(), error))?;
        replace(&path, &text)
    }

    /// Writes everything of this file system out, so that what index.json is about to name is on disk.
    pub(super) fn sync(&self) -> Result<(), Error> {
        let dir = File::open(&self.root).map_err(Error::io("open", &self.root))?;
        nix::unistd::syncfs(&dir).map_err(Error::errno("syncfs", &self.root))
    }
}

fn entry(mut descriptor: Descriptor) -> Entry {
    let annotations = std::mem::take(&mut descriptor.annotations);
    let has = |key: &str| annotations.get(key).is_some_and(|value| value == "true");
    let label = match annotations.get(REF_NAME) {
        Some(name) => Label::Name(name.clone()),
        None if has(REMOVED) => Label::Removed,
        None => Label::Nameless,
    };
    Entry { label, pinned: has(PINNED), manifest: descriptor }
}

fn descriptor(entry: &Entry) -> Descriptor {
    let mut annotations = BTreeMap::new();
    let mut set = |key: &str, value: &str| drop(annotations.insert(key.to_owned(), value.to_owned()));
    match &entry.label {
        Label::Name(name) => set(REF_NAME, name),
        Label::Removed => set(REMOVED, "true"),
        Label::Nameless => {}
    }
    if entry.pinned {
        set(PINNED, "true");
    }
    Descriptor { annotations, ..entry.manifest.clone() }
}

/// Makes a folder that only root can enter, and its parents.
pub(super) fn make_dir(path: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Error::io("make folder", path))
}

/// Writes a new file.
pub(super) fn write_new(path: &Path, content: &[u8]) -> Result<File, Error> {
    let open = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    let mut file = open.map_err(Error::io("make", path))?;
    file.write_all(content).map_err(Error::io("write", path))?;
    Ok(file)
}

/// Replaces a file: a reader, or a power loss, sees the old or the new one.
fn replace(path: &Path, content: &[u8]) -> Result<(), Error> {
    let new = path.with_extension("new");
    let file = write_new(&new, content)?;
    file.sync_all().map_err(Error::io("fsync", &new))?;
    std::fs::rename(&new, path).map_err(Error::io("rename", path))?;
    let folder = path.parent().unwrap_or(path);
    File::open(folder).and_then(|dir| dir.sync_all()).map_err(Error::io("fsync", folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_the_index() {
        for (label, pinned) in
            [(Label::Name("a/b:c".to_owned()), true), (Label::Nameless, false), (Label::Removed, false)]
        {
            let manifest = Descriptor::new("type", b"content");
            let written = Entry { label, pinned, manifest };
            assert_eq!(entry(descriptor(&written)), written);
        }
    }
}
