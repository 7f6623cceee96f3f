//! PodSandboxStats.

use orlop_proto::v1;

use super::{container, files};
use crate::engine::{Engine, now};
use crate::store::{Sandbox, SandboxState};

/// What a pod uses now. Blocks.
pub(crate) fn pod(engine: &Engine, sandbox: &Sandbox) -> v1::PodSandboxStats {
    let at = now();
    let containers = engine.store.containers_of(&sandbox.id);
    let ready = sandbox.state() == SandboxState::Ready;
    let network_of = containers.iter().find_map(|container| container.pid());
    v1::PodSandboxStats {
        attributes: Some(v1::PodSandboxAttributes {
            id: sandbox.id.clone(),
            metadata: sandbox.config.metadata.clone(),
            labels: sandbox.config.labels.clone(),
            annotations: sandbox.config.annotations.clone(),
        }),
        linux: Some(v1::LinuxPodSandboxStats {
            cpu: ready.then(|| files::cpu(&engine.cgroups, &sandbox.cgroup, &sandbox.cpu, at)).flatten(),
            memory: ready.then(|| files::memory(&engine.cgroups, &sandbox.cgroup, at)).flatten(),
            network: network_of.and_then(|pid| files::network(pid, at)),
            process: ready.then(|| files::processes(&engine.cgroups, &sandbox.cgroup, at)).flatten(),
            containers: containers
                .iter()
                .filter(|each| each.is_running())
                .map(|each| container(engine, each))
                .collect(),
            io: ready.then(|| files::io(&engine.cgroups, &sandbox.cgroup, at)).flatten(),
        }),
        windows: None,
    }
}
