//! A pod's status from what the runtime says. Pure.

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    ContainerUser, HostIP, LinuxContainerUser, Pod, PodIP, PodSpec, PodStatus, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use orlop_proto::v1;

use super::conditions;
use super::phase::{self, Phase};
use super::reasons::Reasons;
use super::runtime::{PodRuntime, Record, timestamp};
use crate::probes::Health;
use crate::resources::{Qos, all_containers, init_containers, is_sidecar};

/// The reason of a pod that was ended because its `activeDeadlineSeconds` are over.
pub(super) const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";
/// The termination messages of all containers of a pod together, bytes.
const MAX_MESSAGES: usize = 12 << 10;

/// What a status is made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Input<'a> {
    pub(super) pod: &'a Pod,
    pub(super) spec: &'a PodSpec,
    pub(super) runtime: &'a PodRuntime,
    pub(super) health: &'a HashMap<String, Health>,
    pub(super) reasons: &'a Reasons,
    /// The status told last.
    pub(super) old: &'a PodStatus,
    pub(super) node_ips: &'a [String],
    /// The runtime's name, for `containerd://<id>`.
    pub(super) runtime_name: &'a str,
    /// The pod is ending: what has stopped stays stopped.
    pub(super) ending: bool,
    pub(super) now: Timestamp,
}

/// Works out the whole status.
pub(super) fn generate(input: Input<'_>) -> PodStatus {
    let spec = input.spec;
    let old = |list: &Option<Vec<ContainerStatus>>, name: &str| list.iter().flatten().find(|s| s.name == name).cloned();
    let init: Vec<_> = init_containers(spec)
        .iter()
        .map(|c| container_status(input, c, old(&input.old.init_container_statuses, &c.name), true))
        .collect();
    let containers: Vec<_> = spec
        .containers
        .iter()
        .map(|c| container_status(input, c, old(&input.old.container_statuses, &c.name), false))
        .collect();
    let phase = phase::of(spec, &init, &containers, input.ending);
    // A pod that was ended has not succeeded, however well its processes took it.
    let overdue = input.ending && input.old.reason.as_deref() == Some(DEADLINE_EXCEEDED);
    let phase = if overdue { Phase::Failed } else { phase };
    // A terminal phase is told only when nothing runs any more.
    let phase = if phase.is_terminal() && input.runtime.any_running() { Phase::Running } else { phase };
    let host_network = spec.host_network == Some(true);
    let sandbox = input.runtime.sandbox().filter(|s| s.ready);
    let old_ips = || input.old.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
    let ips: Vec<String> = match sandbox {
        Some(_) if host_network => input.node_ips.to_vec(),
        Some(sandbox) if !sandbox.ips.is_empty() => sandbox.ips.clone(),
        _ => old_ips(),
    };
    let mut status = PodStatus {
        phase: Some(phase.name().to_owned()),
        reason: input.old.reason.clone(),
        message: input.old.message.clone(),
        host_ip: input.node_ips.first().cloned(),
        host_ips: Some(input.node_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect()),
        start_time: input.old.start_time.clone().or(Some(Time(input.now))),
        qos_class: Some(Qos::of(spec).name().to_owned()),
        init_container_statuses: (!init.is_empty()).then_some(init),
        container_statuses: Some(containers),
        observed_generation: input.pod.metadata.generation,
        ..PodStatus::default()
    };
    let has_network = sandbox.is_some_and(|s| host_network || !s.ips.is_empty());
    status.conditions =
        Some(conditions::all(conditions::Facts { spec, status: &status, old: input.old, has_network, now: input.now }));
    status
}

