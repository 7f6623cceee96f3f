//! Archives as `docker save` writes them (Docker image spec 1.2): a manifest.json that names configs and layer tars.
//! They have no manifests of images, so each gets one, in OCI's form.

use bytes::Bytes;
use serde::Deserialize;

use super::super::config::ImageConfig;
use super::super::digest::Digest;
use super::super::error::Error;
use super::super::manifest::{Description, Descriptor, Manifest, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST};
use super::super::settings::Limits;
use super::Found;
use super::archive::Archive;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

pub(super) fn images(archive: &mut Archive, limits: &Limits) -> Result<Vec<Found>, Error> {
    let text = archive.read(archive.section("manifest.json")?)?;
    let items: Vec<Item> =
        serde_json::from_slice(&text).map_err(|error| archive.bad(&format!("manifest.json: {error}")))?;
    items.into_iter().map(|item| image(archive, item, limits)).collect()
}

fn image(archive: &mut Archive, item: Item, limits: &Limits) -> Result<Found, Error> {
    let config_content = archive.read(archive.section(&item.config)?)?;
    let config: ImageConfig = serde_json::from_slice(&config_content)
        .map_err(|error| archive.bad(&format!("the image config {}: {error}", item.config)))?;
    let diff_ids = config.rootfs.diff_ids;
    if diff_ids.len() != item.layers.len() {
        return Err(archive.bad(&format!("manifest.json and the image config {} disagree on the layers", item.config)));
    }
    let layers = item.layers.iter().zip(diff_ids).map(|(name, diff_id)| layer(archive, name, diff_id));
    let layers = layers.collect::<Result<_, Error>>()?;
    let config = Descriptor::new(OCI_CONFIG, &config_content);
    let manifest = Manifest { schema_version: 2, media_type: Some(OCI_MANIFEST.to_owned()), config, layers };
    let content = serde_json::to_vec(&manifest).map_err(|error| archive.bad(&error.to_string()))?;
    let descriptor = Descriptor::new(OCI_MANIFEST, &content);
    let description = Description::new(descriptor, Bytes::from(content), config_content, limits)?;
    Ok(Found { description, names: item.repo_tags.unwrap_or_default() })
}

/// A layer tar is plain, and then its digest is its diff id, or compressed, and must be read to know.
fn layer(archive: &mut Archive, name: &str, diff_id: Digest) -> Result<Descriptor, Error> {
    let section = archive.section(name)?;
    let (media_type, digest) = match archive.head(section)? {
        [0x1f, 0x8b, ..] => (format!("{OCI_LAYER}+gzip"), archive.digest(section)?),
        [0x28, 0xb5, 0x2f, 0xfd] => (format!("{OCI_LAYER}+zstd"), archive.digest(section)?),
        _ => (OCI_LAYER.to_owned(), diff_id),
    };
    archive.blobs.insert(digest, section);
    Ok(Descriptor::sized(&media_type, digest, section.size))
}
