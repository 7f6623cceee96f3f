//! ContainerStats.

use orlop_proto::v1;

use super::{DiskUsage, files};
use crate::engine::{Engine, now};
use crate::store::Container;

/// What the writable layer of a container takes. Blocks.
pub(crate) fn writable_layer(engine: &Engine, container: &Container) -> DiskUsage {
    container.disk.usage(&engine.config.upper(&container.id).join("upper"))
}

/// What a container uses now. Blocks: the writable layer is walked.
pub(crate) fn container(engine: &Engine, container: &Container) -> v1::ContainerStats {
    let at = now();
    let cgroup = &container.fixed().cgroup;
    let alive = container.is_running();
    let disk = writable_layer(engine, container);
    v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: container.id.clone(),
            metadata: container.config().metadata.clone(),
            labels: container.config().labels.clone(),
            annotations: container.config().annotations.clone(),
        }),
        cpu: alive.then(|| files::cpu(&engine.cgroups, cgroup, &container.cpu, at)).flatten(),
        memory: alive.then(|| files::memory(&engine.cgroups, cgroup, at)).flatten(),
        swap: alive.then(|| files::swap(&engine.cgroups, cgroup, at)).flatten(),
        io: alive.then(|| files::io(&engine.cgroups, cgroup, at)).flatten(),
        writable_layer: Some(v1::FilesystemUsage {
            timestamp: at,
            fs_id: Some(v1::FilesystemIdentifier { mountpoint: engine.config.uppers().to_string_lossy().into_owned() }),
            used_bytes: Some(v1::UInt64Value { value: disk.bytes }),
            inodes_used: Some(v1::UInt64Value { value: disk.inodes }),
        }),
    }
}
