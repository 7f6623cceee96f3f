//! The manager of all pods: takes them from their sources, keeps one worker for each, and hears the runtime.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use orlop_proto::v1;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission;
use super::conditions;
use super::mirror::Mirrors;
use super::post::{Poster, Target};
use super::worker::{Desired, Intent, Worker};
use super::{full_name, is_static, is_terminal};
use crate::container::keys;
use crate::context::Context;
use crate::sync::lock;

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

/// The runtime's sandboxes and containers.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) sandboxes: Vec<v1::PodSandbox>,
    pub(crate) containers: Vec<v1::Container>,
}

/// A pod as the HTTPS API shows it.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) pod: Arc<Pod>,
    status: watch::Receiver<(u64, PodStatus)>,
    mirror_uid: Option<String>,
}

impl Entry {
    /// The pod with its present status.
    pub(crate) fn current(&self) -> Pod {
        let mut pod = (*self.pod).clone();
        pod.status = Some(self.status.borrow().1.clone());
        pod
    }
}

/// The pods of this node, for readers.
#[derive(Debug, Default)]
pub(crate) struct Registry(Mutex<BTreeMap<String, Entry>>);

impl Registry {
    /// All pods.
    pub(crate) fn all(&self) -> Vec<Entry> {
        lock(&self.0).values().cloned().collect()
    }

