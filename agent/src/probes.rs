//! Probes: one task for each probe of each running container, reporting to the pod's worker.

mod run;
mod tally;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::cri::Cri;
use crate::events::{Recorder, container_reference};
use crate::sync::lock;
use run::{Outcome, Target};
use tally::Tally;

/// What a probe decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Startup,
    Readiness,
    Liveness,
}

impl Kind {
    /// As events spell it.
    fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }

    /// The container's probe of this kind.
    pub(crate) fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
        }
    }
}

/// What is known about one container by its probes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Health {
    pub(crate) ready: bool,
    pub(crate) started: bool,
    /// The probe whose failure asks for a restart.
    pub(crate) failed: Option<Kind>,
}

/// A running container to be probed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Running<'a> {
    pub(crate) container: &'a Container,
    pub(crate) id: &'a str,
    pub(crate) started_at: Timestamp,
    /// It ran before this agent did, with this state in the API.
    pub(crate) adopted: Option<Health>,
}

/// The probes of one pod.
#[derive(Debug)]
pub(crate) struct Probes {
    cri: Cri,
    events: Recorder,
    wake: Arc<Notify>,
    tasks: HashMap<(String, Kind), AbortHandle>,
    health: Arc<Mutex<HashMap<String, Health>>>,
}

impl Drop for Probes {
    fn drop(&mut self) {
        for task in self.tasks.values() {
            task.abort();
        }
    }
}

impl Probes {
    pub(crate) fn new(cri: Cri, events: Recorder, wake: Arc<Notify>) -> Self {
        Self { cri, events, wake, tasks: HashMap::new(), health: Arc::default() }
    }

    /// What is known of a container; without probes, running is started and ready.
    pub(crate) fn health(&self, id: &str) -> Option<Health> {
        lock(&self.health).get(id).copied()
    }

