//! UpdateContainerResources: new limits for a container that is there.

use orlop_proto::v1;

use super::{refused, shim_of};
use crate::engine::Shared;
use crate::error::{Error, Result};
use crate::spec;

pub(crate) async fn update(engine: &Shared, request: v1::UpdateContainerResourcesRequest) -> Result<()> {
    let container = engine.store.containers.find(&request.container_id)?;
    let asked = request.linux.ok_or_else(|| Error::invalid("no Linux resources to update to"))?;
    let _operation = container.operation.lock().await;
    if container.is_exited() {
        return Err(Error::precondition(format!("container {} has ended", container.id)));
    }
    let merged = merge(&container.resources(), &asked);
    let resources = spec::linux_resources(&asked, &engine.host)?;
    let updated = shim_of(engine, &container)?.update(&container.id, resources).await;
    updated.map_err(|error| refused(format!("update the limits of container {}", container.id), error))?;
    container.set_resources(merged);
    engine.store.save_container(&container)
}

/// What is set in `new` over what holds.
fn merge(old: &v1::LinuxContainerResources, new: &v1::LinuxContainerResources) -> v1::LinuxContainerResources {
    let number = |new: i64, old: i64| if new == 0 { old } else { new };
    let text = |new: &String, old: &String| if new.is_empty() { old.clone() } else { new.clone() };
    let mut unified = old.unified.clone();
    unified.extend(new.unified.clone());
    v1::LinuxContainerResources {
        cpu_period: number(new.cpu_period, old.cpu_period),
        cpu_quota: number(new.cpu_quota, old.cpu_quota),
        cpu_shares: number(new.cpu_shares, old.cpu_shares),
        memory_limit_in_bytes: number(new.memory_limit_in_bytes, old.memory_limit_in_bytes),
        memory_swap_limit_in_bytes: number(new.memory_swap_limit_in_bytes, old.memory_swap_limit_in_bytes),
        oom_score_adj: number(new.oom_score_adj, old.oom_score_adj),
        cpuset_cpus: text(&new.cpuset_cpus, &old.cpuset_cpus),
        cpuset_mems: text(&new.cpuset_mems, &old.cpuset_mems),
        hugepage_limits: if new.hugepage_limits.is_empty() {
            old.hugepage_limits.clone()
        } else {
            new.hugepage_limits.clone()
        },
        unified,
    }
}
