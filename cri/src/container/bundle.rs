//! A container's folders: the bundle on the run directory, the writable layer on the state directory.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use crate::config::Config;
use crate::error::{Context, Result};
use crate::shim::Rootfs;
use crate::store::Container;

/// Makes the bundle and the writable layer; how the root filesystem is to be mounted.
pub(super) fn make(config: &Config, container: &Container, spec: &Spec, mut layers: Vec<PathBuf>) -> Result<Rootfs> {
    let bundle = config.bundle(&container.sandbox, &container.id);
    let upper = config.upper(&container.id);
    folder(&bundle.join("rootfs"), 0o700)?;
    // The root of the container's filesystem: everybody in it must get in.
    folder(&upper, 0o700)?;
    folder(&upper.join("upper"), 0o755)?;
    folder(&upper.join("work"), 0o700)?;
    if layers.is_empty() {
        // An image without layers: overlay wants one.
        let empty = bundle.join("empty");
        folder(&empty, 0o755)?;
        layers.push(empty);
    }
    let path = bundle.join("config.json");
    let text = serde_json::to_vec(spec).step(|| format!("encode {}", path.display()))?;
    fs::write(&path, text).step(|| format!("write {}", path.display()))?;
    Ok(Rootfs::Overlay { lower: layers, upper: Some(upper.join("upper")), work: Some(upper.join("work")) })
}

/// The spec of a container that exists.
pub(super) fn load_spec(config: &Config, container: &Container) -> Result<Spec> {
    let path = config.bundle(&container.sandbox, &container.id).join("config.json");
    let text = fs::read(&path).step(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).step(|| format!("read {}", path.display()))
}

fn folder(path: &Path, mode: u32) -> Result<()> {
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(path)
            .step(|| format!("make the folder {}", path.display())),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.step(|| format!("make the folder {}", path.display())),
    }
}
