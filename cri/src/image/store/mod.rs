//! The store of a node's images.

mod catalog;
mod ingest;
mod install;
mod layout;
mod objects;
mod open;
mod remove;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::{Semaphore, watch};

use super::registry::Transport;
use super::{
    ChainId, Credentials, Error, Image, ImageId, ImportOptions, Progress, Reference, RegistryConfig, Result, Usage,
};
use catalog::Catalog;
pub(crate) use catalog::key;
pub(crate) use install::{Naming, Source};
use layout::Layout;
use objects::Objects;

/// The images of one node. Cheap to clone; all clones are the same store.
#[derive(Clone, Debug)]
pub struct ImageStore {
    inner: Arc<Inner>,
}

/// Keeps the layers of an image while a container uses them, even if the image is removed meanwhile.
#[derive(Debug)]
pub struct ImageLease {
    inner: Arc<Inner>,
    id: ImageId,
}

/// Locks are taken in this order: `writing`, `objects`, `catalog`.
#[derive(Debug)]
pub(crate) struct Inner {
    layout: Layout,
    pub(crate) config: RegistryConfig,
    pub(crate) transport: Transport,
    /// Held while index.json changes, so that changes follow each other.
    writing: Mutex<()>,
    objects: Mutex<Objects>,
    catalog: RwLock<Arc<Catalog>>,
    /// Layers that are being worked on.
    locks: Mutex<HashMap<ChainId, Arc<tokio::sync::Mutex<()>>>>,
    permits: Semaphore,
    /// Held by the thread that empties the trash.
    emptying: Mutex<()>,
    counter: AtomicU64,
    /// Names of this process's temporary folders differ from an earlier one's.
    started: u64,
    _lock: std::fs::File,
}

impl Inner {
    fn new(layout: Layout, config: RegistryConfig, objects: Objects, lock: std::fs::File) -> Inner {
        Inner {
            layout,
            transport: Transport::new(config.limits.clone()),
            permits: Semaphore::new(config.parallel_layers.max(1)),
            config,
            writing: Mutex::default(),
            objects: Mutex::new(objects),
            catalog: RwLock::default(),
            locks: Mutex::default(),
            emptying: Mutex::default(),
            counter: AtomicU64::new(0),
            started: rand::random(),
            _lock: lock,
        }
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn publish(&self, catalog: Catalog) {
        *self.catalog.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(catalog);
    }

    /// A name for a temporary folder or file.
    fn unique(&self) -> String {
        format!("{:016x}-{}", self.started, self.counter.fetch_add(1, Ordering::Relaxed))
    }

    /// Runs blocking work on a thread for it.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        tokio::task::spawn_blocking(work).await.map_err(|_| Error::Panicked)?
    }

    /// Reads a small blob that is here.
    pub(crate) fn read_blob(&self, digest: &super::Digest) -> Result<bytes::Bytes> {
        let path = self.layout.blob(digest);
        std::fs::read(&path).map(bytes::Bytes::from).map_err(Error::io("read", &path))
    }

    /// A path for a temporary file, removed at the next start if not before.
    pub(crate) fn temporary(&self) -> PathBuf {
        self.layout.ingest().join(self.unique())
    }
}

impl ImageStore {
    /// Opens the store at `root`, making it if need be, and removes what interrupted work left. Blocks.
    pub fn open(root: impl Into<PathBuf>, config: RegistryConfig) -> Result<ImageStore> {
        Ok(ImageStore { inner: Inner::open(&root.into(), config)? })
    }

    /// Makes the image of `reference` be here, whole, and gives its id. The registry is asked each time (so that the
    /// credentials are proven), but nothing is downloaded that is here. Dropping the future stops the work.
    pub async fn pull(
        &self,
        reference: &Reference,
        credentials: Option<Credentials>,
        progress: Option<watch::Sender<Progress>>,
    ) -> Result<ImageId> {
        super::pull::pull(&self.inner, reference, credentials.as_ref(), progress).await
    }

    /// Imports every image of an OCI or Docker archive (a tar, perhaps compressed). Names are taken from images that
    /// had them.
    pub async fn import(&self, path: &Path, options: ImportOptions) -> Result<Vec<ImageId>> {
        super::import::import(&self.inner, path, options).await
    }

    /// All images, by id.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.inner.catalog().list()
    }

    /// Finds an image by its id (`sha256:<hex>` or `<hex>`), by name, by name and digest, or by a prefix of its id
    /// that no other image's id has. None: there is no such image.
    pub fn find(&self, name: &str) -> Result<Option<Arc<Image>>> {
        self.inner.catalog().find(name)
    }

    /// Removes an image with all its names. Its layers go when no image and no lease needs them. Already gone is success.
    pub async fn remove(&self, name_or_id: &str) -> Result<()> {
        let Some(image) = self.find(name_or_id)? else { return Ok(()) };
        let inner = self.inner.clone();
        self.inner.blocking(move || inner.remove(&image.id)).await
    }

    /// Removes one name. An image whose last name goes stays, nameless, until it is removed.
    pub async fn untag(&self, name: &str) -> Result<()> {
        let reference = Reference::parse(name)?;
        let inner = self.inner.clone();
        self.inner.blocking(move || inner.untag(&reference)).await
    }

    /// What the images take on disk.
    pub fn usage(&self) -> Usage {
        self.inner.objects().usage()
    }

    /// The folders of an image's layers, top first: overlay's lowerdir order. Hold a lease while they are used.
    pub fn layers(&self, id: &ImageId) -> Result<Vec<PathBuf>> {
        let catalog = self.inner.catalog();
        let record = catalog.record(id).ok_or_else(|| Error::NotFound { name: id.to_string() })?;
        Ok(record.chain.iter().rev().map(|chain| self.inner.layout.layer_root(chain)).collect())
    }

    /// Keeps the image's layers until the lease is dropped. Works for an image that was removed while in use, so that
    /// a restarted daemon can take up the leases of containers that it finds; see [`ImageStore::collect`].
    pub fn lease(&self, id: &ImageId) -> Result<ImageLease> {
        let mut objects = self.inner.objects();
        if self.inner.catalog().record(id).is_none() {
            return Err(Error::NotFound { name: id.to_string() });
        }
        objects.lease(*id);
        drop(objects);
        Ok(ImageLease { inner: self.inner.clone(), id: *id })
    }

    /// Forgets images that were removed while in use and are leased no more. To be called once after the start, when
    /// all containers have taken up their leases.
    pub async fn collect(&self) -> Result<()> {
        let inner = self.inner.clone();
        self.inner.blocking(move || inner.forget_removed()).await
    }
}

impl ImageLease {
    pub fn id(&self) -> ImageId {
        self.id
    }
}

impl Drop for ImageLease {
    fn drop(&mut self) {
        if self.inner.objects().release(&self.id) {
            self.inner.forget_behind(&self.id);
        }
    }
}
