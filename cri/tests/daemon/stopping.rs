//! Stop signals, grace, and removal of what runs.

use orlop_proto::v1;

use crate::node::{Node, wait_for};
use crate::pod::{Pod, script};

async fn ready(pod: &Pod, name: &str) {
    wait_for("the script to be ready", async || pod.log(name).contains(&"ready".to_owned())).await;
}

#[tokio::test]
async fn the_stop_signal_comes_first_and_sigkill_last() {
    let node = Node::start().await;
    let mut pod = Pod::run(&node, "stop").await;
    let polite = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done";
    let id = pod.start(script("polite", polite)).await;
    ready(&pod, "polite").await;
    pod.stop_container(&id, 20).await;
    assert_eq!(pod.container(&id).await.exit_code, 7);
    assert_eq!(pod.log("polite"), ["ready", "bye"]);
    pod.stop_container(&id, 20).await;

    let deaf = pod.start(script("deaf", "trap '' TERM; echo ready; while :; do sleep 0.05; done")).await;
    ready(&pod, "deaf").await;
    pod.stop_container(&deaf, 1).await;
    let status = pod.container(&deaf).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));

    let mut config = script("other", "trap 'exit 9' USR1; echo ready; while :; do sleep 0.05; done");
    config.set_stop_signal(v1::Signal::Sigusr1);
    let other = pod.start(config).await;
    ready(&pod, "other").await;
    assert_eq!(pod.container(&other).await.stop_signal(), v1::Signal::Sigusr1);
    pod.stop_container(&other, 20).await;
    assert_eq!(pod.container(&other).await.exit_code, 9);
    pod.remove().await;
    node.finish().await;
}

#[tokio::test]
async fn what_runs_or_was_never_started_can_be_removed() {
    let node = Node::start().await;
    let mut pod = Pod::run(&node, "remove").await;
    let running = pod.start(script("running", "sleep 1000 & sleep 1000")).await;
    let created = pod.create(script("created", "sleep 1000")).await.unwrap();
    for id in [&running, &created] {
        pod.remove_container(id).await;
        pod.remove_container(id).await;
        let request = v1::ContainerStatusRequest { container_id: id.clone(), verbose: false };
        assert_eq!(pod.client.container_status(request).await.unwrap_err().code(), tonic::Code::NotFound);
        pod.stop_container(id, 1).await;
    }
    pod.start(script("last", "sleep 1000")).await;
    pod.remove().await;
    node.finish().await;
}

#[tokio::test]
async fn a_program_that_is_not_there_is_a_start_error() {
    let node = Node::start().await;
    let mut pod = Pod::run(&node, "missing").await;
    let mut config = script("main", "");
    config.command = vec!["/no/such/program".to_owned()];
    let outcome = match pod.create(config).await {
        Ok(id) => {
            let request = v1::StartContainerRequest { container_id: id.clone() };
            let error = pod.client.start_container(request).await.unwrap_err();
            let status = pod.container(&id).await;
            assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
            error
        }
        Err(error) => error,
    };
    assert!(outcome.message().contains("/no/such/program"), "{outcome}");
    pod.remove().await;
    node.finish().await;
}

#[tokio::test]
async fn a_stop_in_its_grace_does_not_hold_the_daemon_up() {
    let mut node = Node::start().await;
    let mut pod = Pod::run(&node, "grace").await;
    let id = pod.start(script("deaf", "trap 'echo asked' TERM; echo ready; while :; do sleep 0.05; done")).await;
    ready(&pod, "deaf").await;
    let (mut stopping, mut executing) = (node.runtime().await, node.runtime().await);
    let request = v1::StopContainerRequest { container_id: id.clone(), timeout: 600 };
    let stopping = tokio::spawn(async move { stopping.stop_container(request).await });
    let cmd = ["sleep", "1000"].map(str::to_owned).to_vec();
    let request = v1::ExecSyncRequest { container_id: id.clone(), cmd, timeout: 0 };
    let executing = tokio::spawn(async move { executing.exec_sync(request).await });
    wait_for("the signal", async || pod.log("deaf").contains(&"asked".to_owned())).await;
    wait_for("the command", async || pod.output(&id, "grep -c 1000 /proc/[0-9]*/cmdline || true").await.contains(":1"))
        .await;
    node.stop_daemon().await;
    for outcome in [stopping.await.unwrap().map(drop), executing.await.unwrap().map(drop)] {
        assert_eq!(outcome.unwrap_err().code(), tonic::Code::Unavailable);
    }
    // What did not end in time would have been told here.
    let log = std::fs::read_to_string(node.names.state.join("daemon.log")).unwrap();
    assert!(!log.contains("did not end in time"), "{log}");
    node.start_daemon().await;
    pod.again(&node).await;
    assert_eq!(pod.container(&id).await.state(), v1::ContainerState::ContainerRunning);
    pod.remove().await;
    node.finish().await;
}
