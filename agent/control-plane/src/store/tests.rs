//! The store as its callers see it, on real databases.

use serde_json::json;

use super::*;

const PODS: &str = "core/pods";

fn open(dir: &Path) -> Store {
    Store::open(&dir.join("test.db"), &[PODS]).unwrap()
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
    assert!(seen[0].previous.is_none() && !seen[0].deleted);
    assert!(seen[4].deleted && revision(&seen[4].value) == seen[4].revision);
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
