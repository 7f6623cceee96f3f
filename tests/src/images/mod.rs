//! Small real images, made on this machine: busybox, and servers from Debian's packages with what they link to.
//!
//! An image is an OCI layout under `target/test-images/`, kept from run to run under the digest of its recipe.

mod debian;
mod layout;
mod recipes;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

use crate::programs;

pub use recipes::{Recipe, busybox, nginx, postgres, redis};

/// An image on disk, ready to be pushed.
#[derive(Debug, Clone)]
pub struct Image {
    name: String,
    layout: PathBuf,
}

impl Image {
    /// Repository and tag without a host, such as `library/busybox:1`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder of its OCI layout, in which it is tagged `image`.
    #[must_use]
    pub fn layout(&self) -> &Path {
        &self.layout
    }

    /// The same image under another name.
    #[must_use]
    pub fn named(&self, name: &str) -> Image {
        Image { name: name.to_owned(), layout: self.layout.clone() }
    }
}

/// The image of a recipe: from the cache, or made now.
pub fn image(recipe: &Recipe) -> Result<Image> {
    let cache = programs::repository().join("target/test-images");
    fs::create_dir_all(&cache)?;
    let lock = fs::File::create(cache.join("lock"))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    let layout = cache.join(recipe.digest()?);
    if !layout.is_dir() {
        let making = tempfile::tempdir_in(&cache)?;
        let rootfs = making.path().join("rootfs");
        recipe.fill(&rootfs, &cache.join("packages")).with_context(|| format!("make the image {}", recipe.name))?;
        layout::write(&making.path().join("layout"), &rootfs, &recipe.config)?;
        fs::rename(making.path().join("layout"), &layout)?;
    }
    Ok(Image { name: recipe.name.to_owned(), layout })
}
