//! The manager of all pods: takes them from their sources, keeps one worker for each, and hears the runtime.

mod orphans;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission;
use super::conditions;
use super::mirror::Mirrors;
use super::post::{Poster, Target};
use super::registry::{Entry, Registry};
use super::source_runtime::Listing;
use super::worker::{Desired, Intent, Worker};
use super::{full_name, is_static, is_terminal};
use crate::context::Context;

/// How often missing mirror pods are made again.
const MIRRORS: Duration = Duration::from_secs(10);
/// Before a worker that panicked is started anew.
const RESTART: Duration = Duration::from_secs(10);
/// Seconds a pod gets whose object vanished without a deletion.
const ORPHAN_GRACE: i64 = 1;

/// Which source speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    Api,
    File,
}

/// What the manager is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// All pods of a source.
    Set(Source, Vec<Pod>),
    /// A pod is new or changed.
    Apply(Source, Box<Pod>),
    /// A pod is no longer there.
    Remove(Source, String),
    /// Something happened to these pods in the runtime.
    Wake(Vec<String>),
    /// Everything the runtime has.
    Relist(Box<Listing>),
    /// A worker is done with its pod.
    Ended(String),
    /// A worker panicked; its pod is as it was.
    Crashed(String),
}

struct Handle {
    desired: watch::Sender<Desired>,
    wake: Arc<Notify>,
    target: watch::Sender<Option<Target>>,
    source: Source,
}

/// Owns the workers.
pub(crate) struct Manager {
    ctx: Arc<Context>,
    registry: Arc<Registry>,
    mirrors: Mirrors,
    tasks: TaskTracker,
    stop: CancellationToken,
    sender: mpsc::UnboundedSender<Message>,
    handles: HashMap<String, Handle>,
    /// Pods that wait for one of the same name to be gone, by that name.
    queued: HashMap<String, (Source, Pod)>,
    heard: HashSet<Source>,
    expected: usize,
    /// What the runtime had of each pod, to tell what changed.
    fingerprints: HashMap<String, Vec<(String, i32)>>,
}

impl Manager {
    /// A manager that waits for `expected` sources before it takes anything for an orphan.
    pub(crate) fn new(
        ctx: Arc<Context>,
        registry: Arc<Registry>,
        sender: mpsc::UnboundedSender<Message>,
        expected: usize,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self {
            mirrors: Mirrors::new(Arc::clone(&ctx)),
            ctx,
            registry,
            tasks,
            stop,
            sender,
            handles: HashMap::new(),
            queued: HashMap::new(),
            heard: HashSet::new(),
            expected,
            fingerprints: HashMap::new(),
        }
    }

    /// Takes messages until the agent stops.
    pub(crate) async fn run(mut self, mut messages: mpsc::UnboundedReceiver<Message>) {
        let mut mirrors = tokio::time::interval(MIRRORS);
        loop {
            let message = tokio::select! {
                () = self.stop.cancelled() => return,
                // A mirror may have failed, for want of the node, its namespace or the API server.
                _ = mirrors.tick() => {
                    self.reconcile_mirrors();
                    continue;
                }
                message = messages.recv() => match message {
                    Some(message) => message,
                    None => return,
                },
            };
            match message {
                Message::Set(source, pods) => self.set(source, pods),
                Message::Apply(source, pod) => self.apply(source, *pod),
                Message::Remove(source, uid) => self.removed(source, &uid),
                Message::Wake(uids) => self.wake(&uids),
                Message::Relist(listing) => self.relisted(&listing),
                Message::Ended(uid) => self.ended(&uid),
                Message::Crashed(uid) => self.crashed(&uid),
            }
        }
    }