    /// Starts what is missing and stops what is over. While the pod ends, only readiness goes on.
    pub(crate) fn reconcile(&mut self, pod: &Arc<Pod>, pod_ip: &str, running: &[Running<'_>], ending: bool) {
        let alive = |id: &str| running.iter().any(|r| r.id == id);
        self.tasks.retain(|(id, kind), task| {
            let keep = alive(id) && (!ending || *kind == Kind::Readiness);
            if !keep {
                task.abort();
            }
            keep
        });
        lock(&self.health).retain(|id, _| alive(id));
        for one in running {
            let health = *lock(&self.health).entry(one.id.to_owned()).or_insert_with(|| initial(*one));
            for kind in [Kind::Startup, Kind::Readiness, Kind::Liveness] {
                let gated = kind != Kind::Startup && !health.started;
                let over = (kind == Kind::Startup && health.started)
                    || (health.failed.is_some() && kind != Kind::Readiness)
                    || (ending && kind != Kind::Readiness);
                if !gated && !over && kind.of(one.container).is_some() {
                    self.ensure_task(kind, pod, pod_ip, one);
                }
            }
        }
    }

    fn ensure_task(&mut self, kind: Kind, pod: &Arc<Pod>, pod_ip: &str, one: &Running<'_>) {
        let key = (one.id.to_owned(), kind);
        if self.tasks.contains_key(&key) {
            return;
        }
        let Some(probe) = kind.of(one.container).cloned() else {
            return;
        };
        let task = ProbeTask {
            kind,
            probe,
            target: Target {
                cri: self.cri.clone(),
                container: one.container.clone(),
                container_id: one.id.to_owned(),
                pod_ip: pod_ip.to_owned(),
            },
            pod: Arc::clone(pod),
            started_at: one.started_at,
            adopted: one.adopted.is_some(),
            events: self.events.clone(),
            health: Arc::clone(&self.health),
            wake: Arc::clone(&self.wake),
        };
        self.tasks.insert(key, tokio::spawn(task.run()).abort_handle());
    }
}

fn initial(one: Running<'_>) -> Health {
    let fresh = Health {
        ready: one.container.readiness_probe.is_none(),
        started: one.container.startup_probe.is_none(),
        failed: None,
    };
    one.adopted.map_or(fresh, |old| Health {
        ready: fresh.ready || old.ready,
        started: fresh.started || old.started,
        failed: None,
    })
}

struct ProbeTask {
    kind: Kind,
    probe: Probe,
    target: Target,
    pod: Arc<Pod>,
    started_at: Timestamp,
    adopted: bool,
    events: Recorder,
    health: Arc<Mutex<HashMap<String, Health>>>,
    wake: Arc<Notify>,
}

/// The first pause of the quick retries after a container's start; it doubles.
const QUICK: Duration = Duration::from_millis(50);

impl ProbeTask {
    async fn run(self) {
        let period = seconds(self.probe.period_seconds, 10);
        let delay = seconds(self.probe.initial_delay_seconds, 0);
        let age = Timestamp::now().duration_since(self.started_at);
        let age = age.max(jiff::SignedDuration::ZERO).unsigned_abs();
        tokio::time::sleep(delay.saturating_sub(age)).await;
        if self.adopted {
            // After a restart of the agent all pods are probed anew: not all at once.
            tokio::time::sleep(period.mul_f64(rand::random())).await;
        }
        let mut tally =
            Tally::new(self.probe.success_threshold.unwrap_or(1), self.probe.failure_threshold.unwrap_or(3));
        let mut quick = if self.adopted || !self.may_hurry() { period } else { QUICK };
        let mut reported = false;
        loop {
            let began = tokio::time::Instant::now();
            let outcome = run::once(&self.target, &self.probe).await;
            let hurrying = quick < period && outcome.is_failure();
            // Quick retries only bring success forward; of their failures one is told and counted.
            if !hurrying || !reported {
                reported = true;
                self.report(&outcome);
                let settled = tally.observe(outcome.is_success());
                if self.settle(settled) {
                    return;
                }
            }
            if hurrying {
                tokio::time::sleep(quick).await;
                quick *= 2;
                continue;
            }
            quick = period;
            tokio::time::sleep_until(began + period).await;
        }
    }

    /// A server needs a moment to listen: until the first period is over, failures of the probes that
    /// only gate are followed by quick retries, so that a container is not unready for a whole period.
    fn may_hurry(&self) -> bool {
        self.kind != Kind::Liveness && self.probe.success_threshold.unwrap_or(1) == 1
    }

    fn report(&self, outcome: &Outcome) {
        let reference = || container_reference(&self.pod, &self.target.container.name);
        let title = self.kind.title();
        match outcome {
            Outcome::Success => {}
            Outcome::Warning(text) => {
                self.events.warning(reference(), "ProbeWarning", format!("{title} probe warning: {text}"));
            }
            Outcome::Failure(text) => {
                self.events.warning(reference(), "Unhealthy", format!("{title} probe failed: {text}"));
            }
            Outcome::Error(text) => {
                let text = format!("{title} probe errored and resulted in unknown state: {text}");
                self.events.warning(reference(), "Unhealthy", text);
            }
        }
    }

    /// Takes over a settled result; true when the probe's work is done.
    fn settle(&self, settled: Option<bool>) -> bool {
        let Some(good) = settled else { return false };
        let changed = {
            let mut all = lock(&self.health);
            let Some(health) = all.get_mut(&self.target.container_id) else {
                return true;
            };
            let before = *health;
            match (self.kind, good) {
                (Kind::Readiness, _) => health.ready = good,
                (Kind::Startup, true) => health.started = true,
                (_, false) => health.failed = Some(self.kind),
                (Kind::Liveness, true) => {}
            }
            *health != before
        };
        if changed {
            self.wake.notify_one();
        }
        matches!((self.kind, good), (Kind::Startup, _) | (Kind::Liveness, false))
    }
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(value.map_or(default, |v| v.max(0) as u64))
}
