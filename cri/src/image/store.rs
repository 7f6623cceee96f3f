//! The image store: the skeleton of its API.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

use super::{Credentials, Error, Image, ImageId, ImportOptions, Progress, Reference, RegistryConfig, Result, Usage};

/// The images of one node. Cheap to clone; all clones are the same store.
#[derive(Clone, Debug)]
pub struct ImageStore {
    root: PathBuf,
}

/// Keeps the layers of an image while a container uses them, even if the image is removed meanwhile.
#[derive(Debug)]
pub struct ImageLease {
    id: ImageId,
}

impl ImageLease {
    pub fn id(&self) -> ImageId {
        self.id
    }
}

impl ImageStore {
    /// Opens the store at `root`, making it if need be, and removes what interrupted work left. Blocks.
    pub fn open(root: impl Into<PathBuf>, config: RegistryConfig) -> Result<ImageStore> {
        let _ = config;
        Ok(ImageStore { root: root.into() })
    }

    /// Makes the image of `reference` be here, whole, and gives its id. The registry is asked each time (so that the
    /// credentials are proven), but nothing is downloaded that is here. Dropping the future stops the work.
    pub async fn pull(&self, reference: &Reference, credentials: Option<Credentials>, progress: Option<watch::Sender<Progress>>) -> Result<ImageId> {
        let _ = (credentials, progress);
        Err(Error::NotFound { name: reference.to_string() })
    }

    /// Imports every image of an OCI or Docker archive.
    pub async fn import(&self, path: &Path, options: ImportOptions) -> Result<Vec<ImageId>> {
        let _ = options;
        Err(Error::Archive { path: path.to_owned(), reason: String::new() })
    }

    /// All images, by id.
    pub fn list(&self) -> Vec<Arc<Image>> {
        Vec::new()
    }

    /// Finds an image by its id (`sha256:<hex>` or `<hex>`), by name, by name and digest, or by a prefix of its id
    /// that no other image's id has. None: there is no such image.
    pub fn find(&self, name: &str) -> Result<Option<Arc<Image>>> {
        let _ = name;
        Ok(None)
    }

    /// Removes an image with all its names. Its layers go when no image and no lease needs them. Already gone is success.
    pub async fn remove(&self, name_or_id: &str) -> Result<()> {
        let _ = name_or_id;
        Ok(())
    }

    /// Removes one name. An image whose last name goes stays, nameless, until it is removed.
    pub async fn untag(&self, name: &str) -> Result<()> {
        let _ = name;
        Ok(())
    }

    pub fn usage(&self) -> Usage {
        Usage::default()
    }

    /// The folders of an image's layers, top first: overlay's lowerdir order.
    pub fn layers(&self, id: &ImageId) -> Result<Vec<PathBuf>> {
        Err(Error::NotFound { name: format!("{id} in {}", self.root.display()) })
    }

    /// Keeps the image's layers until the lease is dropped. Works for an image that was removed while in use, so that
    /// a restarted daemon can take up the leases of containers that it finds; see [`ImageStore::collect`].
    pub fn lease(&self, id: &ImageId) -> Result<ImageLease> {
        Err(Error::NotFound { name: id.to_string() })
    }

    /// Forgets images that were removed while in use and are leased no more. To be called once after the start, when
    /// all containers have taken up their leases.
    pub async fn collect(&self) -> Result<()> {
        Ok(())
    }
}
