//! The blobs and layers on disk, and who keeps them: images, leases, and pulls that are under way.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::super::digest::{ChainId, Digest, ImageId};
use super::super::types::Usage;
use super::Inner;
use super::catalog::Catalog;

/// All that is on disk and whole, and what is in use.
#[derive(Debug, Default)]
pub(super) struct Objects {
    /// Sizes of blobs.
    pub(super) blobs: HashMap<Digest, u64>,
    pub(super) layers: HashMap<ChainId, Usage>,
    /// Blobs and layers that work under way relies on, counted.
    pub(super) pins: HashMap<Digest, usize>,
    /// Leases of images, counted.
    pub(super) leases: HashMap<ImageId, usize>,
}

impl Objects {
    pub(super) fn usage(&self) -> Usage {
        let layers = self.layers.values();
        Usage {
            bytes: self.blobs.values().sum::<u64>() + layers.clone().map(|usage| usage.bytes).sum::<u64>(),
            inodes: self.blobs.len() as u64 + layers.map(|usage| usage.inodes).sum::<u64>(),
        }
    }

    pub(super) fn pin(&mut self, digest: Digest) {
        *self.pins.entry(digest).or_default() += 1;
    }

    pub(super) fn unpin(&mut self, digest: &Digest) {
        release(&mut self.pins, digest);
    }

    pub(super) fn lease(&mut self, id: ImageId) {
        *self.leases.entry(id).or_default() += 1;
    }

    /// True if it was the last.
    pub(super) fn release(&mut self, id: &ImageId) -> bool {
        release(&mut self.leases, id)
    }

    /// Forgets what nothing keeps, and gives it: blobs, then layers.
    fn take_unused(&mut self, catalog: &Catalog) -> (Vec<Digest>, Vec<ChainId>) {
        let mut used: HashSet<Digest> = self.pins.keys().copied().collect();
        for record in catalog.records() {
            used.extend(record.blobs.iter().chain(&record.chain));
        }
        let unused = |digests: Vec<&Digest>| -> Vec<Digest> {
            digests.into_iter().filter(|digest| !used.contains(*digest)).copied().collect()
        };
        let (blobs, layers) = (unused(self.blobs.keys().collect()), unused(self.layers.keys().collect()));
        self.blobs.retain(|digest, _| used.contains(digest));
        self.layers.retain(|chain, _| used.contains(chain));
        (blobs, layers)
    }
}

fn release(counts: &mut HashMap<Digest, usize>, key: &Digest) -> bool {
    match counts.get_mut(key) {
        Some(count) if *count > 1 => {
            *count -= 1;
            false
        }
        _ => counts.remove(key).is_some(),
    }
}

/// Keeps blobs and layers from being swept while an image is being put together.
pub(super) struct Pins {
    inner: Arc<Inner>,
    digests: Vec<Digest>,
}

impl Pins {
    pub(super) fn new(inner: &Arc<Inner>, digests: Vec<Digest>) -> Pins {
        let mut objects = inner.objects();
        for digest in &digests {
            objects.pin(*digest);
        }
        drop(objects);
        Pins { inner: inner.clone(), digests }
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut objects = self.inner.objects();
        for digest in &self.digests {
            objects.unpin(digest);
        }
        drop(objects);
        self.inner.tidy();
    }
}

impl Inner {
    /// Moves what nothing keeps to the trash and deletes it behind. Renames only: quick.
    pub(super) fn sweep(self: &Arc<Self>) {
        let mut objects = self.objects();
        let (blobs, layers) = objects.take_unused(&self.catalog());
        let paths =
            blobs.iter().map(|d| self.layout.blob(d)).chain(layers.iter().map(|chain| self.layout.layer(chain)));
        let mut trashed = 0;
        for path in paths {
            match std::fs::rename(&path, self.layout.trash().join(self.unique())) {
                Ok(()) => trashed += 1,
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "cannot move unused image content to the trash");
                }
            }
        }
        drop(objects);
        if trashed > 0 {
            self.empty_trash();
        }
    }

    /// Sweeps in a thread of its own: for callers that must not block.
    pub(super) fn tidy(self: &Arc<Self>) {
        let inner = self.clone();
        behind(move || {
            let _writing = inner.writing();
            inner.sweep();
        });
    }

    /// Deletes what is in the trash, in a thread of its own.
    pub(super) fn empty_trash(self: &Arc<Self>) {
        let inner = self.clone();
        behind(move || {
            let _alone = inner.emptying.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Err(error) = crate::tree::clear(&inner.layout.trash()) {
                tracing::warn!(%error, "cannot empty the trash of the images; the next start tries again");
            }
        });
    }
}

/// Runs work that nobody waits for. What it would do is done at the next start, if no thread can be had.
pub(super) fn behind(work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().name("images".to_owned()).spawn(work);
    if let Err(error) = thread {
        tracing::warn!(%error, "cannot start a thread to clean up images");
    }
}
