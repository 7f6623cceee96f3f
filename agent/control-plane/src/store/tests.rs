//! The store as its callers see it, on real databases.

use futures::FutureExt as _;
use serde_json::json;

use super::*;

const PODS: &str = "core/pods";
const NAMESPACES: &str = "core/namespaces";

fn open(dir: &Path) -> Store {
    Store::open(&dir.join("test.db"), &[PODS, NAMESPACES]).unwrap()
}

fn write(name: &str, expect: Expect, value: Option<Value>) -> Write {
    let key = Key { resource: PODS, namespace: "default".into(), name: name.into() };
    Write { key, expect, value, durability: Durability::Full }
}

fn revision(value: &Value) -> u64 {
    value["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_write_is_checked_against_the_newest_revision() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let made = store.write(write("a", Expect::Absent, Some(json!({"metadata": {}})))).await.unwrap();
    let again = store.write(write("a", Expect::Absent, Some(json!({"metadata": {}})))).await;
    assert!(matches!(again, Err(WriteError::Exists)));
    let stale = Expect::Revision(revision(&made) - 1);
    let result = store.write(write("a", stale, Some(json!({"metadata": {}})))).await;
    assert!(matches!(result, Err(WriteError::Changed)));
    let current = Expect::Revision(revision(&made));
    let changed = store.write(write("a", current, Some(json!({"metadata": {}, "x": 1})))).await.unwrap();
    assert!(revision(&changed) > revision(&made));
    let missing = store.write(write("b", Expect::Revision(1), None)).await;
    assert!(matches!(missing, Err(WriteError::Missing)));
}

#[tokio::test]
async fn acknowledged_writes_survive_a_reopen_and_revisions_never_repeat() {
    let dir = tempfile::tempdir().unwrap();
    let last = {
        let store = open(dir.path());
        for name in ["a", "b", "c"] {
            store.write(write(name, Expect::Absent, Some(json!({"metadata": {"name": name}})))).await.unwrap();
        }
        let b = store.list(PODS, Some("default")).items[1].clone();
        store.write(write("b", Expect::Revision(revision(&b)), None)).await.unwrap();
        let mut event = write("e", Expect::Absent, Some(json!({"metadata": {"name": "e"}})));
        event.durability = Durability::Heartbeat;
        let revision = revision(&store.write(event).await.unwrap());
        store.close().await;
        revision
    };
    let store = open(dir.path());
    let names: Vec<String> =
        store.list(PODS, None).items.iter().map(|o| o["metadata"]["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["a", "c", "e"]);
    assert!(store.revision() >= last);
}

#[tokio::test]
async fn a_watcher_sees_every_change_in_order_and_learns_when_it_is_too_late() {
    let dir = tempfile::tempdir().unwrap();
    // What an earlier process did is not in the log of this one.
    open(dir.path()).close().await;
    let store = open(dir.path());
    let start = store.revision();
    let mut watcher = store.watch(PODS, start);
    let mut value = store.write(write("a", Expect::Absent, Some(json!({"metadata": {}})))).await.unwrap();
    for n in 0..3 {
        let expect = Expect::Revision(revision(&value));
        value = store.write(write("a", expect, Some(json!({"metadata": {}, "n": n})))).await.unwrap();
    }
    store.write(write("a", Expect::Revision(revision(&value)), None)).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 5 {
        seen.extend(watcher.next().await.unwrap());
    }
    assert!(seen.windows(2).all(|pair| pair[0].revision < pair[1].revision));
    assert!(seen[0].previous().is_none() && !seen[0].deleted);
    assert!(seen[4].deleted && revision(&seen[4].value()) == seen[4].revision);
    let at = store.list_at(PODS, None, seen[2].revision).unwrap();
    assert_eq!(at.items[0]["n"], 1, "a listing of the past shows the past");
    assert!(store.watch(PODS, start - 1).poll().is_err(), "what was before the log's start has expired");
}

#[tokio::test]
async fn writes_that_wait_share_a_transaction_and_stay_ordered() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let writes = (0..200).map(|n| {
        let store = store.clone();
        async move {
            store
                .write(write(&format!("p{n}"), Expect::Absent, Some(json!({"metadata": {}}))))
                .await
                .map(|v| revision(&v))
        }
    });
    let mut revisions: Vec<u64> = futures::future::try_join_all(writes).await.unwrap();
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(revisions.len(), 200);
    assert_eq!(store.list(PODS, Some("default")).items.len(), 200);
}

#[tokio::test]
async fn nothing_is_made_in_what_is_gone_or_going_by_the_same_batch() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let home = || Key { resource: NAMESPACES, namespace: String::new(), name: "n".into() };
    let mark = |expect, metadata: Value| Write {
        key: home(),
        expect,
        value: Some(json!({"metadata": metadata})),
        durability: Durability::Full,
    };
    let pod = |name: &str| write(name, Expect::AbsentWithin(home()), Some(json!({"metadata": {}})));
    assert!(matches!(store.write(pod("early")).await, Err(WriteError::Ending)));
    let made = store.write(mark(Expect::Absent, json!({}))).await.unwrap();
    store.write(pod("in time")).await.unwrap();
    // Many share a batch with the mark, before and after it.
    let marked = store.write(mark(Expect::Revision(revision(&made)), json!({"deletionTimestamp": "now"})));
    let names: Vec<String> = (0..100).map(|n| format!("late{n}")).collect();
    let late = futures::future::join_all(names.iter().map(|name| store.write(pod(name))));
    let (marked, late) = futures::join!(marked, late);
    marked.unwrap();
    assert!(late.iter().all(|result| matches!(result, Err(WriteError::Ending))), "all were sent after the mark");
}

/// A disk that can be full, and what is on it.
#[derive(Debug, Clone, Default)]
struct Disk(Arc<std::sync::Mutex<(bool, std::collections::BTreeMap<String, u64>)>>);

impl Backend for Disk {
    fn load(&mut self) -> Result<Contents, Error> {
        Ok(Contents { objects: Vec::new(), ceiling: 0 })
    }

    fn commit(&mut self, rows: &[Row], _: Option<u64>, _: bool) -> Result<(), Error> {
        let mut disk = self.0.lock().unwrap();
        if disk.0 {
            return Err(Error::Thread(std::io::ErrorKind::StorageFull.into()));
        }
        for row in rows {
            match &row.value {
                Some(_) => drop(disk.1.insert(row.key.clone(), row.revision)),
                None => drop(disk.1.remove(&row.key)),
            }
        }
        Ok(())
    }
}

#[tokio::test]
async fn what_was_acknowledged_is_written_even_after_a_write_that_failed() {
    let disk = Disk::default();
    let store = Store::with_backend(Box::new(disk.clone()), &[PODS]).unwrap();
    let relaxed = |mut write: Write| {
        write.durability = Durability::Relaxed;
        write
    };
    let value = || Some(json!({"metadata": {}}));
    let kept = store.write(relaxed(write("kept", Expect::Absent, value()))).await.unwrap();
    let changed = store.write(relaxed(write("changed", Expect::Absent, value()))).await.unwrap();
    disk.0.lock().unwrap().0 = true;
    let expect = Expect::Revision(revision(&changed));
    assert!(matches!(store.write(write("changed", expect, value())).await, Err(WriteError::Storage(_))));
    disk.0.lock().unwrap().0 = false;
    store.close().await;
    let disk = disk.0.lock().unwrap();
    let on_disk = |name: &str| disk.1.get(&format!("/registry/{PODS}/default/{name}")).copied();
    assert_eq!(on_disk("kept"), Some(revision(&kept)));
    assert_eq!(on_disk("changed"), Some(revision(&changed)));
}

#[tokio::test]
async fn a_deletion_is_not_undone_by_a_heartbeat_of_the_same_batch() {
    let disk = Disk::default();
    let store = Store::with_backend(Box::new(disk.clone()), &[PODS]).unwrap();
    let made = store.write(write("a", Expect::Absent, Some(json!({"metadata": {}})))).await.unwrap();
    // While the writer waits for the disk, what is sent gathers in one batch.
    let busy = disk.0.lock().unwrap();
    let mut first = Box::pin(store.write(write("b", Expect::Absent, Some(json!({"metadata": {}})))));
    let mut beat = write("a", Expect::Revision(revision(&made)), Some(json!({"metadata": {}})));
    beat.durability = Durability::Heartbeat;
    let mut beaten = Box::pin(store.write(beat));
    let mut gone = Box::pin(store.write(write("a", Expect::Revision(revision(&made) + 2), None)));
    for sent in [&mut first, &mut beaten, &mut gone] {
        assert!(sent.now_or_never().is_none());
    }
    drop(busy);
    for sent in [first, beaten, gone] {
        sent.await.unwrap();
    }
    store.close().await;
    let disk = disk.0.lock().unwrap();
    assert_eq!(disk.1.keys().collect::<Vec<_>>(), [&format!("/registry/{PODS}/default/b")]);
}
