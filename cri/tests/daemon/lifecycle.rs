//! From RunPodSandbox to RemovePodSandbox.

use std::fs;

use orlop_proto::v1;

use crate::node::{Node, wait_for};
use crate::pod::{self, Pod, script};

#[tokio::test]
async fn a_pod_lives_and_leaves_nothing() {
    let node = Node::start().await;
    let mut web = Pod::run(&node, "web").await;
    let status = web.status().await;
    assert_eq!(status.state(), v1::PodSandboxState::SandboxReady);
    let ip = status.network.unwrap().ip;
    assert!(ip.parse::<std::net::IpAddr>().is_ok(), "{ip:?}");

    let id = web.start(script("main", "echo out; echo err >&2; cat /etc/hostname; exit 3")).await;
    let ended = web.ended(&id).await;
    assert_eq!((ended.exit_code, ended.reason.as_str()), (3, "Error"));
    assert!(ended.created_at <= ended.started_at && ended.started_at <= ended.finished_at, "{ended:?}");
    let mut log = web.log("main");
    log.sort();
    assert_eq!(log, ["err", "out", "web"]);
    let raw = fs::read_to_string(web.log_path("main")).unwrap();
    assert!(raw.lines().any(|line| line.ends_with(" stderr F err")), "{raw}");

    web.stop().await;
    web.stop().await;
    assert_eq!(web.status().await.state(), v1::PodSandboxState::SandboxNotready);
    web.remove().await;
    web.remove().await;
    node.finish().await;
}

#[tokio::test]
async fn containers_of_a_pod_share_what_they_should() {
    let node = Node::start().await;
    let mut pod = Pod::run(&node, "pair").await;
    let first = pod.start(script("first", "echo shared > /dev/shm/x; nc -l -p 8080 -e echo hello; sleep 1000")).await;
    let second = pod.start(script("second", "sleep 1000")).await;
    wait_for("the first to listen", async || pod.output(&second, "nc 127.0.0.1 8080 </dev/null").await == "hello")
        .await;
    assert_eq!(pod.output(&second, "cat /dev/shm/x").await, "shared");
    assert_eq!(pod.output(&second, "hostname").await, "pair");
    let ip = pod.status().await.network.unwrap().ip;
    assert!(pod.output(&second, "cat /etc/hosts").await.contains(&format!("{ip}\tpair")));
    assert_eq!(pod.output(&second, "echo $FROM; echo $HOSTNAME").await, "image\npair");
    let processes: u32 = pod.output(&second, "ls -d /proc/[0-9]* | grep -c .").await.parse().unwrap();
    assert!(processes < 6, "{processes}: its own and no others");
    assert_ne!(first, second);
    pod.remove().await;
    node.finish().await;
}

#[tokio::test]
async fn lists_are_filtered() {
    let node = Node::start().await;
    let mut one = Pod::run(&node, "one").await;
    let mut two = Pod::run(&node, "two").await;
    let running = one.start(script("running", "sleep 1000")).await;
    let created = one.create(script("created", "sleep 1000")).await.unwrap();
    let list = async |filter: v1::ContainerFilter| {
        let request = v1::ListContainersRequest { filter: Some(filter) };
        let mut client = node.runtime().await;
        let found = client.list_containers(request).await.unwrap().into_inner().containers;
        found.into_iter().map(|container| container.id).collect::<Vec<_>>()
    };
    let state = |state: v1::ContainerState| Some(v1::ContainerStateValue { state: state as i32 });
    let by_state = v1::ContainerFilter { state: state(v1::ContainerState::ContainerRunning), ..Default::default() };
    assert_eq!(list(by_state).await, [running.as_str()]);
    let by_id = v1::ContainerFilter { id: created[..12].to_owned(), ..Default::default() };
    assert_eq!(list(by_id).await, [created.as_str()]);
    let by_pod = v1::ContainerFilter { pod_sandbox_id: two.id.clone(), ..Default::default() };
    assert!(list(by_pod).await.is_empty());
    let label_selector = [("container".to_owned(), "created".to_owned())].into();
    assert_eq!(list(v1::ContainerFilter { label_selector, ..Default::default() }).await, [created.as_str()]);

    let filter =
        v1::PodSandboxFilter { label_selector: [("app".to_owned(), "two".to_owned())].into(), ..Default::default() };
    let request = v1::ListPodSandboxRequest { filter: Some(filter) };
    let items = one.client.list_pod_sandbox(request).await.unwrap().into_inner().items;
    assert_eq!(items.iter().map(|item| item.id.as_str()).collect::<Vec<_>>(), [two.id.as_str()]);

    assert_eq!(one.container(&created[..10]).await.id, created, "a prefix will do");
    one.remove().await;
    two.remove().await;
    node.finish().await;
}

