//! What the store tells about an image.

use super::config::ImageConfig;
use super::digest::ImageId;

/// An image that is here, whole.
#[derive(Clone, Debug)]
pub struct Image {
    /// The digest of its config.
    pub id: ImageId,
    /// `registry/repository:tag`, sorted.
    pub tags: Vec<String>,
    /// `registry/repository@digest`, sorted. The digest is of what the registry served: an index or a manifest.
    pub repo_digests: Vec<String>,
    pub config: ImageConfig,
    /// Bytes on disk: manifest, config, compressed and unpacked layers. Layers shared with others count in full.
    pub size: u64,
    /// Not to be removed by garbage collection.
    pub pinned: bool,
}

/// What the images take on disk, shared layers counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub bytes: u64,
    pub inodes: u64,
}

/// How far a pull is. Bytes are compressed bytes of what was not here yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub bytes_total: u64,
    pub bytes_done: u64,
    pub layers_total: usize,
    pub layers_done: usize,
}

/// How to import an archive.
#[derive(Clone, Copy, Debug, Default)]
pub struct ImportOptions {
    /// Mark the images as pinned: the kubelet's garbage collection leaves them alone.
    pub pin: bool,
}
