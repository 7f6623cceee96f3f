//! The CRI socket, as a kubelet or crictl uses it.

use anyhow::{Context, Result, ensure};
use orlop_proto::v1::{
    ContainerFilter, ContainerState, ContainerStatsRequest, ContainerStatusRequest, ExecSyncRequest,
    ImageFsInfoRequest, ImageSpec, ImageStatusRequest, ListContainersRequest, ListPodSandboxRequest, PodSandboxFilter,
    PodSandboxState, PodSandboxStatusRequest, PullImageRequest, RemoveContainerRequest, RemovePodSandboxRequest,
    ReopenContainerLogRequest, StatusRequest, StopContainerRequest, StopPodSandboxRequest, VersionRequest,
};
use orlop_tests::cri::{Client, container, pod};
use orlop_tests::wait;
use tonic::Code;

use crate::Case;
use crate::stack::{Namespace, Stack};

pub(crate) const CASES: &[Case] = &[("a_cri_client_drives_a_pod_from_pull_to_removal", life)];

fn life(stack: &Stack, _: &Namespace) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(drive(stack))
}

async fn drive(stack: &Stack) -> Result<()> {
    let (socket, logs, cgroup) = {
        let node = stack.node();
        (node.cri_socket(), node.state().join("cri-test-logs"), format!("{}/orlop", node.cgroup_root()))
    };
    let mut client = Client::connect(&socket).await?;
    let version = client.runtime.version(VersionRequest::default()).await?.into_inner();
    ensure!(version.version == "0.1.0" && version.runtime_api_version == "v1", "{version:?}");
    let status = client.runtime.status(StatusRequest::default()).await?.into_inner().status.context("a status")?;
    ensure!(status.conditions.iter().filter(|c| c.status).count() == 2, "{status:?}");
    let image = ImageSpec { image: stack.busybox.clone(), ..Default::default() };
    let pulled = client
        .images
        .pull_image(PullImageRequest { image: Some(image.clone()), ..Default::default() })
        .await?
        .into_inner();
    let found =
        client.images.image_status(ImageStatusRequest { image: Some(image), verbose: false }).await?.into_inner();
    ensure!(found.image.is_some_and(|image| image.id == pulled.image_ref), "PullImage gives the image's id");
    ensure!(!client.images.image_fs_info(ImageFsInfoRequest {}).await?.into_inner().image_filesystems.is_empty());

    let config = pod("cri-pod", &logs, &cgroup);
    let sandbox = client.run_sandbox(&config).await?;
    let status = client
        .runtime
        .pod_sandbox_status(PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: false })
        .await?
        .into_inner()
        .status
        .context("a sandbox status")?;
    ensure!(
        status.state == PodSandboxState::SandboxReady as i32 && status.network.is_some_and(|net| !net.ip.is_empty())
    );
    let filter =
        PodSandboxFilter { label_selector: [("name".to_owned(), "cri-pod".to_owned())].into(), ..Default::default() };
    let listed =
        client.runtime.list_pod_sandbox(ListPodSandboxRequest { filter: Some(filter) }).await?.into_inner().items;
    ensure!(listed.len() == 1 && listed[0].id == sandbox, "{listed:?}");

    let script = "echo started; trap 'exit 11' TERM; while true; do sleep 0.1; done";
    let id = client.create(&sandbox, &config, container("main", &stack.busybox, &["sh", "-c", script])).await?;
    client.start(&id).await?;
    let exec = |line: &str, timeout| ExecSyncRequest {
        container_id: id.clone(),
        cmd: vec!["sh".to_owned(), "-c".to_owned(), line.to_owned()],
        timeout,
    };
    let answer = client.runtime.exec_sync(exec("echo out; echo err >&2; exit 3", 30)).await?.into_inner();
    ensure!((answer.stdout, answer.stderr, answer.exit_code) == (b"out\n".to_vec(), b"err\n".to_vec(), 3));
    let late = client.runtime.exec_sync(exec("sleep 1000", 1)).await.err().context("a timeout is an error")?;
    ensure!(late.code() == Code::DeadlineExceeded, "{late:?}");
    let processes = client.runtime.exec_sync(exec("ps", 30)).await?.into_inner().stdout;
    ensure!(!String::from_utf8_lossy(&processes).contains("sleep 1000"), "what timed out still runs");
    let stats =
        client.runtime.container_stats(ContainerStatsRequest { container_id: id.clone() }).await?.into_inner().stats;
    ensure!(
        stats
            .and_then(|stats| stats.memory)
            .and_then(|memory| memory.working_set_bytes)
            .is_some_and(|bytes| bytes.value > 0)
    );

    let log = logs.join("cri-pod/main.log");
    wait::until("the first log line", || {
        Ok(std::fs::read_to_string(&log)?.ends_with(" stdout F started\n").then_some(()))
    })?;
    std::fs::rename(&log, logs.join("cri-pod/main.log.old"))?;
    client.runtime.reopen_container_log(ReopenContainerLogRequest { container_id: id.clone() }).await?;
    ensure!(log.exists(), "a reopened log is a new file");

    client.runtime.stop_container(StopContainerRequest { container_id: id.clone(), timeout: 30 }).await?;
    let request = ContainerStatusRequest { container_id: id.clone(), verbose: false };
    let status = client.runtime.container_status(request).await?.into_inner().status.context("a container status")?;
    ensure!(status.state == ContainerState::ContainerExited as i32 && status.exit_code == 11, "{status:?}");
    client.runtime.remove_container(RemoveContainerRequest { container_id: id.clone() }).await?;
    client.runtime.remove_container(RemoveContainerRequest { container_id: id.clone() }).await?;
    let filter = ContainerFilter { pod_sandbox_id: sandbox.clone(), ..Default::default() };
    let left =
        client.runtime.list_containers(ListContainersRequest { filter: Some(filter) }).await?.into_inner().containers;
    ensure!(left.is_empty(), "{left:?}");

    for _ in 0..2 {
        client.runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() }).await?;
    }
    for _ in 0..2 {
        client.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: sandbox.clone() }).await?;
    }
    let gone =
        client.runtime.pod_sandbox_status(PodSandboxStatusRequest { pod_sandbox_id: sandbox, verbose: false }).await;
    ensure!(gone.is_err_and(|status| status.code() == Code::NotFound));
    Ok(())
}
