//! Carrying out a worker's decisions: volumes and containers.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;
use orlop_proto::v1;

use super::actions::Actions;
use super::display_name;
use super::reasons::Waiting;
use super::runtime::timestamp;
use super::sandbox::file_error;
use super::terminate::Stop;
use super::worker::{SyncError, Worker};
use crate::backoff::go_seconds;
use crate::container::config::ContainerInput;
use crate::container::{hash, hooks};
use crate::env::{self, Sources};
use crate::events::{container_reference, pod_reference};
use crate::images;
use crate::objects::Snapshot;
use crate::probes::Kind;
use crate::resources::{all_containers, init_containers, is_sidecar};
use crate::volumes::{self, SetUp};

/// How long a sync waits for objects it never heard of.
const OBJECT_PATIENCE: Duration = Duration::from_secs(5);
/// How long a sync waits for volumes to be made.
const VOLUME_PATIENCE: Duration = Duration::from_secs(30);
const SERVICES_PATIENCE: Duration = Duration::from_secs(10);
/// The pause after a start that failed for another reason than a crash.
const START_RETRY: Duration = Duration::from_secs(10);
/// After a failed pull the back-off shows soon.
const PULL_RETRY: Duration = Duration::from_secs(3);

impl Worker {
    /// Makes the pod's volumes before containers start, and brings them up to date later.
    pub(super) async fn refresh_volumes(&mut self, starting: bool) -> Result<(), SyncError> {
        let objects = Self::interruptible(&self.desired, self.objects.snapshot(OBJECT_PATIENCE)).await?;
        let api = self.ctx.api();
        let refresh = self.tokens.refresh(api, &self.pod);
        let renewed = Self::interruptible(&self.desired, refresh).await?;
        let current = self
            .made_from
            .as_ref()
            .is_some_and(|(snapshot, pod)| snapshot.same_as(&objects) && Arc::ptr_eq(pod, &self.pod));
        if current && self.volumes_whole && !renewed && !starting {
            return Ok(());
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(&self.pod_dir)
            .map_err(file_error("make", &self.pod_dir))?;
        let set_up = SetUp {
            pod_dir: self.pod_dir.clone(),
            pod: Arc::clone(&self.pod),
            objects: objects.clone(),
            around: self.ctx.surroundings(&self.pod_ips()),
            tokens: self.tokens.clone(),
            before: self.volumes.clone(),
        };
        let (volumes, errors) = self.set_up(set_up).await?;
        self.volumes_whole = errors.is_empty();
        let missing = errors.iter().any(|e| !volumes.contains_key(&e.volume));
        for error in errors {
            self.ctx.events.warning(pod_reference(&self.pod), "FailedMount", error.to_string());
        }
        // Containers can run on with what a volume held before; one that was never made is waited for.
        if missing {
            return Err(SyncError::Volumes);
        }
        self.volumes = volumes;
        self.made_from = Some((objects, Arc::clone(&self.pod)));
        Ok(())
    }

    /// Runs a set-up on a thread for it. What hangs there is left behind, but only once.
    async fn set_up(&mut self, set_up: SetUp) -> Result<volumes::Outcome, SyncError> {
        if let Some(earlier) = &mut self.setting_up {
            let wait = tokio::time::timeout(VOLUME_PATIENCE, earlier);
            // Whatever it came to: it was made from what may be old by now.
            let _ = Self::interruptible(&self.desired, wait).await?.map_err(|_| SyncError::SlowVolumes)?;
        }
        let task = self.setting_up.insert(tokio::task::spawn_blocking(move || set_up.run()));
        let wait = tokio::time::timeout(VOLUME_PATIENCE, task);
        let done = Self::interruptible(&self.desired, wait).await?;
        let Ok(done) = done else {
            let text = "Unable to attach or mount volumes: timed out waiting for the condition";
            self.ctx.events.warning(pod_reference(&self.pod), "FailedMount", text);
            return Err(SyncError::SlowVolumes);
        };
        self.setting_up = None;
        done.map_err(|_| SyncError::Volumes)
    }

    /// Does what was decided; true when something changed for the better.
    pub(super) async fn carry_out(&mut self, actions: Actions) -> Result<bool, SyncError> {
        // What has to end ends first: nothing that a volume lacks may keep it.
        if actions.stop_pod {
            if actions.create_sandbox.is_some() {
                let text = "Pod sandbox changed, it will be killed and re-created.";
                self.ctx.events.normal(pod_reference(&self.pod), "SandboxChanged", text);
            }
            Self::interruptible(&self.desired, self.stop_everything(self.grace())).await??;
        }
        for kill in &actions.kill {
            let reference = container_reference(&self.pod, &kill.name);
            self.ctx.events.normal(reference, "Killing", kill.message.clone());
            let stopper = self.stopper(self.kill_grace(&kill.name, kill.probe));
            Self::interruptible(&self.desired, stopper.stop_one(&kill.name, &kill.id)).await??;
        }
        let mut progress = !actions.kill.is_empty();
        self.refresh_volumes(true).await?;
        if let Some(attempt) = actions.create_sandbox {
            self.ctx.cgroups.ensure_pod(&self.uid, &self.spec)?;
            self.placed = true;
            self.create_sandbox(attempt).await?;
            self.observe(false).await?;
            // Volumes with the pod's address were made before it had one.
            self.refresh_volumes(true).await?;
            progress = true;
        }
        for name in &actions.start {
            let container = all_containers(&self.spec).find(|c| c.name == *name).cloned();
            if let Some(container) = container {
                progress |= self.start(&container).await?;
            }
        }
        Ok(progress)
    }

    pub(super) fn grace(&self) -> i64 {
        self.spec.termination_grace_period_seconds.unwrap_or(30)
    }

    fn kill_grace(&self, name: &str, probe: Option<Kind>) -> i64 {
        let container = all_containers(&self.spec).find(|c| c.name == *name);
        let of_probe = container.zip(probe).and_then(|(c, kind)| kind.of(c));
        let own = of_probe.and_then(|p| p.termination_grace_period_seconds);
        own.unwrap_or_else(|| self.grace())
    }

    /// Starts one container, unless its back-off is not over; true when it runs.
    async fn start(&mut self, container: &Container) -> Result<bool, SyncError> {
        if self.crash_backoff(container) {
            return Ok(false);
        }
        match self.try_start(container).await {
            Ok(()) => {
                self.reasons.clear(&container.name);
                Ok(true)
            }
            Err(StartError::Waiting(waiting)) => {
                let retry = match waiting.reason {
                    "ErrImagePull" => PULL_RETRY,
                    "ImagePullBackOff" => self.pulls.next_try(Timestamp::now()).unwrap_or(PULL_RETRY),
                    // What has ended is subject to the crash back-off.
                    "RunContainerError" | "PostStartHookError" if self.has_ended(&container.name).await => {
                        Duration::ZERO
                    }
                    _ => START_RETRY,
                };
                self.reasons.set(&container.name, waiting, retry);
                Ok(false)
            }
            Err(StartError::Sync(error)) => Err(error),
        }
    }

    /// Whether the newest container of this name has ended; some runtimes leave one as made when its start failed.
    async fn has_ended(&mut self, name: &str) -> bool {
        self.observe(false).await.is_ok() && self.runtime.newest(name).is_some_and(|r| r.has_ended())
    }

    /// Whether the container has to wait because it ended before; otherwise the next wait grows.
    fn crash_backoff(&mut self, container: &Container) -> bool {
        let Some(record) = self.runtime.newest(&container.name).filter(|r| r.has_ended()) else {
            return false;
        };
        let ended_well = record.status.exit_code == 0;
        let once = init_containers(&self.spec).iter().any(|c| c.name == container.name && !is_sidecar(c));
        if once && ended_well {
            return false;
        }
        let now = Timestamp::now();
        let finished = timestamp(record.status.finished_at).unwrap_or(now);
        let key = format!("{}/{}", container.name, hash(container));
        let Some(wait) = self.crashes.waiting(&key, finished, now) else {
            self.crashes.raise(key, finished, now);
            return false;
        };
        let who = format!("container={} pod={}", container.name, display_name(&self.pod));
        let waiting = Waiting {
            reason: "CrashLoopBackOff",
            message: format!("back-off {} restarting failed {who}", go_seconds(wait.delay)),
        };
        let reference = container_reference(&self.pod, &container.name);
        let text =
            format!("Back-off restarting failed container {} in pod {}", container.name, display_name(&self.pod));
        self.ctx.events.warning(reference, "BackOff", text);
        self.reasons.set(&container.name, waiting, wait.left);
        true
    }

    async fn try_start(&mut self, container: &Container) -> Result<(), StartError> {
        let attempt = self.next_attempt(&container.name);
        let Some(sandbox) = self.runtime.sandbox().filter(|s| s.ready).cloned() else {
            return Err(SyncError::Sandbox("the sandbox is gone".to_owned()).into());
        };
        let config = self.sandbox_config(sandbox.attempt)?;
        let objects = self.made_from.as_ref().map(|(objects, _)| objects.clone()).unwrap_or_default();
        let image = self.image(container, &config, &objects).await?;
        let container_config = self.container_config(container, &image, attempt, &objects).await?;
        self.write_hosts()?;
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.id,
            config: Some(container_config),
            sandbox_config: Some(config),
        };
        let created = self.ctx.cri.create_container(request).await;
        let id = created.map_err(|e| self.start_failed(container, "CreateContainerError", e.to_string()))?.container_id;
        let reference = || container_reference(&self.pod, &container.name);
        self.ctx.events.normal(reference(), "Created", "Container created");
        let request = v1::StartContainerRequest { container_id: id.clone() };
        if let Err(error) = self.ctx.cri.start_container(request).await {
            return Err(self.start_failed(container, "RunContainerError", error.to_string()));
        }
        self.ctx.events.normal(reference(), "Started", "Container started");
        self.post_start(container, &id).await
    }