#[tokio::test]
async fn stats_are_those_of_the_container() {
    let node = Node::start().await;
    let mut pod = Pod::run(&node, "busy").await;
    let mut config = script("main", "head -c 20000000 /dev/zero > /tmp/file; while :; do :; done");
    config.linux.as_mut().unwrap().resources = Some(v1::LinuxContainerResources {
        memory_limit_in_bytes: 256 << 20,
        cpu_quota: 20_000,
        cpu_period: 100_000,
        ..Default::default()
    });
    let id = pod.start(config).await;
    wait_for("the container to have used something", async || {
        let request = v1::ContainerStatsRequest { container_id: id.clone() };
        let stats = pod.client.container_stats(request).await.unwrap().into_inner().stats.unwrap();
        let disk = stats.writable_layer.and_then(|layer| layer.used_bytes).map_or(0, |bytes| bytes.value);
        let memory = stats.memory.and_then(|memory| memory.working_set_bytes).map_or(0, |bytes| bytes.value);
        let cpu = stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds).map_or(0, |time| time.value);
        disk >= 20_000_000 && memory > 0 && cpu > 0
    })
    .await;
    let request = v1::PodSandboxStatsRequest { pod_sandbox_id: pod.id.clone() };
    let stats = pod.client.pod_sandbox_stats(request).await.unwrap().into_inner().stats.unwrap().linux.unwrap();
    assert_eq!(stats.containers.len(), 1);
    assert_eq!(stats.network.unwrap().default_interface.unwrap().name, "eth0");
    let update = v1::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(v1::LinuxContainerResources { memory_limit_in_bytes: 128 << 20, ..Default::default() }),
        ..Default::default()
    };
    pod.client.update_container_resources(update).await.unwrap();
    let resources = pod.container(&id).await.resources.unwrap().linux.unwrap();
    assert_eq!((resources.memory_limit_in_bytes, resources.cpu_quota), (128 << 20, 20_000));
    pod.remove().await;
    node.finish().await;
}

#[tokio::test]
async fn a_container_over_its_memory_limit_is_oom_killed() {
    let node = Node::start().await;
    let mut pod = Pod::run(&node, "oom").await;
    let mut config = script("main", "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done");
    config.linux.as_mut().unwrap().resources =
        Some(v1::LinuxContainerResources { memory_limit_in_bytes: 32 << 20, ..Default::default() });
    let id = pod.start(config).await;
    let ended = pod.ended(&id).await;
    assert_eq!((ended.exit_code, ended.reason.as_str()), (137, "OOMKilled"));
    pod.remove().await;
    node.finish().await;
}

#[tokio::test]
async fn events_tell_the_life_of_a_container() {
    let node = Node::start().await;
    let mut events = node.runtime().await.get_container_events(v1::GetEventsRequest {}).await.unwrap().into_inner();
    let mut pod = Pod::run(&node, "told").await;
    let id = pod.start(script("main", "exit 0")).await;
    pod.ended(&id).await;
    pod.remove_container(&id).await;
    let mut kinds = Vec::new();
    while kinds.len() < 4 {
        let event = events.message().await.unwrap().unwrap();
        assert_eq!(event.container_id, id);
        kinds.push(event.container_event_type());
    }
    // The end may be told before the start has been answered.
    assert_eq!(kinds[0], v1::ContainerEventType::ContainerCreatedEvent);
    assert!(kinds[1..3].contains(&v1::ContainerEventType::ContainerStartedEvent), "{kinds:?}");
    assert!(kinds[1..3].contains(&v1::ContainerEventType::ContainerStoppedEvent), "{kinds:?}");
    assert_eq!(kinds[3], v1::ContainerEventType::ContainerDeletedEvent);
    pod.remove().await;
    node.finish().await;
}

#[tokio::test]
async fn a_pod_on_the_nodes_network_has_none_of_its_own() {
    let node = Node::start().await;
    let mut config = pod::config(&node, "host");
    let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.namespace_options.as_mut().unwrap().set_network(v1::NamespaceMode::Node);
    let mut host = Pod::run_as(&node, config).await.unwrap();
    let id = host.start(script("main", "sleep 1000")).await;
    let inside = host.output(&id, "stat -L -c %i /proc/self/ns/net").await;
    let ours =
        fs::metadata("/proc/self/ns/net").map(|metadata| std::os::unix::fs::MetadataExt::ino(&metadata)).unwrap();
    assert_eq!(inside, ours.to_string());
    host.remove().await;
    node.finish().await;
}
