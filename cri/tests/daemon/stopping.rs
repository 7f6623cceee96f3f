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
