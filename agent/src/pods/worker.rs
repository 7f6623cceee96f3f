//! The worker of one pod: it alone touches the pod, step by step, until nothing of it is left.
//!
//! ```text
//!   keep_running --(work done, rejected, or to be removed)--> end --> clean --> await_removal --> remove
//! ```
//! Each step may be cut short by the agent's death and is then done again from what the runtime says.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};
use orlop_proto::v1;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::actions::{self, View};
use super::admission::Rejection;
use super::post::Poster;
use super::reasons::Reasons;
use super::runtime::{Observer, PodRuntime, timestamp};
use super::status::{self, DEADLINE_EXCEEDED, Input};
use super::{conditions, is_terminal};
use crate::backoff::Backoff;
use crate::context::Context;
use crate::cri::CriError;
use crate::events::pod_reference;
use crate::images::PullBackoff;
use crate::objects::{ObjectKey, PodObjects, Snapshot, references};
use crate::probes::{Health, Probes, Running};
use crate::resources::all_containers;
use crate::volumes::{self, MountedVolumes, Tokens};

/// What the sources want of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Intent {
    Run,
    /// End it within `grace` seconds; then delete the API object, if that is still there.
    Remove {
        grace: i64,
        delete_object: bool,
    },
}

/// The pod as the sources last told it.
#[derive(Debug, Clone)]
pub(super) struct Desired {
    pub(super) pod: Arc<Pod>,
    pub(super) intent: Intent,
}

