//! Archives that hold an OCI image layout.

use super::super::error::Error;
use super::super::manifest::{Description, Descriptor, Index, is_index, media_type, parse};
use super::super::settings::RegistryConfig;
use super::Found;
use super::archive::{Archive, Section};

/// containerd and docker save write the full name here, and only the tag where OCI has the name.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const MAX_INDEXES: usize = 3;

pub(super) fn images(archive: &mut Archive, config: &RegistryConfig) -> Result<Vec<Found>, Error> {
    let text = archive.read(archive.section("index.json")?)?;
    let index = Index::parse("index.json", &text)?;
    let mut found: Vec<Found> = Vec::new();
    for entry in index.manifests.iter().filter(|entry| fits(entry, config)) {
        let name = entry.annotations.get(CONTAINERD_NAME).or_else(|| entry.annotations.get(REF_NAME)).cloned();
        let description = image(archive, entry, config)?;
        match found.iter_mut().find(|other| other.description.manifest.digest == description.manifest.digest) {
            Some(other) => other.names.extend(name),
            None => found.push(Found { description, names: name.into_iter().collect() }),
        }
    }
    Ok(found)
}

/// Whether an image is for this machine, as far as its entry says.
fn fits(entry: &Descriptor, config: &RegistryConfig) -> bool {
    let here = |p: &super::super::manifest::Platform| p.os == "linux" && p.architecture == config.architecture;
    is_index(&entry.media_type) || entry.platform.as_ref().is_none_or(here)
}

fn image(archive: &mut Archive, entry: &Descriptor, config: &RegistryConfig) -> Result<Description, Error> {
    let mut descriptor = entry.clone();
    for _ in 0..=MAX_INDEXES {
        let content = archive.read(section(archive, &descriptor)?)?;
        descriptor.verify("a document of the archive", &content)?;
        descriptor.media_type = media_type(&descriptor.media_type, &content);
        let what = format!("index {}", descriptor.digest);
        if descriptor.is_index() {
            descriptor = Index::parse(&what, &content)?.choose(&what, &config.architecture)?.clone();
            continue;
        }
        let manifest = parse(&descriptor, &content, &config.limits)?;
        let config_content = archive.read(section(archive, &manifest.config)?)?;
        for layer in &manifest.layers {
            let place = section(archive, layer)?;
            archive.blobs.insert(layer.digest, place);
        }
        let plain = Descriptor::sized(&descriptor.media_type, descriptor.digest, descriptor.size);
        return Description::new(plain, content, config_content, &config.limits);
    }
    Err(archive.bad("indexes lie in indexes too deeply"))
}

fn section(archive: &Archive, blob: &Descriptor) -> Result<Section, Error> {
    archive.section(&format!("blobs/sha256/{}", blob.digest.hex()))
}
