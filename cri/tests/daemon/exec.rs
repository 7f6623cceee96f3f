//! ExecSync.

use orlop_proto::v1;

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
    // It ends before the deadline, and its output after.
    let answer = pod.exec_for(&id, "sleep 1000 & sleep 0.7; echo late; exit 3", 1).await.unwrap();
    assert_eq!((answer.stdout.as_slice(), answer.exit_code), (&b"late\n"[..], 3));
    let chatty = "(while :; do echo more; sleep 0.05; done) & echo first; exit 4";
    let answer = pod.exec_for(&id, chatty, 0).await.unwrap();
    assert!(answer.stdout.starts_with(b"first\n") || answer.stdout.starts_with(b"more\n"));
    assert_eq!(answer.exit_code, 4);
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

#[tokio::test]
async fn an_environment_may_be_as_long_as_execve_takes_it() {
    let node = Node::start().await;
    let mut pod = Pod::run(&node, "environment").await;
    let mut config = script("main", "sleep 1000");
    let value = "v".repeat(100);
    config.envs = (0..4000).map(|n| v1::KeyValue { key: format!("SERVICE_{n}"), value: value.clone() }).collect();
    let id = pod.start(config).await;
    assert_eq!(pod.output(&id, "echo $SERVICE_3999 $SERVICE_0").await, format!("{value} {value}"));
    let mut long = vec!["sh".to_owned(), "-c".to_owned(), "echo $#".to_owned(), "x".to_owned()];
    long.extend(vec!["argument".repeat(10); 10_000]);
    let request = v1::ExecSyncRequest { container_id: id.clone(), cmd: long, timeout: 20 };
    assert_eq!(pod.client.exec_sync(request).await.unwrap().into_inner().stdout, b"10000\n");
    pod.remove().await;
    node.finish().await;
}
