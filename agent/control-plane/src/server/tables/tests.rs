use serde_json::{Value, json};

use super::pods::summarize;
use super::{columns, rows};
use crate::registry::resource::ALL;

fn pod(status: Value) -> Value {
    json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}, "status": status})
}

fn shown(pod: &Value) -> (String, String, i64) {
    let summary = summarize(pod);
    (format!("{}/{}", summary.ready, summary.total), summary.reason, summary.restarts)
}

#[test]
fn every_row_has_a_cell_for_every_column() {
    for resource in ALL {
        let object = json!({"metadata": {"name": "x"}});
        assert_eq!(columns(resource).len(), rows::cells(resource, &object).len(), "{}", resource.kind);
    }
}

#[test]
fn a_pods_status_is_what_its_containers_tell() {
    let running = json!({"name": "a", "ready": true, "state": {"running": {}}, "restartCount": 2});
    let cases = [
        (json!({"phase": "Pending"}), ("0/2", "Pending", 0)),
        (json!({"phase": "Failed", "reason": "Evicted"}), ("0/2", "Evicted", 0)),
        (json!({"phase": "Running", "containerStatuses": [running, running]}), ("2/2", "Running", 4)),
        (
            json!({"phase": "Pending", "containerStatuses": [
                {"state": {"waiting": {"reason": "ContainerCreating"}}}, {"state": {"waiting": {"reason": "ErrImagePull"}}}]}),
            ("0/2", "ContainerCreating", 0),
        ),
        (
            json!({"phase": "Running", "containerStatuses": [running,
                {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "restartCount": 3}]}),
            ("1/2", "CrashLoopBackOff", 5),
        ),
        (
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [
                {"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}, running]}),
            ("1/2", "Running", 2),
        ),
        (
            json!({"phase": "Running", "containerStatuses": [
                {"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}, running]}),
            ("1/2", "NotReady", 2),
        ),
        (
            json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 137, "signal": 9}}}]}),
            ("0/2", "Signal:9", 0),
        ),
        (
            json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]}),
            ("0/2", "ExitCode:3", 0),
        ),
    ];
    for (status, (ready, reason, restarts)) in cases {
        assert_eq!(shown(&pod(status.clone())), (ready.to_owned(), reason.to_owned(), restarts), "{status}");
    }
}

#[test]
fn init_containers_and_sidecars_count() {
    let mut object = pod(json!({"phase": "Pending", "initContainerStatuses": [
        {"name": "i", "state": {"terminated": {"exitCode": 0}}}, {"name": "j", "state": {"running": {}}}]}));
    object["spec"]["initContainers"] = json!([{"name": "i"}, {"name": "j"}, {"name": "s", "restartPolicy": "Always"}]);
    assert_eq!(shown(&object), ("0/3".into(), "Init:1/3".into(), 0));
    object["status"]["initContainerStatuses"][1]["state"] = json!({"waiting": {"reason": "CrashLoopBackOff"}});
    assert_eq!(shown(&object).1, "Init:CrashLoopBackOff");
    object["status"]["initContainerStatuses"][1]["state"] = json!({"terminated": {"exitCode": 2, "reason": "Error"}});
    assert_eq!(shown(&object).1, "Init:Error");
}

#[test]
fn a_deleted_pod_is_terminating_until_it_is_over() {
    let mut object = pod(json!({"phase": "Running"}));
    object["metadata"]["deletionTimestamp"] = json!("2020-01-01T00:00:00Z");
    assert_eq!(shown(&object).1, "Terminating");
    object["status"]["phase"] = json!("Succeeded");
    assert_eq!(shown(&object).1, "Succeeded");
}
