//! Importing archives: OCI image layouts in a tar, and what `docker save` writes.

mod archive;
mod docker;
mod oci;

use std::path::Path;
use std::sync::Arc;

use super::digest::ImageId;
use super::error::Error;
use super::manifest::Description;
use super::reference::Reference;
use super::store::{Inner, Naming, key};
use super::types::ImportOptions;
use archive::Archive;

/// An image found in an archive, with the names it has there.
struct Found {
    description: Description,
    names: Vec<String>,
}

pub(super) async fn import(inner: &Arc<Inner>, path: &Path, options: ImportOptions) -> Result<Vec<ImageId>, Error> {
    let (own, path) = (inner.clone(), path.to_owned());
    let opened = inner.blocking(move || {
        let mut archive = Archive::open(&path, own.temporary(), &own.config.limits)?;
        let found = if archive.has("index.json") {
            oci::images(&mut archive, &own.config)?
        } else if archive.has("manifest.json") {
            docker::images(&mut archive, &own.config.limits)?
        } else {
            return Err(archive.bad("it is neither an OCI layout (index.json) nor a Docker archive (manifest.json)"));
        };
        if found.is_empty() { Err(archive.bad("it holds no image")) } else { Ok((archive, found)) }
    });
    let (archive, found) = opened.await?;
    let mut ids = Vec::new();
    for image in found {
        let naming = Naming { names: normalised(&image.names), pin: options.pin };
        ids.push(inner.install(image.description, naming, &archive, None).await?);
    }
    Ok(ids)
}

/// Names in the form in which images are kept. What is no image name is left out: the image stays reachable by id.
fn normalised(names: &[String]) -> Vec<String> {
    let full = |name: &String| match Reference::parse(name) {
        Ok(reference) => key(&reference),
        Err(error) => {
            tracing::warn!(%error, "an image in the archive has a name that is none");
            None
        }
    };
    names.iter().filter_map(full).collect()
}
