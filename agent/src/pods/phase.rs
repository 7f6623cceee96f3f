//! A pod's phase from its containers' statuses. Pure.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, PodSpec};

use super::actions::restarts;
use crate::resources::{init_containers, is_sidecar};

/// A pod's phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl Phase {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }

    pub(super) fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

fn state(status: &ContainerStatus) -> (bool, Option<&ContainerStateTerminated>) {
    let state = status.state.as_ref();
    let running = state.is_some_and(|s| s.running.is_some());
    (running, state.and_then(|s| s.terminated.as_ref()))
}

/// The end of a container that waits for its next start.
fn last_end(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    status.last_state.as_ref().and_then(|s| s.terminated.as_ref())
}

/// The phase that the containers' statuses add up to; `ending` when none of them is started again.
pub(super) fn of(spec: &PodSpec, init: &[ContainerStatus], apps: &[ContainerStatus], ending: bool) -> Phase {
    let mut pending_init = false;
    for (container, status) in init_containers(spec).iter().zip(init) {
        if is_sidecar(container) {
            continue;
        }
        let (_, ended) = state(status);
        match ended.or_else(|| last_end(status)) {
            Some(end) if end.exit_code == 0 => {}
            Some(end) if !restarts(spec, container, end.exit_code) => return Phase::Failed,
            _ => pending_init = true,
        }
    }
    let (mut waiting, mut running, mut restarting, mut good, mut bad) = (0, 0, 0, 0, 0);
    for (container, status) in spec.containers.iter().zip(apps) {
        match state(status) {
            (true, _) => running += 1,
            (_, Some(end)) => {
                if !ending && restarts(spec, container, end.exit_code) {
                    restarting += 1;
                }
                if end.exit_code == 0 { good += 1 } else { bad += 1 }
            }
            _ if last_end(status).is_some() => {
                restarting += 1;
                bad += 1;
            }
            _ => waiting += 1,
        }
    }
    match () {
        () if pending_init && running + good + bad == 0 && !ending => Phase::Pending,
        () if waiting > 0 && !ending => Phase::Pending,
        () if running > 0 => Phase::Running,
        () if ending && waiting == apps.len() => Phase::Failed,
        () if restarting > 0 && !ending => Phase::Running,
        () if bad == 0 && good > 0 && waiting == 0 => Phase::Succeeded,
        () => Phase::Failed,
    }
}
