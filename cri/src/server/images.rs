//! The ImageService.

use std::collections::BTreeMap;
use std::sync::Arc;

use orlop_proto::v1;

use super::list::chunks;
use super::services::Messages;
use crate::engine::{Engine, Shared, now};
use crate::error::{Error, Kind, Result};
use crate::image::{self, Credentials, Image, Reference};
use crate::stats;

fn message(image: &Image) -> v1::Image {
    let user = image.config.process.user.split(':').next().unwrap_or_default();
    // The kubelet reads a number here to keep runAsNonRoot; anything else is a name.
    let uid = if user.is_empty() { Some(0) } else { user.parse::<i64>().ok() };
    v1::Image {
        id: image.id.to_string(),
        repo_tags: image.tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        uid: uid.map(|value| v1::Int64Value { value }),
        username: if uid.is_some() { String::new() } else { user.to_owned() },
        spec: None,
        pinned: image.pinned,
    }
}

fn name(spec: Option<&v1::ImageSpec>) -> Result<&str> {
    spec.map(|spec| spec.image.as_str())
        .filter(|name| !name.is_empty())
        .ok_or_else(|| Error::invalid("the request names no image"))
}

pub(super) fn refused(step: String, error: image::Error) -> Error {
    let kind = match &error {
        image::Error::NotFound { .. } | image::Error::RegistryNotFound { .. } => Kind::NotFound,
        image::Error::Reference { .. }
        | image::Error::Credentials { .. }
        | image::Error::Digest { .. }
        | image::Error::Ambiguous { .. } => Kind::InvalidArgument,
        image::Error::Denied { .. } => Kind::Denied,
        image::Error::Registry { .. } | image::Error::Tls { .. } => Kind::Unavailable,
        _ => Kind::Internal,
    };
    Error::because(kind, step, error)
}

fn find(engine: &Shared, name: &str) -> Result<Option<Arc<Image>>> {
    match engine.images.find(name) {
        // What cannot be a name is no image that is here.
        Err(image::Error::Reference { .. }) => Ok(None),
        other => other.map_err(|error| refused(format!("look for image {name}"), error)),
    }
}

fn find_all(engine: &Shared, filter: Option<&v1::ImageFilter>) -> Result<Vec<v1::Image>> {
    let wanted = filter.and_then(|filter| filter.image.as_ref()).map(|spec| spec.image.as_str());
    let found = match wanted.filter(|name| !name.is_empty()) {
        Some(name) => find(engine, name)?.into_iter().collect(),
        None => engine.images.list(),
    };
    Ok(found.iter().map(|image| message(image)).collect())
}

pub(super) async fn list(engine: Shared, request: v1::ListImagesRequest) -> Result<v1::ListImagesResponse> {
    Ok(v1::ListImagesResponse { images: find_all(&engine, request.filter.as_ref())? })
}

pub(super) async fn stream(
    engine: Shared,
    request: v1::StreamImagesRequest,
) -> Result<Messages<v1::StreamImagesResponse>> {
    let found = find_all(&engine, request.filter.as_ref())?;
    Ok(chunks(found, |images| v1::StreamImagesResponse { images }))
}

/// An image that is not here is no error: the answer has none.
pub(super) async fn status(engine: Shared, request: v1::ImageStatusRequest) -> Result<v1::ImageStatusResponse> {
    let Some(image) = find(&engine, name(request.image.as_ref())?)? else {
        return Ok(v1::ImageStatusResponse::default());
    };
    let mut info = BTreeMap::new();
    if request.verbose {
        let config = &image.config;
        let details = serde_json::json!({ "imageSpec": {
            "architecture": config.architecture,
            "os": config.os,
            "created": config.created,
            "config": {
                "User": config.process.user,
                "Entrypoint": config.process.entrypoint,
                "Cmd": config.process.cmd,
                "WorkingDir": config.process.working_dir,
                "Labels": config.process.labels,
                "StopSignal": config.process.stop_signal,
            },
        }});
        info.insert("info".to_owned(), details.to_string());
    }
    Ok(v1::ImageStatusResponse { image: Some(message(&image)), info })
}

pub(super) async fn pull(engine: Shared, request: v1::PullImageRequest) -> Result<v1::PullImageResponse> {
    let name = name(request.image.as_ref())?;
    let step = || format!("pull image {name}");
    let reference = Reference::parse(name).map_err(|error| refused(step(), error))?;
    let auth = request.auth.unwrap_or_default();
    let credentials = Credentials::from_fields(
        &auth.username,
        &auth.password,
        &auth.auth,
        &auth.server_address,
        &auth.identity_token,
        &auth.registry_token,
    );
    let credentials = credentials.map_err(|error| refused(step(), error))?;
    let pulled = engine.told(engine.images.pull(&reference, credentials, None)).await?;
    Ok(v1::PullImageResponse { image_ref: pulled.map_err(|error| refused(step(), error))?.to_string() })
}

/// Removes the image with all its names, as the protocol says, by whichever it is called.
pub(super) async fn remove(engine: Shared, request: v1::RemoveImageRequest) -> Result<v1::RemoveImageResponse> {
    let name = name(request.image.as_ref())?;
    if let Some(image) = find(&engine, name)? {
        let removed = engine.images.remove(&image.id.to_string()).await;
        removed.map_err(|error| refused(format!("remove image {name}"), error))?;
    }
    Ok(v1::RemoveImageResponse {})
}

pub(super) async fn fs_info(engine: Shared, _: v1::ImageFsInfoRequest) -> Result<v1::ImageFsInfoResponse> {
    let images = engine.images.usage();
    let uppers = engine.config.uppers();
    let layers = Engine::blocking(|| "add up the writable layers".to_owned(), {
        let engine = Arc::clone(&engine);
        move || Ok(engine.store.containers.list().iter().map(|each| stats::writable_layer(&engine, each)).collect())
    });
    let layers: Vec<stats::DiskUsage> = layers.await?;
    let (bytes, inodes) = layers.iter().fold((0, 0), |sum, each| (sum.0 + each.bytes, sum.1 + each.inodes));
    let usage = |folder: &std::path::Path, bytes: u64, inodes: u64| v1::FilesystemUsage {
        timestamp: now(),
        fs_id: Some(v1::FilesystemIdentifier { mountpoint: folder.to_string_lossy().into_owned() }),
        used_bytes: Some(v1::UInt64Value { value: bytes }),
        inodes_used: Some(v1::UInt64Value { value: inodes }),
    };
    Ok(v1::ImageFsInfoResponse {
        image_filesystems: vec![usage(&engine.config.images(), images.bytes, images.inodes)],
        container_filesystems: vec![usage(&uppers, bytes, inodes)],
    })
}
