//! Pulling an image from a registry.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::credentials::Credentials;
use super::digest::{Digest, ImageId};
use super::error::Error;
use super::feed::Feed;
use super::manifest::{Description, Descriptor, Index, parse};
use super::reference::Reference;
use super::registry::Session;
use super::store::{Inner, Naming, Source, key};
use super::types::Progress;

/// How deep indexes may lie in indexes.
const MAX_INDEXES: usize = 3;

impl Source for Session<'_> {
    async fn blob(&self, blob: &Descriptor, feed: &Feed) -> Result<(), Error> {
        Session::blob(self, blob, feed).await
    }
}

pub(super) async fn pull(
    inner: &Arc<Inner>,
    reference: &Reference,
    credentials: Option<&Credentials>,
    progress: Option<watch::Sender<Progress>>,
) -> Result<ImageId, Error> {
    let limits = &inner.config.limits;
    let session = Session::new(&inner.transport, inner.config.hosts_dir.as_deref(), limits, reference, credentials)?;
    let selector = reference.selector();
    let here = key(reference).is_some_and(|name| inner.catalog().named(&name).is_some());
    // A registry that cannot say the digest alone is asked for the whole manifest, and its errors are told then.
    if here
        && let Ok(Some(target)) = session.resolve(&selector).await
        && let Some(id) = inner.name_present(target, naming(reference, &target)).await?
    {
        return Ok(id);
    }
    let (served, content) = session.manifest(&selector).await?;
    let target = served.digest;
    let (manifest, content) = choose(inner, &session, served, content).await?;
    let config = parse(&manifest, &content, limits)?.config;
    let config_content =
        if inner.has_blob(&config) { inner.read_blob(&config.digest)? } else { session.document(&config).await? };
    let description = Description::new(manifest, content, config_content, limits)?;
    inner.install(description, naming(reference, &target), &session, progress).await
}

/// Follows indexes to the manifest for this machine.
async fn choose(
    inner: &Inner,
    session: &Session<'_>,
    mut descriptor: Descriptor,
    mut content: Bytes,
) -> Result<(Descriptor, Bytes), Error> {
    for _ in 0..=MAX_INDEXES {
        if !descriptor.is_index() {
            return Ok((descriptor, content));
        }
        let what = format!("index {}", descriptor.digest);
        let index = Index::parse(&what, &content)?;
        let chosen = index.choose(&what, &inner.config.architecture)?.clone();
        (descriptor, content) = session.manifest(&chosen.digest.to_string()).await?;
        chosen.verify("the manifest", &content)?;
    }
    Err(Error::manifest(format!("index {}", descriptor.digest), "indexes lie in indexes too deeply"))
}

/// The names that a pulled image gets: its tag, if it was asked for by tag, and its repo digest.
fn naming(reference: &Reference, target: &Digest) -> Naming {
    let tag = if reference.digest().is_none() { reference.tagged() } else { None };
    let names = tag.into_iter().chain([reference.with_digest(target)]).collect();
    Naming { names, pin: false }
}
