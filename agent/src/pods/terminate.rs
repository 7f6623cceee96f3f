//! The end of a pod: containers, sandbox, volumes, cgroup, and at last its API object.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use orlop_proto::v1;

use super::post::Target;
use super::worker::{Intent, SyncError, Worker};
use crate::container::hooks;
use crate::cri::{Cri, CriError};
use crate::events::{Recorder, container_reference};
use crate::resources::{all_containers, init_containers, is_sidecar};
use crate::volumes;

/// What remains for the signal when a preStop hook took all the time, seconds.
const LEAST_GRACE: i64 = 2;
const RETRY: Duration = Duration::from_secs(1);
const SET_UP_PATIENCE: Duration = Duration::from_secs(5);
const FLUSH_PATIENCE: Duration = Duration::from_secs(5);
/// How long a finished worker waits to hear that its object is gone.
const FAREWELL: Duration = Duration::from_secs(30);

/// A container's name and id.
type Named = (String, String);

/// Stops containers of a pod within a grace period.
#[derive(Debug, Clone)]
pub(super) struct Stop {
    pub(super) cri: Cri,
    pub(super) events: Recorder,
    pub(super) pod: Arc<Pod>,
    pub(super) pod_ip: String,
    /// Seconds.
    pub(super) grace: i64,
    /// Not the first try: hooks have run and events are told.
    pub(super) again: bool,
}

impl Stop {
    /// Runs the preStop hook inside the grace period and stops the container with what is left of it.
    pub(super) async fn stop_one(&self, name: &str, id: &str) -> Result<(), CriError> {
        let began = Instant::now();
        if self.grace > 0 && !self.again {
            self.pre_stop(name, id).await;
        }
        let spent = began.elapsed().as_secs() as i64;
        self.cri.stop_container(id, left(self.grace, spent)).await
    }

    async fn pre_stop(&self, name: &str, id: &str) {
        let container = self.pod.spec.as_ref().and_then(|s| all_containers(s).find(|c| c.name == name));
        let Some(container) = container else { return };
        let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) else {
            return;
        };
        let run = hooks::run(&self.cri, hook, container, id, &self.pod_ip);
        let patience = Duration::from_secs(self.grace.max(0) as u64);
        if let Ok(Err(message)) = tokio::time::timeout(patience, run).await {
            tracing::info!(container = name, message, "preStop hook failed");
            let reference = container_reference(&self.pod, name);
            self.events.warning(reference, "FailedPreStopHook", "PreStopHook failed");
        }
    }

    /// Stops these containers at once, telling each.
    async fn stop_together(&self, containers: &[Named]) -> Result<(), CriError> {
        for (name, _) in containers.iter().filter(|_| !self.again) {
            let text = format!("Stopping container {name}");
            self.events.normal(container_reference(&self.pod, name), "Killing", text);
        }
        let stops = containers.iter().map(|(name, id)| self.stop_one(name, id));
        join_all(stops).await.into_iter().collect()
    }

    /// Stops the main containers, then the sidecars from the last to the first.
    async fn stop_all(&self, mains: Vec<Named>, sidecars: Vec<Named>) -> Result<(), CriError> {
        let began = Instant::now();
        let mut first = self.stop_together(&mains).await;
        for sidecar in sidecars.into_iter().rev() {
            let spent = began.elapsed().as_secs() as i64;
            let rest = Self { grace: left(self.grace, spent), ..self.clone() };
            let stopped = rest.stop_together(&[sidecar]).await;
            first = first.and(stopped);
        }
        first
    }
}

/// What remains of a grace period.
fn left(grace: i64, spent: i64) -> i64 {
    if grace > 0 { (grace - spent).max(LEAST_GRACE) } else { 0 }
}

impl Worker {
    /// Running containers (name, id): those of the main phase, and sidecars in their order.
    fn to_stop(&self) -> (Vec<Named>, Vec<Named>) {
        let sidecar = |name: &str| init_containers(&self.spec).iter().position(|c| c.name == name && is_sidecar(c));
        let running = self.runtime.containers.iter().filter(|c| c.is_running());
        let named = running.map(|c| (c.name().to_owned(), c.id().to_owned()));
        let (mut sidecars, mains): (Vec<_>, Vec<_>) = named.partition(|(name, _)| sidecar(name).is_some());
        sidecars.sort_by_key(|(name, _)| sidecar(name));
        (mains, sidecars)
    }

    /// Stops every container and sandbox the runtime has of this pod.
    pub(super) async fn stop_everything(&self, grace: i64) -> Result<(), SyncError> {
        let (mains, sidecars) = self.to_stop();
        self.stopper(grace).stop_all(mains, sidecars).await?;
        self.stop_sandboxes().await
    }

    async fn stop_sandboxes(&self) -> Result<(), SyncError> {
        for sandbox in &self.runtime.sandboxes {
            let request = v1::StopPodSandboxRequest { pod_sandbox_id: sandbox.id.clone() };
            match self.ctx.cri.stop_pod_sandbox(request).await {
                Err(e) if !e.is_not_found() => return Err(e.into()),
                _ => {}
            }
        }
        Ok(())
    }

    fn removal_grace(&self) -> Option<i64> {
        match self.desired.borrow().intent {
            Intent::Remove { grace, .. } => Some(grace),
            Intent::Run => None,
        }
    }