    fn start_failed(&self, container: &Container, reason: &'static str, message: String) -> StartError {
        let reference = container_reference(&self.pod, &container.name);
        self.ctx.events.warning(reference, "Failed", format!("Error: {message}"));
        Waiting { reason, message }.into()
    }

    async fn image(
        &mut self,
        container: &Container,
        sandbox: &v1::PodSandboxConfig,
        objects: &Snapshot,
    ) -> Result<v1::Image, StartError> {
        let missing = images::pull_secrets_missing(&self.pod, objects);
        if !missing.is_empty() {
            let text = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            let reference = pod_reference(&self.pod);
            self.ctx.events.warning(reference, "FailedToRetrieveImagePullSecret", text);
        }
        let request = images::Request { pod: &self.pod, container, sandbox, objects };
        let work = images::ensure(&self.ctx.cri, &self.ctx.events, &mut self.pulls, request);
        let ensured = Self::interruptible(&self.desired, work).await?;
        ensured.map_err(|e| Waiting { reason: e.reason, message: e.message }.into())
    }

    async fn container_config(
        &self,
        container: &Container,
        image: &v1::Image,
        attempt: u32,
        objects: &Snapshot,
    ) -> Result<v1::ContainerConfig, StartError> {
        let mut listed = self.ctx.services.subscribe();
        let wait = tokio::time::timeout(SERVICES_PATIENCE, listed.wait_for(|l| *l));
        let waited = Self::interruptible(&self.desired, wait).await?;
        if waited.is_err() {
            return Err(SyncError::Services.into());
        }
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        let links = self.spec.enable_service_links != Some(false);
        let services = self.ctx.services.environment(namespace, links);
        let around = self.ctx.surroundings(&self.pod_ips());
        let env =
            env::environment(Sources { pod: &self.pod, container, around: &around, objects, services: &services });
        let built = env.and_then(|env| {
            ContainerInput {
                pod: &self.pod,
                spec: &self.spec,
                container,
                image,
                attempt,
                env,
                volumes: &self.volumes,
                pod_dir: &self.pod_dir,
                state_dir: &self.ctx.config.state_dir,
                node: self.ctx.facts,
            }
            .build()
        });
        built.map_err(|message| self.start_failed(container, "CreateContainerConfigError", message))
    }

