//! CreateContainer: the spec, the folders, and the runtime's create by the shim.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use orlop_proto::v1;

use super::{bundle, refused, remove_in_sandbox};
use crate::engine::{Engine, Shared, new_id, now};
use crate::error::{Context, Error, Kind, Result};
use crate::events;
use crate::image::{Image, ImageLease};
use crate::shim::Create;
use crate::spec::{self, Built, ImageVolume, Inputs};
use crate::store::{Container, ContainerRecord, ContainerState, Sandbox, SandboxState};

/// Makes a container and answers with its id when the runtime holds its process before exec.
///
/// The same request again, while the first is in flight or until the container is started, gives the same id.
pub(crate) async fn create(engine: &Shared, request: v1::CreateContainerRequest) -> Result<String> {
    let sandbox = engine.store.sandboxes.find(&request.pod_sandbox_id)?;
    let config = request.config.ok_or_else(|| Error::invalid("the container has no config"))?;
    let metadata = config.metadata.as_ref().ok_or_else(|| Error::invalid("the container has no metadata"))?;
    if metadata.name.is_empty() {
        return Err(Error::invalid("the container's metadata has no name"));
    }
    let key = format!("container {} {metadata:?}", sandbox.id);
    engine.making.run(key, create_once(engine, &sandbox, config)).await
}

async fn create_once(engine: &Shared, sandbox: &Arc<Sandbox>, config: v1::ContainerConfig) -> Result<String> {
    let _operation = sandbox.operation.read().await;
    if sandbox.state() != SandboxState::Ready {
        return Err(Error::precondition(format!("sandbox {} is not ready", sandbox.id)));
    }
    if let Some(id) = existing(engine, sandbox, &config)? {
        return Ok(id);
    }
    let images = Images::find(engine, &config)?;
    let id = new_id();
    let (record, built, images) = plan(engine, sandbox, id, config, images).await?;
    let container = Arc::new(Container::new(record));
    container.keep(images.leases);
    engine.store.save_container(&container)?;
    engine.store.containers.insert(Arc::clone(&container));
    match make(engine, sandbox, &container, built, images.layers).await {
        Ok(()) => Ok(container.id.clone()),
        Err(error) => Err(error.and_cleanup(remove_in_sandbox(engine, &container).await)),
    }
}

fn existing(engine: &Engine, sandbox: &Sandbox, config: &v1::ContainerConfig) -> Result<Option<String>> {
    let mut others = engine.store.containers_of(&sandbox.id).into_iter();
    let Some(container) = others.find(|container| container.config().metadata == config.metadata) else {
        return Ok(None);
    };
    if matches!(container.state(), ContainerState::Created { .. }) && container.config() == config {
        return Ok(Some(container.id.clone()));
    }
    Err(Error::new(
        Kind::AlreadyExists,
        format!("container {} has the same name and attempt: use the next attempt, or remove it", container.id),
    ))
}

/// The images of a container, held from here on.
#[derive(Debug)]
struct Images {
    image: Arc<Image>,
    /// Of the root filesystem, top first.
    layers: Vec<PathBuf>,
    /// By the place of the mount in the config.
    volumes: HashMap<usize, ImageVolume>,
    volume_ids: Vec<String>,
    leases: Vec<ImageLease>,
}

impl Images {
    fn find(engine: &Engine, config: &v1::ContainerConfig) -> Result<Images> {
        let name = config.image.as_ref().map(|spec| spec.image.as_str()).unwrap_or_default();
        let image = find_image(engine, name)?;
        let mut leases = vec![lease(engine, &image)?];
        let mut volumes = HashMap::new();
        let mut volume_ids = Vec::new();
        for (place, name) in spec::image_mounts(config) {
            let volume = find_image(engine, &name)?;
            leases.push(lease(engine, &volume)?);
            volumes.insert(place, ImageVolume { layers: layers(engine, &volume)? });
            volume_ids.push(volume.id.to_string());
        }
        Ok(Images { layers: layers(engine, &image)?, image, volumes, volume_ids, leases })
    }
}

fn find_image(engine: &Engine, name: &str) -> Result<Arc<Image>> {
    if name.is_empty() {
        return Err(Error::invalid("the container names no image"));
    }
    engine
        .images
        .find(name)
        .context(Kind::InvalidArgument, || format!("look for image {name}"))?
        .ok_or_else(|| Error::not_found(format!("image {name} is not on this node: pull it first")))
}

fn lease(engine: &Engine, image: &Image) -> Result<ImageLease> {
    engine.images.lease(&image.id).step(|| format!("hold image {}", image.id))
}

fn layers(engine: &Engine, image: &Image) -> Result<Vec<PathBuf>> {
    engine.images.layers(&image.id).step(|| format!("find the layers of image {}", image.id))
}

