//! Objects of the store as messages of the protocol.

use orlop_proto::v1;

use crate::engine::Engine;
use crate::store::{Container, ContainerState, Sandbox, SandboxState};

pub(crate) fn sandbox_state(sandbox: &Sandbox) -> v1::PodSandboxState {
    match sandbox.state() {
        SandboxState::Ready => v1::PodSandboxState::SandboxReady,
        SandboxState::Creating | SandboxState::NotReady => v1::PodSandboxState::SandboxNotready,
    }
}

pub(crate) fn sandbox_item(sandbox: &Sandbox) -> v1::PodSandbox {
    v1::PodSandbox {
        id: sandbox.id.clone(),
        metadata: sandbox.config.metadata.clone(),
        state: sandbox_state(sandbox) as i32,
        created_at: sandbox.created_at,
        labels: sandbox.config.labels.clone(),
        annotations: sandbox.config.annotations.clone(),
        runtime_handler: sandbox.runtime_handler.clone(),
    }
}

pub(crate) fn sandbox(sandbox: &Sandbox) -> v1::PodSandboxStatus {
    let mut addresses = sandbox.addresses().into_iter();
    let ip = addresses.next().unwrap_or_default();
    v1::PodSandboxStatus {
        id: sandbox.id.clone(),
        metadata: sandbox.config.metadata.clone(),
        state: sandbox_state(sandbox) as i32,
        created_at: sandbox.created_at,
        network: Some(v1::PodSandboxNetworkStatus {
            ip,
            additional_ips: addresses.map(|ip| v1::PodIp { ip }).collect(),
        }),
        linux: Some(v1::LinuxPodSandboxStatus {
            namespaces: Some(v1::Namespace { options: Some(sandbox.namespace_options()) }),
        }),
        labels: sandbox.config.labels.clone(),
        annotations: sandbox.config.annotations.clone(),
        runtime_handler: sandbox.runtime_handler.clone(),
    }
}

/// The statuses of a pod's containers that clients may see.
pub(crate) fn containers_of(engine: &Engine, sandbox: &Sandbox) -> Vec<v1::ContainerStatus> {
    let containers = engine.store.containers_of(&sandbox.id);
    containers.iter().filter(|container| is_visible(container)).map(|each| container(engine, each)).collect()
}

/// CreateContainer has answered, or is about to.
pub(crate) fn is_visible(container: &Container) -> bool {
    container.state() != ContainerState::Creating
}

pub(crate) fn container_state(container: &Container) -> v1::ContainerState {
    match container.state() {
        ContainerState::Creating => v1::ContainerState::ContainerUnknown,
        ContainerState::Created { .. } => v1::ContainerState::ContainerCreated,
        ContainerState::Running { .. } => v1::ContainerState::ContainerRunning,
        ContainerState::Exited(_) => v1::ContainerState::ContainerExited,
    }
}

pub(crate) fn container_item(container: &Container) -> v1::Container {
    let fixed = container.fixed();
    v1::Container {
        id: container.id.clone(),
        pod_sandbox_id: container.sandbox.clone(),
        metadata: fixed.config.metadata.clone(),
        image: fixed.config.image.clone(),
        image_ref: fixed.image_ref.clone(),
        image_id: fixed.image.clone(),
        state: container_state(container) as i32,
        created_at: fixed.created_at,
        labels: fixed.config.labels.clone(),
        annotations: fixed.config.annotations.clone(),
    }
}

pub(crate) fn container(engine: &Engine, container: &Container) -> v1::ContainerStatus {
    let fixed = container.fixed();
    let mut status = v1::ContainerStatus {
        id: container.id.clone(),
        metadata: fixed.config.metadata.clone(),
        state: container_state(container) as i32,
        created_at: fixed.created_at,
        image: Some(image_spec(engine, container)),
        image_ref: fixed.image_ref.clone(),
        image_id: fixed.image.clone(),
        labels: fixed.config.labels.clone(),
        annotations: fixed.config.annotations.clone(),
        mounts: fixed.config.mounts.clone(),
        log_path: fixed.log_path.as_deref().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default(),
        resources: Some(v1::ContainerResources { linux: Some(container.resources()), windows: None }),
        user: Some(v1::ContainerUser {
            linux: Some(v1::LinuxContainerUser {
                uid: fixed.uid.into(),
                gid: fixed.gid.into(),
                supplemental_groups: fixed.groups.iter().map(|&gid| gid.into()).collect(),
            }),
        }),
        stop_signal: stop_signal(fixed.stop_signal) as i32,
        ..Default::default()
    };
    match container.state() {
        ContainerState::Creating | ContainerState::Created { .. } => {}
        ContainerState::Running { started_at, .. } => status.started_at = started_at,
        ContainerState::Exited(exit) => {
            status.started_at = exit.started_at;
            status.finished_at = exit.finished_at;
            status.exit_code = exit.code;
            status.reason = exit.reason;
            status.message = exit.message;
        }
    }
    status
}

/// The image by a name that people know, while the store has one for it.
fn image_spec(engine: &Engine, container: &Container) -> v1::ImageSpec {
    let mut spec = container.config().image.clone().unwrap_or_default();
    if let Ok(Some(image)) = engine.images.find(&container.fixed().image)
        && let Some(tag) = image.tags.first()
    {
        spec.image.clone_from(tag);
    }
    spec
}

/// The protocol's name of a signal's number.
fn stop_signal(number: i32) -> v1::Signal {
    let name = match number {
        34 => "SIGRTMIN".to_owned(),
        35..=49 => format!("SIGRTMINPLUS{}", number - 34),
        50..=63 => format!("SIGRTMAXMINUS{}", 64 - number),
        64 => "SIGRTMAX".to_owned(),
        _ => nix::sys::signal::Signal::try_from(number).map(|signal| signal.as_str().to_owned()).unwrap_or_default(),
    };
    v1::Signal::from_str_name(&name).unwrap_or(v1::Signal::RuntimeDefault)
}

#[cfg(test)]
mod tests {
    use super::stop_signal;
    use orlop_proto::v1::Signal;

    #[test]
    fn signals_have_their_names() {
        assert_eq!(stop_signal(15), Signal::Sigterm);
        assert_eq!(stop_signal(37), Signal::Sigrtminplus3);
        assert_eq!(stop_signal(63), Signal::Sigrtmaxminus1);
        assert_eq!(stop_signal(0), Signal::RuntimeDefault);
    }
}
