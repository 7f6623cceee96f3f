//! kill -9 of the daemon, of a shim, at any time.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use orlop_proto::v1;
use sha2::{Digest, Sha256};

use crate::node::{Node, wait_for};
use crate::pod::{self, Pod, script};

#[tokio::test]
async fn pods_go_on_without_the_daemon_and_nothing_is_forgotten() {
    let mut node = Node::start().await;
    let mut pod = Pod::run(&node, "on").await;
    let counting = pod.start(script("counting", "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.02; done")).await;
    let ending = pod.start(script("ending", "while ! [ -e /tmp/end ]; do sleep 0.05; done; exit 42")).await;
    let created = pod.create(script("created", "exit 4")).await.unwrap();
    let before = pod.status().await;
    // It ends while the daemon is away.
    pod.exec(&ending, "(sleep 0.5; touch /tmp/end) >/dev/null 2>&1 &").await.unwrap();
    node.kill_daemon();
    let bundle = node.names.run.join("pods").join(&pod.id).join("c").join(&ending).join("exit.json");
    wait_for("the end to be written down", async || bundle.exists()).await;
    let lines = pod.log("counting").len();
    wait_for("the log to grow without the daemon", async || pod.log("counting").len() > lines + 10).await;

    node.start_daemon().await;
    pod.again(&node).await;
    assert_eq!(pod.status().await, before);
    let ended = pod.ended(&ending).await;
    assert_eq!((ended.exit_code, ended.reason.as_str()), (42, "Error"));
    assert!(ended.started_at > 0 && ended.finished_at > ended.started_at);
    assert_eq!(pod.container(&counting).await.state(), v1::ContainerState::ContainerRunning);
    assert_eq!(pod.output(&counting, "echo here").await, "here");
    assert_eq!(pod.container(&created).await.state(), v1::ContainerState::ContainerCreated);
    let request = v1::StartContainerRequest { container_id: created.clone() };
    pod.client.start_container(request).await.unwrap();
    assert_eq!(pod.ended(&created).await.exit_code, 4);
    pod.stop_container(&counting, 0).await;
    let expected: Vec<String> = (0..pod.log("counting").len()).map(|number| format!("line {number}")).collect();
    assert_eq!(pod.log("counting"), expected, "no line is lost or doubled");
    pod.remove().await;
    node.finish().await;
}

#[tokio::test]
async fn a_shim_that_dies_takes_its_pod_along_and_nothing_else() {
    let mut node = Node::start().await;
    let mut pod = Pod::run(&node, "shimless").await;
    let mut other = Pod::run(&node, "other").await;
    let id = pod.start(script("main", "sleep 1000")).await;
    let kept = other.start(script("main", "sleep 1000")).await;
    kill(Pid::from_raw(shim_pid(&mut pod).await), Signal::SIGKILL).unwrap();
    lost(&mut pod, &id).await;

    let mut pod = Pod::run(&node, "shimless").await;
    let id = pod.start(script("main", "sleep 1000")).await;
    let pid = shim_pid(&mut pod).await;
    node.kill_daemon();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    node.start_daemon().await;
    pod.again(&node).await;
    other.again(&node).await;
    lost(&mut pod, &id).await;

    assert_eq!(other.container(&kept).await.state(), v1::ContainerState::ContainerRunning);
    other.remove().await;
    node.finish().await;
}

/// The pod's end is noticed, and it can be removed.
async fn lost(pod: &mut Pod, container: &str) {
    assert_eq!(pod.ended(container).await.exit_code, 137);
    let request = v1::PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: false };
    let status = pod.client.pod_sandbox_status(request).await.unwrap().into_inner().status.unwrap();
    assert_eq!(status.state(), v1::PodSandboxState::SandboxNotready);
    pod.stop().await;
    pod.remove().await;
}

async fn shim_pid(pod: &mut Pod) -> i32 {
    let request = v1::PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: true };
    let info = pod.client.pod_sandbox_status(request).await.unwrap().into_inner().info;
    let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
    i32::try_from(info["shimPid"].as_i64().unwrap()).unwrap()
}

/// Kills the daemon at many moments of a pod's making and unmaking; the next one finishes or undoes each step.
#[tokio::test]
async fn a_daemon_killed_at_any_step_leaves_nothing_half_made() {
    let mut node = Node::start().await;
    for round in 0..12 {
        let name = format!("round-{round}");
        let config = pod::config(&node, &name);
        let life = async {
            let mut pod = Pod::run_as(&node, config).await?;
            let id = pod.create(script("main", "sleep 1000")).await?;
            let request = v1::StartContainerRequest { container_id: id };
            pod.client.start_container(request).await?;
            let request = v1::StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() };
            pod.client.stop_pod_sandbox(request).await?;
            let request = v1::RemovePodSandboxRequest { pod_sandbox_id: pod.id.clone() };
            pod.client.remove_pod_sandbox(request).await?;
            Ok::<(), tonic::Status>(())
        };
        let moment = std::time::Duration::from_millis(3 * round * round);
        // Whether it gets to its end before is left to chance.
        let _ = tokio::time::timeout(moment, life).await;
        node.kill_daemon();
        node.start_daemon().await;
        let mut client = node.runtime().await;
        let pods = client.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
        for item in pods {
            let request = v1::RemovePodSandboxRequest { pod_sandbox_id: item.id };
            client.remove_pod_sandbox(request).await.unwrap();
        }
        // The same pod can be made again: no name is taken.
        let mut pod = Pod::run(&node, &name).await;
        pod.remove().await;
    }
    node.finish().await;
}