fn container_status(
    input: Input<'_>,
    container: &Container,
    old: Option<ContainerStatus>,
    is_init: bool,
) -> ContainerStatus {
    let records: Vec<&Record> = input.runtime.of(&container.name).map(AsRef::as_ref).collect();
    let Some((newest, older)) = records.split_first() else {
        return never_seen(input, container, old);
    };
    let previous = older.iter().find(|r| r.has_ended()).map(|r| terminated(input, r));
    let waiting = input.reasons.get(&container.name).filter(|_| !input.ending);
    let mut status = described(input, container, newest);
    status.last_state = previous.map(ended_state);
    if newest.is_running() {
        let health = input.health.get(newest.id()).copied();
        let health = health.unwrap_or_else(|| without_probes(container));
        let gates = !is_init || is_sidecar(container);
        status.started = Some(health.started);
        status.ready = gates && health.started && health.ready;
        status.state = Some(ContainerState {
            running: Some(ContainerStateRunning { started_at: timestamp(newest.status.started_at).map(Time) }),
            ..ContainerState::default()
        });
        return status;
    }
    status.started = Some(false);
    match (waiting, newest.has_ended()) {
        (Some(waiting), ended) => {
            status.state = Some(waiting_state(waiting.reason, &waiting.message));
            if ended {
                status.last_state = Some(ended_state(terminated(input, newest)));
            }
        }
        (None, true) => {
            let end = terminated(input, newest);
            status.ready = is_init && !is_sidecar(container) && end.exit_code == 0;
            status.state = Some(ended_state(end));
        }
        (None, false) => status.state = Some(waiting_state(default_reason(input.spec), "")),
    }
    status
}

fn without_probes(container: &Container) -> Health {
    Health { ready: container.readiness_probe.is_none(), started: container.startup_probe.is_none(), failed: None }
}

fn default_reason(spec: &PodSpec) -> &'static str {
    if init_containers(spec).is_empty() { "ContainerCreating" } else { "PodInitializing" }
}

/// The runtime knows no container of this name: it was never made, or it got lost.
fn never_seen(input: Input<'_>, container: &Container, old: Option<ContainerStatus>) -> ContainerStatus {
    let waiting = input.reasons.get(&container.name);
    let state = match waiting {
        Some(w) => waiting_state(w.reason, &w.message),
        None => waiting_state(default_reason(input.spec), ""),
    };
    let fresh = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        state: Some(state),
        started: Some(false),
        ..ContainerStatus::default()
    };
    let Some(old) = old else { return fresh };
    let old_state = old.state.clone().unwrap_or_default();
    if old_state.terminated.is_some() && waiting.is_none() {
        return old;
    }
    let mut status = ContainerStatus { restart_count: old.restart_count, last_state: old.last_state.clone(), ..fresh };
    if let Some(running) = old_state.running {
        let lost = ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".to_owned()),
            message: Some(
                "The container could not be located when the pod was deleted.  The container used to be Running"
                    .to_owned(),
            ),
            started_at: running.started_at,
            ..ContainerStateTerminated::default()
        };
        if input.ending {
            status.state = Some(ended_state(lost));
        } else {
            status.restart_count += 1;
            status.last_state = Some(ended_state(lost));
        }
    } else if old_state.terminated.is_some() {
        status.last_state = Some(ContainerState { terminated: old_state.terminated, ..ContainerState::default() });
    }
    status
}

/// What does not depend on the state.
fn described(input: Input<'_>, container: &Container, record: &Record) -> ContainerStatus {
    let of_runtime = record.status.image.as_ref().map(|i| i.image.as_str()).unwrap_or_default();
    let named = Some(of_runtime).filter(|i| !i.is_empty() && !i.starts_with("sha256:"));
    let user = record.status.user.as_ref().and_then(|u| u.linux.as_ref());
    let mounts = container.volume_mounts.iter().flatten().map(|m| VolumeMountStatus {
        name: m.name.clone(),
        mount_path: m.mount_path.clone(),
        read_only: m.read_only.filter(|r| *r),
        recursive_read_only: m.read_only.filter(|r| *r).map(|_| "Disabled".to_owned()),
        ..VolumeMountStatus::default()
    });
    let mounts: Vec<_> = mounts.collect();
    ContainerStatus {
        name: container.name.clone(),
        image: named.or(container.image.as_deref()).unwrap_or_default().to_owned(),
        image_id: record.status.image_ref.clone(),
        container_id: Some(format!("{}://{}", input.runtime_name, record.id())),
        restart_count: record.attempt() as i32,
        resources: container.resources.clone(),
        allocated_resources: container.resources.as_ref().and_then(|r| r.requests.clone()),
        volume_mounts: (!mounts.is_empty()).then_some(mounts),
        user: user.map(|u: &v1::LinuxContainerUser| ContainerUser {
            linux: Some(LinuxContainerUser {
                uid: u.uid,
                gid: u.gid,
                supplemental_groups: Some(u.supplemental_groups.clone()).filter(|g| !g.is_empty()),
            }),
        }),
        ..ContainerStatus::default()
    }
}

