use serde_json::json;

use std::collections::BTreeMap;

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
