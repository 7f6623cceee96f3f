//! The life of a hundred pods, one after another, over the CRI socket.

use std::future::Future;
use std::time::Instant;

use anyhow::Result;
use orlop_proto::v1::{ImageSpec, PullImageRequest, RemovePodSandboxRequest, StopPodSandboxRequest};
use orlop_tests::cri::{Client, container, pod};
use orlop_tests::node::Node;

use crate::figures::{Times, against, line};

const PODS: usize = 100;

#[derive(Default)]
struct Life {
    run_sandbox: Times,
    create: Times,
    start: Times,
    stop: Times,
    remove: Times,
}

pub(crate) fn measure(node: &Node, image: &str) -> Result<()> {
    println!("\n# CRI: the life of {PODS} pods over the socket (busybox `sleep`, pod network, default seccomp)");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let life = runtime.block_on(lives(node, image))?;
    line("RunPodSandbox", &life.run_sandbox);
    line("CreateContainer", &life.create);
    line("StartContainer", &life.start);
    line("StopPodSandbox", &life.stop);
    line("RemovePodSandbox", &life.remove);
    let up = life.run_sandbox.median() + life.create.median() + life.start.median();
    against("RunPodSandbox + Create + Start, p50", up, "ms", 20.0);
    against("StopPodSandbox + Remove, p50", life.stop.median() + life.remove.median(), "ms", 15.0);
    Ok(())
}

async fn lives(node: &Node, image: &str) -> Result<Life> {
    let mut client = Client::connect(&node.cri_socket()).await?;
    let spec = ImageSpec { image: image.to_owned(), ..Default::default() };
    client.images.pull_image(PullImageRequest { image: Some(spec), ..Default::default() }).await?;
    let (logs, cgroup) = (node.state().join("bench-logs"), format!("{}/orlop", node.cgroup_root()));
    let mut life = Life::default();
    for number in 0..PODS {
        let config = pod(&format!("bench-{number}"), &logs, &cgroup);
        let sandbox = timed(&mut life.run_sandbox, client.run_sandbox(&config)).await?;
        let sleep = container("main", image, &["sleep", "100000"]);
        let id = timed(&mut life.create, client.create(&sandbox, &config, sleep)).await?;
        timed(&mut life.start, client.start(&id)).await?;
        let stop = StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() };
        timed(&mut life.stop, async { Ok(client.runtime.stop_pod_sandbox(stop).await?) }).await?;
        let remove = RemovePodSandboxRequest { pod_sandbox_id: sandbox };
        timed(&mut life.remove, async { Ok(client.runtime.remove_pod_sandbox(remove).await?) }).await?;
    }
    Ok(life)
}

async fn timed<T>(times: &mut Times, work: impl Future<Output = Result<T>>) -> Result<T> {
    let start = Instant::now();
    let value = work.await?;
    times.add(start.elapsed());
    Ok(value)
}
