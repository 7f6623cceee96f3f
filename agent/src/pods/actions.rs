//! What has to be done so that the runtime agrees with a pod. Pure.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use orlop_proto::v1;

use super::runtime::{PodRuntime, Record, Sandbox};
use crate::container::{hash, keys};
use crate::probes::{Health, Kind};
use crate::resources::{init_containers, is_sidecar};

/// A container to stop, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kill {
    pub(super) id: String,
    pub(super) name: String,
    /// For the Killing event.
    pub(super) message: String,
    pub(super) probe: Option<Kind>,
}

/// What to do next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Actions {
    /// Stop everything the pod has, because its sandbox is no good or its work is done.
    pub(super) stop_pod: bool,
    /// Make a sandbox with this attempt number.
    pub(super) create_sandbox: Option<u32>,
    pub(super) kill: Vec<Kill>,
    /// Names of containers to start, in this order.
    pub(super) start: Vec<String>,
    /// Every init container that must end has ended well.
    pub(super) initialized: bool,
}

/// What the decision is made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) spec: &'a PodSpec,
    pub(super) runtime: &'a PodRuntime,
    /// By container id.
    pub(super) health: &'a HashMap<String, Health>,
}

/// Whether an ended container is started again, by its own or the pod's policy.
pub(super) fn restarts(spec: &PodSpec, container: &Container, exit_code: i32) -> bool {
    let own = container.restart_policy.as_deref();
    match own.or(spec.restart_policy.as_deref()).unwrap_or("Always") {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}

/// Decides.
pub(super) fn compute(view: View<'_>) -> Actions {
    match usable_sandbox(view) {
        Some(sandbox) => in_sandbox(view, sandbox),
        None => new_sandbox(view),
    }
}

/// The newest sandbox, if the pod can go on in it.
fn usable_sandbox(view: View<'_>) -> Option<&Sandbox> {
    let wants_host = view.spec.host_network == Some(true);
    let mut ready = view.runtime.sandboxes.iter().filter(|s| s.ready);
    let newest = view.runtime.sandbox().filter(|s| s.ready)?;
    let only = ready.nth(1).is_none();
    let has_network = wants_host || !newest.ips.is_empty();
    let fits = newest.host_network == wants_host;
    (only && has_network && fits).then_some(newest)
}

fn new_sandbox(view: View<'_>) -> Actions {
    let spec = view.spec;
    let attempt = view.runtime.sandbox().map_or(0, |s| s.attempt + 1);
    let ran = |c: &Container| view.runtime.newest(&c.name);
    let wanted: Vec<String> = spec
        .containers
        .iter()
        .filter(|c| ran(c).is_none_or(|r| !r.has_ended() || restarts(spec, c, r.status.exit_code)))
        .map(|c| c.name.clone())
        .collect();
    let began = spec.containers.iter().any(|c| ran(c).is_some());
    let never = spec.restart_policy.as_deref() == Some("Never");
    let stop_pod = !view.runtime.sandboxes.is_empty();
    if wanted.is_empty() || (never && began && attempt > 0) {
        return Actions { stop_pod, initialized: true, ..Actions::default() };
    }
    let init = init_containers(spec).first();
    Actions {
        stop_pod,
        create_sandbox: Some(attempt),
        start: init.map_or(wanted, |c| vec![c.name.clone()]),
        initialized: init.is_none(),
        kill: Vec::new(),
    }
}

fn in_sandbox(view: View<'_>, sandbox: &Sandbox) -> Actions {
    let mut actions = Actions::default();
    actions.initialized = init_step(view, sandbox, &mut actions);
    if !actions.initialized {
        return actions;
    }
    for container in &view.spec.containers {
        app_step(view, container, &mut actions);
    }
    let works = view
        .spec
        .containers
        .iter()
        .any(|c| actions.start.contains(&c.name) || view.runtime.newest(&c.name).is_some_and(|r| r.is_running()));
    if !works {
        // Sidecars alone do not keep a pod.
        return Actions { stop_pod: true, initialized: true, ..Actions::default() };
    }
    actions
}

/// Moves the init containers on; true when the app containers may run.
fn init_step(view: View<'_>, sandbox: &Sandbox, actions: &mut Actions) -> bool {
    let spec = view.spec;
    let here = |name: &str| {
        let newest = view.runtime.newest(name);
        newest.filter(|r| r.sandbox_id == sandbox.id)
    };
    // Ended init containers may have been removed behind us; app containers are the proof.
    let apps_began = spec.containers.iter().any(|c| here(&c.name).is_some());
    for container in init_containers(spec) {
        let sidecar = is_sidecar(container);
        match here(&container.name) {
            None if apps_began && !sidecar => {}
            None => {
                actions.start.push(container.name.clone());
                if !apps_began {
                    return false;
                }
            }
            Some(record) if record.is_running() => {
                if let Some(kill) = to_kill(view, container, record) {
                    actions.kill.push(kill);
                }
                let started = view.health.get(record.id()).is_none_or(|h| h.started);
                if !apps_began && (!sidecar || !started) {
                    return false;
                }
            }
            Some(record) if record.has_ended() && !sidecar && (apps_began || record.status.exit_code == 0) => {}
            Some(record) => {
                let again = sidecar || !record.has_ended() || restarts(spec, container, record.status.exit_code);
                if again {
                    actions.start.push(container.name.clone());
                } else {
                    actions.stop_pod = true;
                }
                if !apps_began {
                    return false;
                }
            }
        }
    }
    true
}

fn app_step(view: View<'_>, container: &Container, actions: &mut Actions) {
    match view.runtime.newest(&container.name) {
        None => actions.start.push(container.name.clone()),
        Some(record) if record.is_running() => {
            actions.kill.extend(to_kill(view, container, record));
        }
        Some(record) if record.status.state() == v1::ContainerState::ContainerCreated => {
            actions.start.push(container.name.clone());
        }
        Some(record) => {
            if restarts(view.spec, container, record.status.exit_code) {
                actions.start.push(container.name.clone());
            }
        }
    }
}

/// Why a running container must not go on, if so.
fn to_kill(view: View<'_>, container: &Container, record: &Record) -> Option<Kill> {
    let name = &container.name;
    let failed = view.health.get(record.id()).and_then(|h| h.failed);
    let changed = record.annotation(keys::HASH).is_some_and(|h| h != hash(container));
    let message = match failed {
        Some(Kind::Startup) => format!("Container {name} failed startup probe, will be restarted"),
        Some(_) => format!("Container {name} failed liveness probe, will be restarted"),
        None if changed => format!("Container {name} definition changed, will be restarted"),
        None => return None,
    };
    Some(Kill { id: record.id().to_owned(), name: name.clone(), message, probe: failed })
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    pub(in crate::pods) fn spec(value: serde_json::Value) -> PodSpec {
        serde_json::from_value(value).expect("a spec")
    }

    pub(in crate::pods) fn sandbox(id: &str, attempt: u32, ready: bool) -> Sandbox {
        Sandbox {
            id: id.to_owned(),
            attempt,
            ready,
            created_at: 1,
            ips: vec!["10.0.0.2".to_owned()],
            host_network: false,
        }
    }

    pub(in crate::pods) fn record(name: &str, sandbox: &str, state: v1::ContainerState, exit_code: i32) -> Arc<Record> {
        Arc::new(Record {
            sandbox_id: sandbox.to_owned(),
            message: None,
            status: v1::ContainerStatus {
                id: format!("{name}-id"),
                metadata: Some(v1::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
                state: state.into(),
                exit_code,
                created_at: 1_000_000_000,
                started_at: 2_000_000_000,
                finished_at: 3_000_000_000,
                ..v1::ContainerStatus::default()
            },
        })
    }

    const RUNNING: v1::ContainerState = v1::ContainerState::ContainerRunning;
    const EXITED: v1::ContainerState = v1::ContainerState::ContainerExited;

    fn decide(spec: &PodSpec, sandboxes: Vec<Sandbox>, containers: Vec<Arc<Record>>) -> Actions {
        decide_with(spec, sandboxes, containers, &HashMap::new())
    }

    fn decide_with(
        spec: &PodSpec,
        sandboxes: Vec<Sandbox>,
        containers: Vec<Arc<Record>>,
        health: &HashMap<String, Health>,
    ) -> Actions {
        let runtime = PodRuntime { sandboxes, containers };
        compute(View { spec, runtime: &runtime, health })
    }

    #[test]
    fn a_new_pod_gets_a_sandbox_and_its_containers() {
        let spec = spec(json!({"containers": [{"name": "a"}, {"name": "b"}]}));
        let actions = decide(&spec, vec![], vec![]);
        assert_eq!(actions.create_sandbox, Some(0));
        assert_eq!(actions.start, ["a", "b"]);
        assert!(!actions.stop_pod);
    }

    #[test]
    fn init_containers_come_one_by_one() {
        let spec = spec(json!({"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}]}));
        assert_eq!(decide(&spec, vec![], vec![]).start, ["i"]);
        let s = || vec![sandbox("s", 0, true)];
        assert!(decide(&spec, s(), vec![record("i", "s", RUNNING, 0)]).start.is_empty());
        assert_eq!(decide(&spec, s(), vec![record("i", "s", EXITED, 0)]).start, ["j"]);
        assert_eq!(decide(&spec, s(), vec![record("i", "s", EXITED, 1)]).start, ["i"]);
        let both = vec![record("i", "s", EXITED, 0), record("j", "s", EXITED, 0)];
        assert_eq!(decide(&spec, s(), both).start, ["a"]);
    }

    #[test]
    fn a_failed_init_container_ends_a_pod_that_never_restarts() {
        let spec =
            spec(json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}));
        let actions = decide(&spec, vec![sandbox("s", 0, true)], vec![record("i", "s", EXITED, 1)]);
        assert!(actions.stop_pod && actions.start.is_empty());
    }

    #[test]
    fn sidecars_wait_for_their_startup_probe_and_do_not_keep_a_pod() {
        let spec = spec(json!({"restartPolicy": "Never",
            "initContainers": [{"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "a"}]}));
        let sandboxes = || vec![sandbox("s", 0, true)];
        let not_started = HashMap::from([("s-id".to_owned(), Health::default())]);
        let side = record("s", "s", RUNNING, 0);
        assert!(decide_with(&spec, sandboxes(), vec![side.clone()], &not_started).start.is_empty());
        assert_eq!(decide(&spec, sandboxes(), vec![side.clone()]).start, ["a"]);
        let done = decide(&spec, sandboxes(), vec![record("a", "s", EXITED, 0), side]);
        assert!(done.stop_pod);
    }

    #[test]
    fn restart_policy() {
        for (policy, code, again) in
            [("Always", 0, true), ("OnFailure", 0, false), ("OnFailure", 1, true), ("Never", 1, false)]
        {
            let spec = spec(json!({"restartPolicy": policy, "containers": [{"name": "a"}]}));
            let actions = decide(&spec, vec![sandbox("s", 0, true)], vec![record("a", "s", EXITED, code)]);
            assert_eq!(actions.start == ["a"], again, "{policy} {code}");
            assert_eq!(actions.stop_pod, !again, "{policy} {code}");
        }
    }

    #[test]
    fn a_dead_sandbox_is_replaced() {
        let spec = spec(json!({"containers": [{"name": "a"}]}));
        let actions = decide(&spec, vec![sandbox("s", 3, false)], vec![record("a", "s", EXITED, 137)]);
        assert_eq!(actions.create_sandbox, Some(4));
        assert!(actions.stop_pod);
        assert_eq!(actions.start, ["a"]);
    }

    #[test]
    fn a_failed_liveness_probe_kills() {
        let spec = spec(json!({"containers": [{"name": "a"}]}));
        let health =
            HashMap::from([("a-id".to_owned(), Health { ready: true, started: true, failed: Some(Kind::Liveness) })]);
        let actions = decide_with(&spec, vec![sandbox("s", 0, true)], vec![record("a", "s", RUNNING, 0)], &health);
        assert_eq!(actions.kill.len(), 1);
        assert_eq!(actions.kill[0].message, "Container a failed liveness probe, will be restarted");
    }
}
