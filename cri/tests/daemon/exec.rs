//! ExecSync.

use crate::node::{Node, wait_for};
use crate::pod::{Pod, script};

#[tokio::test]
async fn a_command_answers_with_its_output_and_code() {
    let node = Node::start().await;
    let mut pod = Pod::run(&node, "exec").await;
    let id = pod.start(script("main", "sleep 1000")).await;
    let answer = pod.exec(&id, "echo out; echo err >&2; exit 5").await.unwrap();
    assert_eq!(
        (answer.stdout.as_slice(), answer.stderr.as_slice(), answer.exit_code),
        (&b"out\n"[..], &b"err\n"[..], 5)
    );
    let error = pod.exec("0123", "true").await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::NotFound);
    pod.remove().await;
    node.finish().await;
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_killed_with_what_it_started() {
    let node = Node::start().await;
    let mut pod = Pod::run(&node, "slow").await;
    let id = pod.start(script("main", "sleep 1000")).await;
    let error = pod.exec_for(&id, "sleep 4711 & sleep 4712", 1).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::DeadlineExceeded, "{error}");
    wait_for("the command and its child to be gone", async || {
        pod.output(&id, "cat /proc/[0-9]*/cmdline | grep -c 471[12] || true").await == "0"
    })
    .await;
    pod.remove().await;
    node.finish().await;
}

#[tokio::test]
async fn a_child_in_the_background_does_not_hold_the_answer_up() {
    let node = Node::start().await;
    let mut pod = Pod::run(&node, "background").await;
    let id = pod.start(script("main", "sleep 1000")).await;
    let answer = pod.exec_for(&id, "sleep 1000 & echo done", 20).await.unwrap();
    assert_eq!(answer.stdout, b"done\n");
    pod.remove().await;
    node.finish().await;
}

#[tokio::test]
async fn endless_output_costs_no_memory() {
    let node = Node::start().await;
    let mut pod = Pod::run(&node, "yes").await;
    let id = pod.start(script("main", "sleep 1000")).await;
    let answer = pod.exec(&id, "yes | head -c 40000000").await.unwrap();
    assert_eq!(answer.stdout.len(), 16 << 20);
    let error = pod.exec_for(&id, "yes", 1).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::DeadlineExceeded);
    assert!(node.resident() < 100 << 20, "{} bytes", node.resident());
    pod.remove().await;
    node.finish().await;
}