    /// A pod by its name, and by its uid or its mirror's if given.
    pub(crate) fn find(&self, namespace: &str, name: &str, uid: Option<&str>) -> Option<Entry> {
        let is = |entry: &&Entry| {
            let meta = &entry.pod.metadata;
            meta.namespace.as_deref() == Some(namespace)
                && meta.name.as_deref() == Some(name)
                && uid.is_none_or(|u| meta.uid.as_deref() == Some(u) || entry.mirror_uid.as_deref() == Some(u))
        };
        lock(&self.0).values().find(is).cloned()
    }
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
            if let Some(entry) = lock(&self.registry.0).get_mut(&uid) {
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
        let taken = lock(&self.registry.0).values().any(|e| full_name(&e.pod) == name);
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
        lock(&self.registry.0).insert(uid.clone(), entry);
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
        let entry = lock(&self.registry.0).remove(uid);
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
        let Some(entry) = lock(&self.registry.0).remove(uid) else { return };
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
            if let Some(entry) = lock(&self.registry.0).get_mut(uid) {
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

    fn relisted(&mut self, listing: &Listing) {
        let mut seen: HashMap<String, Vec<(String, i32)>> = HashMap::new();
        for sandbox in &listing.sandboxes {
            if let Some(uid) = sandbox.labels.get(keys::POD_UID) {
                seen.entry(uid.clone()).or_default().push((sandbox.id.clone(), sandbox.state));
            }
        }
        for container in &listing.containers {
            if let Some(uid) = container.labels.get(keys::POD_UID) {
                seen.entry(uid.clone()).or_default().push((container.id.clone(), container.state));
            }
        }
        for states in seen.values_mut() {
            states.sort();
        }
        let changed = |uid: &&String| seen.get(*uid) != self.fingerprints.get(*uid);
        let uids: Vec<String> = self.handles.keys().filter(changed).cloned().collect();
        self.wake(&uids);
        if self.heard.len() >= self.expected {
            self.adopt_orphans(listing, &seen);
        }
        self.fingerprints = seen;
    }

    /// Pods that nobody wants any more are ended by a worker like any other.
    fn adopt_orphans(&mut self, listing: &Listing, seen: &HashMap<String, Vec<(String, i32)>>) {
        let names = listing.sandboxes.iter().map(|s| &s.labels).chain(listing.containers.iter().map(|c| &c.labels));
        for labels in names {
            let Some(uid) = labels.get(keys::POD_UID).filter(|u| !self.handles.contains_key(*u)) else {
                continue;
            };
            let get = |key| labels.get(key).cloned();
            let pod = orphan(uid.clone(), get(keys::POD_NAME), get(keys::POD_NAMESPACE));
            tracing::info!(pod = super::display_name(&pod), "ending a pod that nobody wants");
            self.end_orphan(Source::Api, pod);
        }
        for uid in self.ctx.cgroups.pods() {
            self.clean_leftover(&uid, seen);
        }
        let folders = std::fs::read_dir(self.ctx.config.state_dir.join("pods"));
        for folder in folders.into_iter().flatten().flatten() {
            self.clean_leftover(&folder.file_name().to_string_lossy(), seen);
        }
    }

    fn end_orphan(&mut self, source: Source, pod: Pod) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        self.spawn(source, pod);
        self.removed(source, &uid);
    }

    /// Folders and cgroups of pods that are in no source and not in the runtime.
    fn clean_leftover(&mut self, uid: &str, seen: &HashMap<String, Vec<(String, i32)>>) {
        if self.handles.contains_key(uid) || seen.contains_key(uid) {
            return;
        }
        tracing::info!(uid, "removing what is left of a pod");
        // No source knows it; this one has nobody to tell a status to.
        self.end_orphan(Source::File, orphan(uid.to_owned(), None, None));
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

/// As much of a pod as the runtime's labels tell.
fn orphan(uid: String, name: Option<String>, namespace: Option<String>) -> Pod {
    let mut pod = Pod::default();
    pod.metadata.uid = Some(uid);
    pod.metadata.name = name;
    pod.metadata.namespace = namespace;
    pod.status = Some(PodStatus {
        // It must not be started again.
        phase: Some("Failed".to_owned()),
        ..PodStatus::default()
    });
    pod
}

/// How often everything is listed: rarely when the runtime tells events, else each second.
const SLOW: Duration = Duration::from_secs(10);
const FAST: Duration = Duration::from_secs(1);

/// Follows the runtime: its events as they come, and a listing of everything now and then.
pub(crate) async fn follow_runtime(ctx: Arc<Context>, manager: mpsc::UnboundedSender<Message>) {
    loop {
        list_into(&ctx, &manager).await;
        match ctx.cri.events().await {
            Ok(mut events) => {
                let mut tick = tokio::time::interval(SLOW);
                loop {
                    tokio::select! {
                        event = events.message() => match event {
                            Ok(Some(event)) => told(&ctx, &manager, event).await,
                            Ok(None) | Err(_) => break,
                        },
                        _ = tick.tick() => list_into(&ctx, &manager).await,
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "the runtime tells no events; listing each second"),
        }
        tokio::time::sleep(FAST).await;
    }
}

async fn told(ctx: &Context, manager: &mpsc::UnboundedSender<Message>, event: v1::ContainerEventResponse) {
    let metadata = event.pod_sandbox_status.and_then(|s| s.metadata);
    match metadata.map(|m| m.uid).filter(|uid| !uid.is_empty()) {
        Some(uid) => {
            // The manager is gone only when the agent stops.
            let _ = manager.send(Message::Wake(vec![uid]));
        }
        None => list_into(ctx, manager).await,
    }
}

async fn list_into(ctx: &Context, manager: &mpsc::UnboundedSender<Message>) {
    let sandboxes = ctx.cri.list_pod_sandbox(v1::ListPodSandboxRequest::default());
    let containers = ctx.cri.list_containers(v1::ListContainersRequest::default());
    match tokio::try_join!(sandboxes, containers) {
        Ok((sandboxes, containers)) => {
            let listing = Listing { sandboxes: sandboxes.items, containers: containers.containers };
            let _ = manager.send(Message::Relist(Box::new(listing)));
        }
        Err(error) => tracing::warn!(%error, "cannot list what the runtime has"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cgroups::Cgroups;
    use crate::config::Config;
    use crate::container::config::NodeFacts;
    use crate::cri::Cri;
    use crate::objects::Objects;
    use crate::services::Services;

    /// A manager of static pods whose runtime never answers: a pod ends when the test says so.
    struct Fixture {
        manager: Manager,
        _messages: mpsc::UnboundedReceiver<Message>,
        _folder: tempfile::TempDir,
    }

    impl Fixture {
        fn new(name: &str) -> Option<Self> {
            if !nix::unistd::geteuid().is_root() {
                eprintln!("SKIP: not root");
                return None;
            }
            let folder = tempfile::tempdir().expect("a folder");
            let config = Config::new("n", folder.path(), folder.path().join("cri.sock"));
            let cgroups = Cgroups::new(&format!("/orlop-agent-{name}-{}", std::process::id())).expect("the cgroups");
            let ctx = Arc::new(Context {
                cri: Cri::new(&config.cri_socket),
                config,
                client: None,
                events: crate::events::recorder("n").0,
                objects: Objects::new(None),
                services: Services::new(false),
                cgroups,
                facts: NodeFacts { memory: 1 << 30, oom_floor: 0, memory_v2: true },
                node_ips: Vec::new(),
                runtime_name: "none".to_owned(),
                allocatable: BTreeMap::new(),
                node: watch::Sender::new(None),
            });
            let (sender, messages) = mpsc::unbounded_channel();
            let stop = CancellationToken::new();
            let manager = Manager::new(ctx, Arc::default(), sender, 1, TaskTracker::new(), stop);
            Some(Self { manager, _messages: messages, _folder: folder })
        }

        fn set(&mut self, uids: &[&str]) {
            let pods = uids.iter().map(|uid| {
                let annotations = json!({super::super::SOURCE: "file", super::super::CONFIG_HASH: uid});
                let metadata = json!({"name": "web", "namespace": "default", "uid": uid, "annotations": annotations});
                serde_json::from_value(json!({"metadata": metadata, "spec": {"containers": []}})).expect("a pod")
            });
            self.manager.set(Source::File, pods.collect());
        }

        /// The uids with a worker, and whether they are to run.
        fn workers(&self) -> BTreeMap<&str, bool> {
            let runs = |h: &Handle| h.desired.borrow().intent == Intent::Run;
            self.manager.handles.iter().map(|(uid, h)| (uid.as_str(), runs(h))).collect()
        }
    }

    impl Drop for Fixture {
        fn drop(&mut self) {
            self.manager.stop.cancel();
            self.manager.ctx.cgroups.remove_if_empty();
        }
    }

    #[tokio::test]
    async fn the_last_word_of_the_files_counts_when_a_pod_has_ended() {
        let Some(mut fixture) = Fixture::new("files") else { return };
        let cases: [(&[&[&str]], Option<&str>); 4] = [
            (&[&[], &["1"]], Some("1")),
            (&[&["2"], &["1"]], Some("1")),
            (&[&["2"], &[]], None),
            (&[&["2"], &["3"]], Some("3")),
        ];
        for (edits, last) in cases {
            fixture.set(&["1"]);
            assert_eq!(fixture.workers(), BTreeMap::from([("1", true)]));
            for edit in edits {
                fixture.set(edit);
                assert_eq!(fixture.workers(), BTreeMap::from([("1", false)]), "one at a time");
            }
            fixture.manager.ended("1");
            assert_eq!(fixture.workers(), last.map(|uid| (uid, true)).into_iter().collect(), "{edits:?}");
            // The next case begins with nothing.
            fixture.set(&[]);
            for uid in ["1", "2", "3"] {
                fixture.manager.ended(uid);
            }
        }
    }

    #[tokio::test]
    async fn a_worker_that_panicked_is_replaced_and_its_pod_still_ends() {
        let Some(mut fixture) = Fixture::new("panics") else { return };
        fixture.set(&["1"]);
        fixture.manager.crashed("1");
        assert_eq!(fixture.workers(), BTreeMap::from([("1", true)]));
        fixture.set(&[]);
        fixture.manager.crashed("1");
        assert_eq!(fixture.workers(), BTreeMap::from([("1", false)]));
        fixture.manager.ended("1");
        assert!(fixture.workers().is_empty());
    }
}