    /// Ends the pod's containers, whatever it takes, and tells its last status.
    pub(super) async fn end(&mut self) {
        while let Err(error) = self.try_end().await {
            tracing::warn!(pod = super::display_name(&self.pod), %error, "cannot stop the pod yet");
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn try_end(&mut self) -> Result<(), SyncError> {
        self.observe(true).await?;
        let told = super::is_terminal(&self.pod) || self.was_rejected();
        while self.runtime.any_running() {
            let grace = self.removal_grace().unwrap_or_else(|| self.grace());
            let (mains, sidecars) = self.to_stop();
            // What fails on the way is done again within the same time; only a new grace period begins anew.
            let again = self.stopping.is_some();
            let began = self.stopping.filter(|(of, _)| *of == grace).map_or_else(Instant::now, |(_, began)| began);
            self.stopping = Some((grace, began));
            let stopper = Stop { again, ..self.stopper(left(grace, began.elapsed().as_secs() as i64)) };
            let stop = stopper.stop_all(mains, sidecars);
            tokio::pin!(stop);
            let mut desired = self.desired.clone();
            let shorter = async {
                // Only less time interrupts a stop that goes on.
                let less = |intent: Intent| matches!(intent, Intent::Remove { grace: g, .. } if g < grace);
                if desired.wait_for(|d| less(d.intent)).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::pin!(shorter);
            let done = loop {
                tokio::select! {
                    done = &mut stop => break Some(done),
                    () = &mut shorter => break None,
                    () = self.wake.notified() => match self.observe(true).await {
                        Ok(()) if told => {}
                        Ok(()) => self.tell_status(true),
                        Err(error) => {
                            let pod = super::display_name(&self.pod);
                            tracing::warn!(pod, %error, "cannot look at a pod that ends");
                        }
                    }
                }
            };
            if let Some(done) = done {
                done?;
            }
            self.observe(true).await?;
            if !told {
                self.tell_status(true);
            }
        }
        self.stop_sandboxes().await?;
        self.observe(true).await?;
        if !told {
            self.tell_status(true);
        }
        Ok(())
    }

    fn was_rejected(&self) -> bool {
        self.status.phase.as_deref() == Some("Failed") && self.status.container_statuses.is_none()
    }

    /// Removes what the pod has on this host beside its containers, which keep their logs.
    pub(super) async fn clean(&mut self) {
        if let Some(set_up) = self.setting_up.take() {
            // One that hangs is not waited for; what it makes yet is found by the manager.
            let _ = tokio::time::timeout(SET_UP_PATIENCE, set_up).await;
        }
        loop {
            let ctx = Arc::clone(&self.ctx);
            let (uid, pod_dir) = (self.uid.clone(), self.pod_dir.clone());
            let cleaned = tokio::task::spawn_blocking(move || {
                let volumes = volumes::tear_down(&pod_dir).map_err(|e| e.to_string());
                let cgroups = ctx.cgroups.remove_pod(&uid).map_err(|e| e.to_string());
                volumes.and(cgroups)
            });
            let Err(error) = cleaned.await.unwrap_or_else(|e| Err(e.to_string())) else {
                return;
            };
            tracing::warn!(pod = super::display_name(&self.pod), error, "cannot clean up after the pod yet");
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Waits until the sources want the pod gone.
    pub(super) async fn await_removal(&mut self) {
        Self::to_be_removed(&self.desired).await;
    }

    /// Removes the pod's containers and sandboxes from the runtime, its logs, and its API object.
    pub(super) async fn remove(mut self) {
        while let Err(error) = self.try_remove().await {
            tracing::warn!(pod = super::display_name(&self.pod), %error, "cannot remove the pod yet");
            tokio::time::sleep(RETRY).await;
        }
        // Logs are the last thing of the pod; there is nobody to tell if they stay.
        if let Err(error) = tokio::fs::remove_dir_all(&self.log_dir).await
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(folder = %self.log_dir.display(), %error, "cannot remove the pod's logs");
        }
        self.delete_object().await;
    }

    async fn try_remove(&mut self) -> Result<(), SyncError> {
        self.observe(true).await?;
        for container in &self.runtime.containers {
            let request = v1::RemoveContainerRequest { container_id: container.id().to_owned() };
            gone(self.ctx.cri.remove_container(request).await.map(drop))?;
        }
        for sandbox in &self.runtime.sandboxes {
            let id = || sandbox.id.clone();
            let stop = v1::StopPodSandboxRequest { pod_sandbox_id: id() };
            gone(self.ctx.cri.stop_pod_sandbox(stop).await.map(drop))?;
            let remove = v1::RemovePodSandboxRequest { pod_sandbox_id: id() };
            gone(self.ctx.cri.remove_pod_sandbox(remove).await.map(drop))?;
        }
        Ok(())
    }

    async fn delete_object(&mut self) {
        let delete = matches!(self.desired.borrow().intent, Intent::Remove { delete_object: true, .. });
        let Some(client) = self.ctx.api().filter(|_| delete) else {
            return;
        };
        self.poster.flush(FLUSH_PATIENCE).await;
        let target = Target::of(&self.pod);
        let api: Api<Pod> = Api::namespaced(client.clone(), &target.namespace);
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(target.uid), resource_version: None }),
            ..DeleteParams::default()
        };
        loop {
            match api.delete(&target.name, &params).await {
                Ok(_) => break,
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => break,
                Err(error) => {
                    tracing::warn!(pod = super::display_name(&self.pod), %error, "cannot delete the pod's object yet");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        // Late news of the object must not start another worker for it.
        let heard = self.desired.wait_for(|d| matches!(d.intent, Intent::Remove { delete_object: false, .. }));
        let _ = tokio::time::timeout(FAREWELL, heard).await;
    }
}

/// Already gone is what removal wants.
fn gone(result: Result<(), CriError>) -> Result<(), CriError> {
    match result {
        Err(e) if !e.is_not_found() => Err(e),
        _ => Ok(()),
    }
}
