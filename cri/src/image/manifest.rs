//! Manifests and indexes (OCI image spec 1.1; Docker's image manifest v2, schema 2), and what of them is accepted.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::config::ImageConfig;
use super::digest::{ChainId, Digest, chain_ids};
use super::error::Error;
use super::settings::Limits;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const LAYERS: [&str; 10] = [
    OCI_LAYER,
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];

/// Names content by type, digest and size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Descriptor {
    pub(crate) fn new(media_type: &str, content: &[u8]) -> Descriptor {
        Descriptor::sized(media_type, Digest::of(content), content.len() as u64)
    }

    pub(crate) fn sized(media_type: &str, digest: Digest, size: u64) -> Descriptor {
        Descriptor { media_type: media_type.to_owned(), digest, size, platform: None, annotations: BTreeMap::new() }
    }

    /// Checks content against the digest and the size.
    pub(crate) fn verify(&self, what: &'static str, content: &[u8]) -> Result<(), Error> {
        let actual = content.len() as u64;
        if actual != self.size {
            return Err(Error::Size { what: format!("{what} {}", self.digest), expected: self.size, actual });
        }
        match Digest::of(content) {
            actual if actual == self.digest => Ok(()),
            actual => Err(Error::Mismatch { what, expected: self.digest, actual }),
        }
    }

    pub(crate) fn is_index(&self) -> bool {
        is_index(&self.media_type)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Platform {
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<String>,
    pub(crate) config: Descriptor,
    #[serde(default)]
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<String>,
    #[serde(default)]
    pub(crate) manifests: Vec<Descriptor>,
}

impl Index {
    pub(crate) fn parse(what: &str, content: &[u8]) -> Result<Index, Error> {
        serde_json::from_slice(content).map_err(|error| Error::manifest(what, format!("malformed index: {error}")))
    }

    /// The manifest for linux on an architecture. Entries without a platform serve when there is only one entry.
    pub(crate) fn choose(&self, what: &str, architecture: &str) -> Result<&Descriptor, Error> {
        let fits =
            |d: &&Descriptor| d.platform.as_ref().is_some_and(|p| p.os == "linux" && p.architecture == architecture);
        // arm64 is written with and without its only variant, amd64's variants v2 and up ask for newer processors.
        let plain = |d: &&Descriptor| {
            d.platform
                .as_ref()
                .and_then(|p| p.variant.as_deref())
                .is_none_or(|v| v.is_empty() || v == "v1" || v == "v8")
        };
        if let Some(best) = self.manifests.iter().filter(fits).find(plain).or_else(|| self.manifests.iter().find(fits))
        {
            return Ok(best);
        }
        if let [only] = &self.manifests[..]
            && only.platform.is_none()
        {
            return Ok(only);
        }
        let offered: Vec<String> = self
            .manifests
            .iter()
            .filter_map(|d| d.platform.as_ref())
            .filter(|p| p.os != "unknown")
            .map(|p| format!("{}/{}", p.os, p.architecture))
            .collect();
        let reason = format!("it has no image for linux/{architecture}; it has {}", offered.join(", "));
        Err(Error::manifest(what, reason))
    }
}

pub(crate) fn is_index(media_type: &str) -> bool {
    media_type == OCI_INDEX || media_type == DOCKER_INDEX
}

/// The media type of a manifest or an index: what its transport says, or else what it says or looks like.
pub(crate) fn media_type(said: &str, content: &[u8]) -> String {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Probe {
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
        config: Option<serde::de::IgnoredAny>,
    }
    let known = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX];
    let said = said.split(';').next().unwrap_or_default().trim();
    let probe: Option<Probe> = serde_json::from_slice(content).ok();
    let looks = probe.and_then(|probe| match probe {
        Probe { media_type: Some(own), .. } => Some(own),
        Probe { manifests: Some(_), .. } => Some(OCI_INDEX.to_owned()),
        Probe { config: Some(_), .. } => Some(OCI_MANIFEST.to_owned()),
        _ => None,
    });
    match looks {
        Some(own) => own,
        None if known.contains(&said) => said.to_owned(),
        None => "unknown".to_owned(),
    }
}

/// One layer of an image that is to be here.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) blob: Descriptor,
    pub(crate) diff_id: Digest,
    pub(crate) chain: ChainId,
}

/// An image as its manifest and its config describe it, checked for what can be checked without the layers.
#[derive(Clone, Debug)]
pub(crate) struct Description {
    pub(crate) manifest: Descriptor,
    pub(crate) manifest_content: Bytes,
    pub(crate) config_blob: Descriptor,
    pub(crate) config_content: Bytes,
    pub(crate) config: ImageConfig,
    /// Lowest first.
    pub(crate) layers: Vec<Layer>,
}