/// A step that could not be done; it is tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum SyncError {
    #[error("the runtime failed {0}")]
    Runtime(#[from] CriError),
    #[error("{0}")]
    Cgroup(#[from] crate::cgroups::CgroupError),
    #[error("volumes are not ready")]
    Volumes,
    #[error("volumes are not ready: making them takes long (does a hostPath lie on a server that does not answer?)")]
    SlowVolumes,
    #[error("services have not yet been read at least once, cannot construct envvars")]
    Services,
    #[error("the sandbox's configuration: {0}")]
    Sandbox(String),
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the pod is to be removed")]
    Interrupted,
}

/// What a sync came to.
#[derive(Debug)]
enum Step {
    /// Something was done: look again.
    Again,
    /// Nothing to do before this time, unless woken.
    Wait(Duration),
    /// All the pod's work is done.
    Finished,
}

/// The longest a worker sleeps without being woken.
const RESYNC: Duration = Duration::from_mins(5);
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(122);

pub(super) struct Worker {
    pub(super) ctx: Arc<Context>,
    pub(super) uid: String,
    pub(super) pod: Arc<Pod>,
    pub(super) spec: PodSpec,
    pub(super) desired: watch::Receiver<Desired>,
    pub(super) wake: Arc<Notify>,
    pub(super) rejected: Option<Rejection>,
    pub(super) pod_dir: PathBuf,
    pub(super) log_dir: PathBuf,
    pub(super) observer: Observer,
    pub(super) runtime: PodRuntime,
    pub(super) probes: Probes,
    pub(super) poster: Poster,
    pub(super) status: PodStatus,
    pub(super) reasons: Reasons,
    pub(super) crashes: Backoff<String>,
    pub(super) pulls: PullBackoff,
    pub(super) references: std::collections::BTreeSet<ObjectKey>,
    pub(super) objects: PodObjects,
    pub(super) tokens: Tokens,
    /// What the volumes were last made from.
    pub(super) made_from: Option<(Snapshot, Arc<Pod>)>,
    pub(super) volumes: MountedVolumes,
    /// Whether that went without an error.
    pub(super) volumes_whole: bool,
    /// Volumes being made, at most once at a time.
    pub(super) setting_up: Option<JoinHandle<volumes::Outcome>>,
    /// Whether the pod's cgroup is known to be as it should.
    pub(super) placed: bool,
    /// The grace period of a stop that goes on, and its beginning.
    pub(super) stopping: Option<(i64, Instant)>,
    /// The state of containers that ran before this agent did.
    pub(super) adopted: HashMap<String, Health>,
}

impl Worker {
    pub(super) fn new(
        ctx: Arc<Context>,
        desired: watch::Receiver<Desired>,
        wake: Arc<Notify>,
        poster: Poster,
        rejected: Option<Rejection>,
    ) -> Self {
        let pod = Arc::clone(&desired.borrow().pod);
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let references = references(&pod);
        let status = pod.status.clone().unwrap_or_default();
        Self {
            pod_dir: ctx.pod_dir(&uid),
            log_dir: ctx.log_dir(&pod),
            observer: Observer::new(ctx.cri.clone(), &uid),
            probes: Probes::new(ctx.cri.clone(), ctx.events.clone(), Arc::clone(&wake)),
            objects: ctx.objects.hold(references.clone(), &wake),
            adopted: health_of(&status),
            spec: pod.spec.clone().unwrap_or_default(),
            runtime: PodRuntime::default(),
            reasons: Reasons::default(),
            crashes: Backoff::default(),
            pulls: PullBackoff::default(),
            tokens: Tokens::default(),
            made_from: None,
            volumes: MountedVolumes::new(),
            volumes_whole: false,
            setting_up: None,
            placed: false,
            stopping: None,
            ctx,
            uid,
            pod,
            desired,
            wake,
            rejected,
            poster,
            status,
            references,
        }
    }

    /// Runs the pod's whole life here.
    pub(super) async fn run(mut self) {
        if let Some(rejection) = self.rejected.take() {
            self.reject(rejection);
        } else if !is_terminal(&self.pod) {
            self.keep_running().await;
        }
        self.end().await;
        self.clean().await;
        self.await_removal().await;
        self.remove().await;
    }

    fn reject(&mut self, rejection: Rejection) {
        let reference = pod_reference(&self.pod);
        self.ctx.events.warning(reference, rejection.reason, rejection.message.clone());
        self.status.phase = Some("Failed".to_owned());
        self.status.reason = Some(rejection.reason.to_owned());
        self.status.message = Some(format!("Pod was rejected: {}", rejection.message));
        self.status.start_time = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::now()));
        self.status.qos_class = Some(crate::resources::Qos::of(&self.spec).name().to_owned());
        let old = self.pod.status.clone().unwrap_or_default();
        self.status.conditions = Some(conditions::all(conditions::Facts {
            spec: &self.spec,
            status: &self.status,
            old: &old,
            has_network: false,
            now: Timestamp::now(),
        }));
        self.poster.set(&self.status);
    }

    async fn keep_running(&mut self) {
        let mut retry = FIRST_RETRY;
        loop {
            if !self.take_desired() {
                return;
            }
            let wait = match self.sync().await {
                Ok(Step::Finished) => return,
                Ok(Step::Again) => {
                    retry = FIRST_RETRY;
                    continue;
                }
                Ok(Step::Wait(wait)) => {
                    retry = FIRST_RETRY;
                    wait
                }
                Err(SyncError::Interrupted) => continue,
                Err(error) => {
                    tracing::warn!(pod = super::display_name(&self.pod), %error, "pod sync failed, will be tried again");
                    let wait = retry;
                    retry = (retry * 2).min(LAST_RETRY);
                    wait
                }
            };
            tokio::select! {
                () = Self::news(&mut self.desired) => {}
                () = self.wake.notified() => self.reasons.retry_configuration(),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Takes over what the sources say; false when the pod is not to run any more.
    fn take_desired(&mut self) -> bool {
        let desired = self.desired.borrow_and_update().clone();
        if !Arc::ptr_eq(&desired.pod, &self.pod) {
            self.pod = desired.pod;
            self.spec = self.pod.spec.clone().unwrap_or_default();
            let references = references(&self.pod);
            if references != self.references {
                self.objects = self.ctx.objects.hold(references.clone(), &self.wake);
                self.references = references;
            }
            // Conditions of others (readiness gates) come with the object.
            if let Some(theirs) = self.pod.status.as_ref().and_then(|s| s.conditions.as_ref()) {
                adopt_foreign(&mut self.status, theirs);
            }
            self.reasons.retry_configuration();
        }
        desired.intent == Intent::Run
    }

    /// Looks at the runtime and brings probes in line.
    pub(super) async fn observe(&mut self, ending: bool) -> Result<(), SyncError> {
        self.runtime = self.observer.observe(&self.pod_dir, &self.log_dir).await?;
        let running: Vec<Running<'_>> = all_containers(&self.spec)
            .filter_map(|container| {
                let record = self.runtime.newest(&container.name).filter(|r| r.is_running())?;
                Some(Running {
                    container,
                    id: record.id(),
                    started_at: timestamp(record.status.started_at).unwrap_or_else(Timestamp::now),
                    adopted: self.adopted.get(record.id()).copied(),
                })
            })
            .collect();
        let ip = self.pod_ips().into_iter().next().unwrap_or_default();
        self.probes.reconcile(&self.pod, &ip, &running, ending);
        Ok(())
    }

    /// The pod's addresses: its sandbox's, or the node's.
    pub(super) fn pod_ips(&self) -> Vec<String> {
        if self.spec.host_network == Some(true) {
            return self.ctx.node_ips.clone();
        }
        let sandbox = self.runtime.sandbox().filter(|s| s.ready);
        sandbox.map(|s| s.ips.clone()).unwrap_or_default()
    }

    pub(super) fn health(&self) -> HashMap<String, Health> {
        let known = |id: &str| self.probes.health(id).map(|h| (id.to_owned(), h));
        self.runtime.containers.iter().filter_map(|c| known(c.id())).collect()
    }

    /// Works out the status and tells it.
    pub(super) fn tell_status(&mut self, ending: bool) {
        let status = status::generate(Input {
            pod: &self.pod,
            spec: &self.spec,
            runtime: &self.runtime,
            health: &self.health(),
            reasons: &self.reasons,
            old: &self.status,
            node_ips: &self.ctx.node_ips,
            runtime_name: &self.ctx.runtime_name,
            ending,
            now: Timestamp::now(),
        });
        self.status = status;
        self.poster.set(&self.status);
    }

    async fn sync(&mut self) -> Result<Step, SyncError> {
        self.observe(false).await?;
        if self.past_deadline() {
            self.status.reason = Some(DEADLINE_EXCEEDED.to_owned());
            let message = "Pod was active on the node longer than the specified deadline";
            self.status.message = Some(message.to_owned());
            self.ctx.events.normal(pod_reference(&self.pod), DEADLINE_EXCEEDED, message);
            return Ok(Step::Finished);
        }
        if !self.placed && self.runtime.sandbox().is_some() {
            // A pod of an earlier agent: this one does not know yet what it weighs.
            self.ctx.cgroups.ensure_pod(&self.uid, &self.spec)?;
            self.placed = true;
        }
        let health = self.health();
        let view = View { spec: &self.spec, runtime: &self.runtime, health: &health };
        let mut actions = actions::compute(view);
        actions.start.retain(|name| !self.reasons.holds_back(name));
        self.tell_status(false);
        if actions.stop_pod && actions.create_sandbox.is_none() {
            return Ok(Step::Finished);
        }
        let busy = actions.create_sandbox.is_some() || !actions.start.is_empty() || !actions.kill.is_empty();
        if !busy {
            self.refresh_volumes(false).await?;
            return Ok(Step::Wait(self.next_look()));
        }
        let result = self.carry_out(actions).await;
        self.observe(false).await?;
        self.tell_status(false);
        self.collect_garbage().await;
        result.map(|progress| if progress { Step::Again } else { Step::Wait(self.next_look()) })
    }

    fn past_deadline(&self) -> bool {
        self.deadline_left().is_some_and(|left| left.is_zero())
    }

    fn deadline_left(&self) -> Option<Duration> {
        let seconds = self.spec.active_deadline_seconds?;
        let started = self.status.start_time.as_ref()?.0;
        let passed = Timestamp::now().duration_since(started);
        let left = jiff::SignedDuration::from_secs(seconds).saturating_sub(passed);
        Some(left.max(jiff::SignedDuration::ZERO).unsigned_abs())
    }

    fn next_look(&self) -> Duration {
        let now = Timestamp::now();
        let moments =
            [self.reasons.next_try(), self.pulls.next_try(now), self.tokens.next_renewal(now), self.deadline_left()];
        let soonest = moments.into_iter().flatten().min().unwrap_or(RESYNC);
        // A moment that has come but changed nothing must not spin.
        soonest.clamp(Duration::from_millis(20), RESYNC)
    }

    /// Waits until the sources want the pod gone.
    pub(super) async fn to_be_removed(desired: &watch::Receiver<Desired>) {
        let mut desired = desired.clone();
        if desired.wait_for(|d| d.intent != Intent::Run).await.is_err() {
            // Without its manager a worker leaves everything as it is.
            std::future::pending::<()>().await;
        }
    }

    /// Waits for a change of what the sources say.
    async fn news(desired: &mut watch::Receiver<Desired>) {
        if desired.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Runs something that may take long, unless the pod is to be removed meanwhile.
    pub(super) async fn interruptible<T>(
        desired: &watch::Receiver<Desired>,
        work: impl Future<Output = T>,
    ) -> Result<T, SyncError> {
        tokio::select! {
            done = work => Ok(done),
            () = Self::to_be_removed(desired) => Err(SyncError::Interrupted),
        }
    }

    /// Removes ended containers but the newest one before the present, those that were made but never started,
    /// and sandboxes without containers.
    async fn collect_garbage(&mut self) {
        for container in all_containers(&self.spec) {
            let ended = self.runtime.of(&container.name).filter(|r| r.has_ended());
            let keep = 1 + usize::from(self.runtime.newest(&container.name).is_some_and(|r| r.has_ended()));
            let unused = self.runtime.of(&container.name).skip(1).filter(|r| r.is_created());
            for old in ended.skip(keep).chain(unused) {
                let request = v1::RemoveContainerRequest { container_id: old.id().to_owned() };
                if let Err(error) = self.ctx.cri.remove_container(request).await {
                    tracing::debug!(%error, "removing a dead container");
                    continue;
                }
                crate::logs::remove_attempt(&self.log_dir.join(&container.name), old.attempt());
            }
        }
        let used = |id: &str| self.runtime.containers.iter().any(|c| c.sandbox_id == id);
        for old in self.runtime.sandboxes.iter().skip(1).filter(|s| !s.ready && !used(&s.id)) {
            let request = v1::RemovePodSandboxRequest { pod_sandbox_id: old.id.clone() };
            if let Err(error) = self.ctx.cri.remove_pod_sandbox(request).await {
                tracing::debug!(%error, "removing an old sandbox");
            }
        }
    }
}

/// The readiness that the API shows for running containers, by their id.
fn health_of(status: &PodStatus) -> HashMap<String, Health> {
    let lists = [&status.init_container_statuses, &status.container_statuses];
    let all = lists.into_iter().flatten().flatten();
    all.filter_map(|s| {
        let id = s.container_id.as_deref()?.split_once("://")?.1;
        let health = Health { ready: s.ready, started: s.started == Some(true), failed: None };
        Some((id.to_owned(), health))
    })
    .collect()
}

fn adopt_foreign(status: &mut PodStatus, theirs: &[k8s_openapi::api::core::v1::PodCondition]) {
    let ours = status.conditions.get_or_insert_default();
    for condition in theirs {
        match ours.iter_mut().find(|c| c.type_ == condition.type_) {
            // Ours are computed anew in any case; others are taken as they are.
            Some(mine) if conditions::is_foreign(&condition.type_) => *mine = condition.clone(),
            Some(_) => {}
            None => ours.push(condition.clone()),
        }
    }
}