    /// One more than any attempt the runtime, the status or the log folder knows of.
    fn next_attempt(&self, name: &str) -> u32 {
        let known = self.runtime.of(name).map(|r| r.attempt()).max();
        let lists = [&self.status.init_container_statuses, &self.status.container_statuses];
        let told = lists.into_iter().flatten().flatten().find(|s| s.name == name);
        let told = told.filter(|s| s.container_id.is_some() || s.last_state.is_some());
        let told = told.map(|s| s.restart_count.max(0) as u32);
        let logged = crate::logs::newest_attempt(&self.log_dir.join(name));
        known.max(told).max(logged).map_or(0, |n| n + 1)
    }

    async fn post_start(&mut self, container: &Container, id: &str) -> Result<(), StartError> {
        let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else {
            return Ok(());
        };
        let ip = self.pod_ips().into_iter().next().unwrap_or_default();
        let work = hooks::run(&self.ctx.cri, hook, container, id, &ip);
        let Err(message) = Self::interruptible(&self.desired, work).await? else {
            return Ok(());
        };
        tracing::info!(container = container.name, message, "postStart hook failed");
        let reference = || container_reference(&self.pod, &container.name);
        self.ctx.events.warning(reference(), "FailedPostStartHook", "PostStartHook failed");
        self.ctx.events.normal(reference(), "Killing", "FailedPostStartHook");
        let stopper = self.stopper(self.grace());
        let stop = Self::interruptible(&self.desired, stopper.stop_one(&container.name, id));
        stop.await?.map_err(SyncError::from)?;
        Err(Waiting { reason: "PostStartHookError", message: "PostStartHook failed".to_owned() }.into())
    }

    pub(super) fn stopper(&self, grace: i64) -> Stop {
        Stop {
            cri: self.ctx.cri.clone(),
            events: self.ctx.events.clone(),
            pod: Arc::clone(&self.pod),
            pod_ip: self.pod_ips().into_iter().next().unwrap_or_default(),
            grace,
            again: false,
        }
    }
}

/// A container that could not be started.
enum StartError {
    /// The container waits, with a reason for its status.
    Waiting(Waiting),
    /// The pod as a whole cannot go on.
    Sync(SyncError),
}

impl From<Waiting> for StartError {
    fn from(waiting: Waiting) -> Self {
        Self::Waiting(waiting)
    }
}

impl From<SyncError> for StartError {
    fn from(error: SyncError) -> Self {
        Self::Sync(error)
    }
}