    fn set(&mut self, source: Source, mut pods: Vec<Pod>) {
        let uids: HashSet<String> = pods.iter().filter_map(|p| p.metadata.uid.clone()).collect();
        let listed = |pod: &Pod| pod.metadata.uid.as_ref().is_some_and(|uid| uids.contains(uid));
        self.queued.retain(|_, (of, pod)| *of != source || listed(pod));
        let known = self.handles.iter().filter(|(_, h)| h.source == source);
        let gone: Vec<String> = known.map(|(uid, _)| uid.clone()).filter(|u| !uids.contains(u)).collect();
        for uid in gone {
            self.removed(source, &uid);
        }
        if source == Source::Api {
            self.mirrors.forget_all();
        }
        // Who was here first is admitted first.
        pods.sort_by(|a, b| a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp));
        for pod in pods {
            self.apply(source, pod);
        }
        self.heard.insert(source);
        self.reconcile_mirrors();
    }

    fn apply(&mut self, source: Source, mut pod: Pod) {
        if source == Source::Api && super::annotation(&pod, super::MIRROR).is_some() {
            self.mirrors.seen(pod);
            self.reconcile_mirrors();
            return;
        }
        if let Some(claimed) = pod.metadata.annotations.as_mut().and_then(|a| a.get_mut(super::SOURCE))
            && source == Source::Api
        {
            // Anybody may write the annotation; only we know.
            "api".clone_into(claimed);
        }
        let Some(uid) = pod.metadata.uid.clone() else { return };
        if let Some(handle) = self.handles.get(&uid) {
            // The uid of a static pod is its content's: a file that is back has the one that is ending.
            if source == Source::File && handle.desired.borrow().intent != Intent::Run {
                self.queued.insert(full_name(&pod), (source, pod));
                return;
            }
            let desired = desired(Arc::new(pod));
            if let Some(entry) = self.registry.entries().get_mut(&uid) {
                entry.pod = Arc::clone(&desired.pod);
            }
            handle.desired.send_if_modified(|old| {
                // A removal is never taken back.
                let intent = match (old.intent, desired.intent) {
                    (removal @ Intent::Remove { .. }, Intent::Run) => removal,
                    (_, new) => new,
                };
                let changed = !same_wish(&old.pod, &desired.pod) || old.intent != intent;
                if changed {
                    *old = Desired { pod: Arc::clone(&desired.pod), intent };
                }
                changed
            });
            return;
        }
        let name = full_name(&pod);
        let taken = self.registry.entries().values().any(|e| full_name(&e.pod) == name);
        if taken {
            self.queued.insert(name, (source, pod));
        } else {
            self.spawn(source, pod);
        }
    }

    fn removed(&mut self, source: Source, uid: &str) {
        if source == Source::Api && self.mirrors.removed(uid) {
            self.reconcile_mirrors();
            return;
        }
        self.queued.retain(|_, (_, pod)| pod.metadata.uid.as_deref() != Some(uid));
        let Some(handle) = self.handles.get(uid) else { return };
        handle.desired.send_modify(|desired| {
            let spec_grace = desired.pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
            let grace = match (source, desired.intent) {
                (Source::File, _) => spec_grace.unwrap_or(30),
                (Source::Api, Intent::Remove { grace, .. }) => grace.min(ORPHAN_GRACE),
                (Source::Api, Intent::Run) => ORPHAN_GRACE,
            };
            desired.intent = Intent::Remove { grace, delete_object: false };
        });
    }

    fn wake(&self, uids: &[String]) {
        for handle in uids.iter().filter_map(|uid| self.handles.get(uid)) {
            handle.wake.notify_one();
        }
    }

    fn spawn(&mut self, source: Source, pod: Pod) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        let rejected = self.judge(&pod);
        let status = pod.status.clone().unwrap_or_default();
        let (target, targets) = watch::channel((source == Source::Api).then(|| Target::of(&pod)));
        let poster = Poster::start(self.ctx.api().cloned(), targets, status);
        let desired = desired(Arc::new(pod));
        let entry = Entry { pod: Arc::clone(&desired.pod), status: poster.subscribe(), mirror_uid: None };
        self.registry.entries().insert(uid.clone(), entry);
        let wake = Arc::new(Notify::new());
        let (desired, receiver) = watch::channel(desired);
        let worker = Worker::new(Arc::clone(&self.ctx), receiver, Arc::clone(&wake), poster, rejected);
        let handle = Handle { desired, wake, target, source };
        self.handles.insert(uid.clone(), handle);
        let stop = self.stop.clone();
        let sender = self.sender.clone();
        let work = async move {
            // A panic is one pod's: what the worker had in its hands is looked at anew.
            if AssertUnwindSafe(worker.run()).catch_unwind().await.is_ok() {
                return Message::Ended(uid);
            }
            tracing::error!(uid, "the worker of a pod panicked (a bug); it is started anew soon");
            tokio::time::sleep(RESTART).await;
            Message::Crashed(uid)
        };
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                message = work => {
                    // The manager is gone only when the agent stops.
                    let _ = sender.send(message);
                }
            }
        });
        if source == Source::File {
            self.reconcile_mirrors();
        }
    }

    fn judge(&self, pod: &Pod) -> Option<admission::Rejection> {
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        let deleted = pod.metadata.deletion_timestamp.is_some();
        // What ran before this agent started stays.
        if deleted || !matches!(phase, None | Some("Pending")) {
            return None;
        }
        let entries = self.registry.all();
        let others: Vec<Pod> = entries.iter().map(Entry::current).filter(|p| !is_terminal(p)).collect();
        let others: Vec<&Pod> = others.iter().collect();
        admission::admit(pod, &others, self.ctx.node.borrow().as_ref()).err()
    }

    fn ended(&mut self, uid: &str) {
        self.handles.remove(uid);
        self.fingerprints.remove(uid);
        let entry = self.registry.entries().remove(uid);
        let Some(entry) = entry else { return };
        let ended = full_name(&entry.pod);
        // What was adopted by its uid alone has no name.
        let waits = |(name, (_, pod)): (&String, &(Source, Pod))| {
            (*name == ended || pod.metadata.uid.as_deref() == Some(uid)).then(|| name.clone())
        };
        let next = self.queued.iter().find_map(waits);
        if let Some((source, pod)) = next.and_then(|name| self.queued.remove(&name)) {
            self.spawn(source, pod);
        }
        if is_static(&entry.pod) {
            self.reconcile_mirrors();
        }
    }

    fn crashed(&mut self, uid: &str) {
        let Some(handle) = self.handles.remove(uid) else { return };
        let Some(entry) = self.registry.entries().remove(uid) else { return };
        let intent = handle.desired.borrow().intent;
        self.spawn(handle.source, entry.current());
        if let Some(fresh) = self.handles.get(uid) {
            fresh.desired.send_modify(|desired| desired.intent = intent);
        }
    }

    fn reconcile_mirrors(&mut self) {
        // What a source has not told yet is not absent.
        if self.heard.len() < self.expected {
            return;
        }
        let statics: Vec<Arc<Pod>> =
            self.registry.all().into_iter().filter(|e| is_static(&e.pod)).map(|e| e.pod).collect();
        self.mirrors.reconcile(&statics);
        for pod in &statics {
            let Some(uid) = pod.metadata.uid.as_deref() else { continue };
            let target = self.mirrors.target(pod);
            if let Some(entry) = self.registry.entries().get_mut(uid) {
                entry.mirror_uid = target.as_ref().map(|t| t.uid.clone());
            }
            if let Some(handle) = self.handles.get(uid) {
                handle.target.send_if_modified(|old| {
                    let changed = *old != target;
                    old.clone_from(&target);
                    changed
                });
            }
        }
    }
}

fn desired(pod: Arc<Pod>) -> Desired {
    let meta = &pod.metadata;
    let intent = if meta.deletion_timestamp.is_some() {
        let spec_grace = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
        let grace = meta.deletion_grace_period_seconds.or(spec_grace).unwrap_or(30);
        Intent::Remove { grace, delete_object: true }
    } else {
        Intent::Run
    };
    Desired { pod, intent }
}

/// Whether two versions of a pod ask for the same; our own status coming back is no news.
fn same_wish(old: &Pod, new: &Pod) -> bool {
    let foreign = |pod: &Pod| -> Vec<PodCondition> {
        let all = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
        all.filter(|c| conditions::is_foreign(&c.type_)).cloned().collect()
    };
    let (a, b) = (&old.metadata, &new.metadata);
    old.spec == new.spec
        && (&a.labels, &a.annotations, a.generation) == (&b.labels, &b.annotations, b.generation)
        && a.deletion_grace_period_seconds == b.deletion_grace_period_seconds
        && a.deletion_timestamp == b.deletion_timestamp
        && foreign(old) == foreign(new)
}