#[tokio::test]
async fn a_torn_record_does_not_stop_the_daemon() {
    let mut node = Node::start().await;
    let mut torn = Pod::run(&node, "torn").await;
    let mut whole = Pod::run(&node, "whole").await;
    torn.start(script("main", "sleep 1000")).await;
    node.kill_daemon();
    let record = node.names.state.join("cri/sandboxes").join(format!("{}.json", torn.id));
    let text = std::fs::read(&record).unwrap();
    std::fs::write(&record, &text[..text.len() / 2]).unwrap();
    node.start_daemon().await;
    whole.again(&node).await;
    assert_eq!(whole.status().await.state(), v1::PodSandboxState::SandboxReady);
    assert!(!node.names.run.join("pods").join(&torn.id).exists(), "what has no record is removed");
    let left = whole.client.list_containers(v1::ListContainersRequest::default()).await.unwrap().into_inner();
    assert_eq!(left.containers, [], "a container without a sandbox is removed");
    assert!(record.with_extension("torn").exists());
    std::fs::remove_file(record.with_extension("torn")).unwrap();
    whole.remove().await;
    node.finish().await;
}

#[tokio::test]
async fn what_another_oci_runtime_made_goes_with_a_shim_that_dies() {
    let node = Node::start().await;
    let mut pod = Pod::run_by(&node, pod::config(&node, "runc"), "runc").await.unwrap();
    let id = pod.start(script("main", "sleep 1000")).await;
    assert!(node.names.run.join("runtime.runc").join(&id).exists());
    kill(Pid::from_raw(shim_pid(&mut pod).await), Signal::SIGKILL).unwrap();
    lost(&mut pod, &id).await;
    node.finish().await;
}

#[tokio::test]
async fn a_shim_that_does_not_answer_is_not_left_alone() {
    let mut node = Node::start().await;
    let mut pod = Pod::run(&node, "hangs").await;
    let id = pod.start(script("main", "sleep 1000")).await;
    let shim = Pid::from_raw(shim_pid(&mut pod).await);
    node.kill_daemon();
    kill(shim, Signal::SIGSTOP).unwrap();
    node.start_daemon().await;
    pod.again(&node).await;
    let request = v1::StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() };
    assert_eq!(pod.client.stop_pod_sandbox(request).await.unwrap_err().code(), tonic::Code::Unavailable);
    let request = v1::RemovePodSandboxRequest { pod_sandbox_id: pod.id.clone() };
    assert_eq!(pod.client.remove_pod_sandbox(request).await.unwrap_err().code(), tonic::Code::Unavailable);
    assert_eq!(pod.container(&id).await.state(), v1::ContainerState::ContainerRunning);
    kill(shim, Signal::SIGCONT).unwrap();
    wait_for("the pod to be removed", async || {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: pod.id.clone() };
        pod.client.remove_pod_sandbox(request).await.is_ok()
    })
    .await;
    wait_for("the shim to end", async || kill(shim, None).is_err()).await;
    node.finish().await;
}

/// As after a kill of the daemon between the note of a failed start and the end of what had begun.
#[tokio::test]
async fn a_container_that_is_told_as_ended_does_not_go_on() {
    let mut node = Node::start().await;
    let mut pod = Pod::run(&node, "failed").await;
    let id = pod.start(script("main", "sleep 1000")).await;
    node.kill_daemon();
    let record = node.names.state.join("cri/containers").join(format!("{id}.json"));
    let text = std::fs::read_to_string(&record).unwrap();
    let mut envelope: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let exit = serde_json::json!({
        "started_at": 0, "finished_at": 1, "code": 128, "reason": "StartError", "message": ""
    });
    envelope["record"]["state"] = serde_json::json!({ "exited": exit });
    let body = envelope.to_string();
    let checksum = hex::encode(Sha256::digest(body.as_bytes()));
    std::fs::write(&record, format!("{body}\n{{\"sha256\":\"{checksum}\"}}\n")).unwrap();
    node.start_daemon().await;
    pod.again(&node).await;
    assert_eq!(pod.container(&id).await.reason, "StartError");
    let end = node.names.run.join("pods").join(&pod.id).join("c").join(&id).join("exit.json");
    wait_for("what runs to be killed", async || end.exists()).await;
    pod.remove_container(&id).await;
    pod.remove().await;
    node.finish().await;
}