/// Checks the whole request and makes the spec; nothing but missing host folders is made yet.
async fn plan(
    engine: &Shared,
    sandbox: &Arc<Sandbox>,
    id: String,
    config: v1::ContainerConfig,
    images: Images,
) -> Result<(ContainerRecord, Built, Images)> {
    let stop_signal = spec::stop_signal(&config, images.image.config.process.stop_signal.as_deref())?;
    let log_path = log_path(&sandbox.config.log_directory, &config.log_path)?;
    let target_pid = target(engine, sandbox, &config)?.and_then(|target| target.pid());
    let name = config.metadata.as_ref().map(|metadata| metadata.name.as_str()).unwrap_or_default();
    let key = format!("{}/{name}", sandbox.id);
    let foreign = engine.foreign.clone();
    let (engine, sandbox) = (Arc::clone(engine), Arc::clone(sandbox));
    let work = move || {
        let built = spec::build(&Inputs {
            id: &id,
            config: &config,
            sandbox: &sandbox,
            pod_dir: &engine.config.pod_dir(&sandbox.id),
            image: &images.image.config.process,
            layers: &images.layers,
            volumes: &images.volumes,
            target_pid,
            host: &engine.host,
        })?;
        let record = ContainerRecord {
            cgroup: sandbox.cgroup.join(&id),
            id,
            sandbox: sandbox.id.clone(),
            image: images.image.id.to_string(),
            image_ref: images.image.repo_digests.first().cloned().unwrap_or_else(|| images.image.id.to_string()),
            created_at: now(),
            state: ContainerState::Creating,
            log_path,
            stop_signal,
            uid: built.user.uid,
            gid: built.user.gid,
            groups: built.user.groups.clone(),
            volume_images: images.volume_ids.clone(),
            resources: config.linux.as_ref().and_then(|linux| linux.resources.clone()).unwrap_or_default(),
            config,
        };
        Ok((record, built, images))
    };
    foreign.run(key, || "make the OCI spec".to_owned(), work).await
}

/// Below the sandbox's log folder, never out of it. No path, or no folder, means no log.
fn log_path(folder: &str, path: &str) -> Result<Option<PathBuf>> {
    if folder.is_empty() || path.is_empty() {
        return Ok(None);
    }
    if !Path::new(path).components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(Error::invalid(format!("log_path {path:?} is not a relative path without ..")));
    }
    Ok(Some(Path::new(folder).join(path)))
}

/// The container whose PID namespace is to be joined: one of the same pod that runs.
fn target(engine: &Engine, sandbox: &Sandbox, config: &v1::ContainerConfig) -> Result<Option<Arc<Container>>> {
    let security = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let options = security.and_then(|security| security.namespace_options.as_ref());
    let Some(options) = options.filter(|options| options.pid() == v1::NamespaceMode::Target) else { return Ok(None) };
    let target = engine.store.containers.find(&options.target_id)?;
    if target.sandbox != sandbox.id {
        return Err(Error::invalid(format!("target_id: container {} is not of sandbox {}", target.id, sandbox.id)));
    }
    if !target.is_running() {
        return Err(Error::precondition(format!("target_id: container {} does not run", target.id)));
    }
    Ok(Some(target))
}

async fn make(
    engine: &Shared,
    sandbox: &Arc<Sandbox>,
    container: &Arc<Container>,
    built: Built,
    layers: Vec<PathBuf>,
) -> Result<()> {
    let shim = super::shim_of(engine, container)?;
    let rootfs = bundle::make(&engine.config, container, &built.spec, layers)?;
    if let Some(folder) = container.fixed().log_path.as_deref().and_then(Path::parent) {
        std::fs::create_dir_all(folder).step(|| format!("make the log folder {}", folder.display()))?;
    }
    let config = container.config();
    let target = target(engine, sandbox, config)?.map(|target| target.id.clone());
    let pid = shim
        .create(Create {
            id: container.id.clone(),
            bundle: engine.config.bundle(&container.sandbox, &container.id),
            rootfs,
            target,
            oci_runtime: engine.config.oci_runtime(&sandbox.runtime_handler).map(Path::to_owned),
            stdin: config.stdin,
            stdin_once: config.stdin_once,
            tty: config.tty,
            log_path: container.fixed().log_path.clone(),
        })
        .await
        .map_err(|error| refused(format!("create container {}", container.id), error))?;
    container.created(pid);
    engine.store.save_container(container)?;
    events::send(engine, container, v1::ContainerEventType::ContainerCreatedEvent);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::log_path;
    use std::path::Path;

    #[test]
    fn logs_stay_in_their_folder() {
        assert_eq!(log_path("/var/log/pods/x", "c/0.log").unwrap().unwrap(), Path::new("/var/log/pods/x/c/0.log"));
        assert_eq!(log_path("", "c/0.log").unwrap(), None);
        assert_eq!(log_path("/x", "").unwrap(), None);
        for path in ["../x", "/etc/shadow", "a/../../b", "./x"] {
            assert!(log_path("/x", path).is_err(), "{path}");
        }
    }
}