fn waiting_state(reason: &str, message: &str) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()).filter(|m| !m.is_empty()),
        }),
        ..ContainerState::default()
    }
}

fn ended_state(end: ContainerStateTerminated) -> ContainerState {
    ContainerState { terminated: Some(end), ..ContainerState::default() }
}

fn terminated(input: Input<'_>, record: &Record) -> ContainerStateTerminated {
    let status = &record.status;
    let containers = all_containers(input.spec).count().max(1);
    let message = record.message.clone().map(|mut m| {
        m.truncate(m.floor_char_boundary(MAX_MESSAGES / containers));
        m
    });
    let reason = match status.reason.as_str() {
        "" if status.exit_code == 0 => "Completed",
        "" => "Error",
        given => given,
    };
    let given = Some(status.message.clone()).filter(|m| !m.is_empty());
    ContainerStateTerminated {
        exit_code: status.exit_code,
        reason: Some(reason.to_owned()),
        message: message.or(given),
        started_at: timestamp(status.started_at).map(Time),
        finished_at: timestamp(status.finished_at).map(Time),
        container_id: Some(format!("{}://{}", input.runtime_name, record.id())),
        signal: None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use serde_json::json;

    use super::super::actions::tests::{record, sandbox, spec};
    use super::super::reasons::Waiting;
    use super::*;

    const RUNNING: v1::ContainerState = v1::ContainerState::ContainerRunning;
    const EXITED: v1::ContainerState = v1::ContainerState::ContainerExited;

    fn make(
        spec: &PodSpec,
        containers: Vec<Arc<Record>>,
        reasons: &Reasons,
        old: &PodStatus,
        ending: bool,
    ) -> PodStatus {
        let runtime = PodRuntime { sandboxes: vec![sandbox("s", 0, true)], containers };
        generate(Input {
            pod: &Pod::default(),
            spec,
            runtime: &runtime,
            health: &HashMap::new(),
            reasons,
            old,
            node_ips: &["192.0.2.1".to_owned()],
            runtime_name: "orlop",
            ending,
            now: Timestamp::from_second(100).expect("a time"),
        })
    }

    fn simple(spec: &PodSpec, containers: Vec<Arc<Record>>) -> PodStatus {
        make(spec, containers, &Reasons::default(), &PodStatus::default(), false)
    }

    fn phase_of(status: &PodStatus) -> &str {
        status.phase.as_deref().unwrap_or_default()
    }

    fn condition(status: &PodStatus, kind: &str) -> (String, Option<String>, Option<String>) {
        let found = status.conditions.iter().flatten().find(|c| c.type_ == kind).expect("the condition");
        (found.status.clone(), found.reason.clone(), found.message.clone())
    }

    #[test]
    fn fresh_pod_waits_visibly() {
        let one = spec(json!({"containers": [{"name": "a", "image": "x"}]}));
        let status = simple(&one, vec![]);
        assert_eq!(phase_of(&status), "Pending");
        let container = &status.container_statuses.as_ref().expect("statuses")[0];
        let waiting = container.state.as_ref().and_then(|s| s.waiting.as_ref()).expect("waiting");
        assert_eq!(waiting.reason.as_deref(), Some("ContainerCreating"));
        assert_eq!(
            condition(&status, "Ready"),
            (
                "False".to_owned(),
                Some("ContainersNotReady".to_owned()),
                Some("containers with unready status: [a]".to_owned())
            )
        );
        let with_init = spec(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}));
        let status = simple(&with_init, vec![record("i", "s", RUNNING, 0)]);
        assert_eq!(phase_of(&status), "Pending");
        assert_eq!(
            condition(&status, "Initialized"),
            (
                "False".to_owned(),
                Some("ContainersNotInitialized".to_owned()),
                Some("containers with incomplete status: [i]".to_owned())
            )
        );
    }

    #[test]
    fn running_and_ready() {
        let one = spec(json!({"containers": [{"name": "a"}]}));
        let status = simple(&one, vec![record("a", "s", RUNNING, 0)]);
        assert_eq!(phase_of(&status), "Running");
        assert_eq!(condition(&status, "Ready").0, "True");
        assert_eq!(condition(&status, "PodReadyToStartContainers").0, "True");
        assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.2"));
    }

    #[test]
    fn ends_by_policy() {
        for (policy, code, phase) in [
            ("Never", 0, "Succeeded"),
            ("Never", 1, "Failed"),
            ("OnFailure", 0, "Succeeded"),
            ("OnFailure", 1, "Running"),
            ("Always", 0, "Running"),
        ] {
            let one = spec(json!({"restartPolicy": policy, "containers": [{"name": "a"}]}));
            let status = simple(&one, vec![record("a", "s", EXITED, code)]);
            assert_eq!(phase_of(&status), phase, "{policy} {code}");
        }
        let two = spec(json!({"restartPolicy": "Never", "containers": [{"name": "a"}, {"name": "b"}]}));
        let status = simple(&two, vec![record("a", "s", EXITED, 1), record("b", "s", RUNNING, 0)]);
        assert_eq!(phase_of(&status), "Running");
    }

    #[test]
    fn crash_loop_shows_the_last_end() {
        let one = spec(json!({"containers": [{"name": "a"}]}));
        let mut reasons = Reasons::default();
        let waiting = Waiting { reason: "CrashLoopBackOff", message: "back-off 10s".to_owned() };
        reasons.set("a", waiting, Duration::from_secs(10));
        let status = make(&one, vec![record("a", "s", EXITED, 3)], &reasons, &PodStatus::default(), false);
        assert_eq!(phase_of(&status), "Running");
        let container = &status.container_statuses.as_ref().expect("statuses")[0];
        let last = container.last_state.as_ref().and_then(|s| s.terminated.as_ref()).expect("an end");
        assert_eq!((last.exit_code, last.reason.as_deref()), (3, Some("Error")));
        assert!(container.state.as_ref().is_some_and(|s| s.waiting.is_some()));
    }

    #[test]
    fn a_lost_container_is_told() {
        let one = spec(json!({"containers": [{"name": "a"}]}));
        let old: PodStatus = serde_json::from_value(json!({"containerStatuses": [{
            "name": "a", "image": "x", "imageID": "", "ready": true, "restartCount": 2,
            "state": {"running": {}}}]}))
        .expect("a status");
        let status = make(&one, vec![], &Reasons::default(), &old, false);
        let container = &status.container_statuses.as_ref().expect("statuses")[0];
        assert_eq!(container.restart_count, 3);
        let last = container.last_state.as_ref().and_then(|s| s.terminated.as_ref()).expect("an end");
        assert_eq!(last.reason.as_deref(), Some("ContainerStatusUnknown"));
    }

    #[test]
    fn a_pod_past_its_deadline_fails_however_its_containers_end() {
        let one = spec(json!({"containers": [{"name": "a"}]}));
        let old = PodStatus { reason: Some(DEADLINE_EXCEEDED.to_owned()), ..PodStatus::default() };
        let told =
            |state| phase_of(&make(&one, vec![record("a", "s", state, 0)], &Reasons::default(), &old, true)).to_owned();
        assert_eq!((told(RUNNING).as_str(), told(EXITED).as_str()), ("Running", "Failed"));
    }

    #[test]
    fn many_termination_messages_are_cut() {
        let containers: Vec<_> = (0..6).map(|n| json!({"name": n.to_string()})).collect();
        let six = spec(json!({"restartPolicy": "Never", "containers": containers}));
        let mut ended = record("0", "s", EXITED, 1);
        Arc::make_mut(&mut ended).message = Some("x".repeat(4096));
        let status = simple(&six, vec![ended]);
        let container = &status.container_statuses.as_ref().expect("statuses")[0];
        let end = container.state.as_ref().and_then(|s| s.terminated.as_ref()).expect("an end");
        assert_eq!(end.message.as_ref().map(String::len), Some(2048));
    }

    #[test]
    fn a_deleted_pod_ends_whatever_its_policy() {
        let one = spec(json!({"containers": [{"name": "a"}]}));
        let status = make(&one, vec![record("a", "s", EXITED, 0)], &Reasons::default(), &PodStatus::default(), true);
        assert_eq!(phase_of(&status), "Succeeded");
        let status = make(&one, vec![record("a", "s", EXITED, 137)], &Reasons::default(), &PodStatus::default(), true);
        assert_eq!(phase_of(&status), "Failed");
    }
}