/// Reads a manifest and refuses what is no container image.
pub(crate) fn parse(descriptor: &Descriptor, content: &[u8], limits: &Limits) -> Result<Manifest, Error> {
    let what = format!("manifest {}", descriptor.digest);
    if descriptor.media_type != OCI_MANIFEST && descriptor.media_type != DOCKER_MANIFEST {
        return Err(Error::manifest(what, format!("its media type {:?} is not supported", descriptor.media_type)));
    }
    let manifest: Manifest =
        serde_json::from_slice(content).map_err(|error| Error::manifest(&what, format!("malformed: {error}")))?;
    if manifest.schema_version != 2 {
        return Err(Error::manifest(what, format!("schema version {} is not supported", manifest.schema_version)));
    }
    let config = &manifest.config;
    if config.media_type != OCI_CONFIG && config.media_type != DOCKER_CONFIG {
        return Err(Error::manifest(what, format!("it is no container image but {:?}", config.media_type)));
    }
    if config.size > limits.document {
        return Err(Error::manifest(what, format!("its config is over the limit of {} bytes", limits.document)));
    }
    if manifest.layers.len() > limits.layers {
        return Err(Error::manifest(
            what,
            format!("it has {} layers; the limit is {}", manifest.layers.len(), limits.layers),
        ));
    }
    if let Some(odd) = manifest.layers.iter().find(|layer| !LAYERS.contains(&layer.media_type.as_str())) {
        return Err(Error::manifest(what, format!("a layer's media type {:?} is not supported", odd.media_type)));
    }
    Ok(manifest)
}

impl Description {
    pub(crate) fn new(
        manifest: Descriptor,
        manifest_content: Bytes,
        config_content: Bytes,
        limits: &Limits,
    ) -> Result<Description, Error> {
        manifest.verify("the manifest", &manifest_content)?;
        let parsed = parse(&manifest, &manifest_content, limits)?;
        parsed.config.verify("the image config", &config_content)?;
        let what = format!("image config {}", parsed.config.digest);
        let config: ImageConfig = serde_json::from_slice(&config_content)
            .map_err(|error| Error::manifest(&what, format!("malformed: {error}")))?;
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != parsed.layers.len() {
            let reason = format!("it names {} layers, the manifest {}", diff_ids.len(), parsed.layers.len());
            return Err(Error::manifest(what, reason));
        }
        let layers = parsed.layers.into_iter().zip(diff_ids).zip(chain_ids(diff_ids));
        let layers = layers.map(|((blob, diff_id), chain)| Layer { blob, diff_id: *diff_id, chain }).collect();
        Ok(Description { manifest, manifest_content, config_blob: parsed.config, config_content, config, layers })
    }

    /// Every blob of the image.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        [&self.manifest, &self.config_blob].into_iter().chain(self.layers.iter().map(|layer| &layer.blob))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(os: &str, architecture: &str, variant: Option<&str>, seed: &str) -> Descriptor {
        let mut descriptor = Descriptor::new(OCI_MANIFEST, seed.as_bytes());
        let variant = variant.map(str::to_owned);
        descriptor.platform = Some(Platform { architecture: architecture.to_owned(), os: os.to_owned(), variant });
        descriptor
    }

    #[test]
    fn the_platform_is_chosen() {
        let manifests = vec![
            entry("unknown", "unknown", None, "attestation"),
            entry("windows", "amd64", None, "w"),
            entry("linux", "amd64", Some("v3"), "v3"),
            entry("linux", "amd64", None, "plain"),
        ];
        let index = Index { schema_version: 2, media_type: None, manifests };
        assert_eq!(index.choose("x", "amd64").unwrap().digest, Digest::of(b"plain"));
        let error = index.choose("x", "arm64").unwrap_err().to_string();
        assert!(
            error.contains("linux/arm64") && error.contains("windows/amd64") && !error.contains("unknown"),
            "{error}"
        );
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let limits = Limits { layers: 1, ..Limits::default() };
        let check = |config_type: &str, layer_types: &[&str]| {
            let layers = layer_types.iter().map(|t| Descriptor::new(t, b"l")).collect();
            let config = Descriptor::new(config_type, b"c");
            let text = serde_json::to_vec(&Manifest { schema_version: 2, media_type: None, config, layers }).unwrap();
            parse(&Descriptor::new(OCI_MANIFEST, &text), &text, &limits).map(|_| ())
        };
        assert!(check(OCI_CONFIG, &[OCI_LAYER]).is_ok());
        assert!(check("application/vnd.cncf.helm.config.v1+json", &[OCI_LAYER]).is_err());
        assert!(check(OCI_CONFIG, &["application/vnd.oci.image.layer.v1.tar+gzip+encrypted"]).is_err());
        assert!(check(OCI_CONFIG, &[OCI_LAYER, OCI_LAYER]).is_err());
    }

    #[test]
    fn the_media_type_is_what_the_document_says() {
        assert_eq!(media_type("text/plain", br#"{"manifests":[]}"#), OCI_INDEX);
        assert_eq!(media_type(OCI_MANIFEST, format!(r#"{{"mediaType":"{DOCKER_INDEX}"}}"#).as_bytes()), DOCKER_INDEX);
        assert_eq!(media_type("application/vnd.oci.image.index.v1+json; charset=utf-8", b"{}"), OCI_INDEX);
        assert_eq!(media_type("application/json", b"{}"), "unknown");
    }
}
