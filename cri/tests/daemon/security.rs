//! What a container may not do, as it finds out itself.

use orlop_proto::v1;

use crate::node::{Node, wait_for};
use crate::pod::{Pod, script};

fn security(config: &mut v1::ContainerConfig) -> &mut v1::LinuxContainerSecurityContext {
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap()
}

#[tokio::test]
async fn the_defaults_hold() {
    let node = Node::start().await;
    let mut pod = Pod::run(&node, "default").await;
    let id = pod.start(script("main", "sleep 1000")).await;
    let status = pod.output(&id, "grep -E '^(CapBnd|CapInh|Seccomp):' /proc/1/status").await;
    assert!(status.contains("CapInh:\t0000000000000000"), "{status}");
    assert!(status.contains("CapBnd:\t00000000a80425fb"), "{status}");
    assert!(status.contains("Seccomp:\t2"), "{status}");
    assert!(pod.exec(&id, "echo 1 > /proc/sys/vm/swappiness").await.unwrap().exit_code != 0);
    assert!(pod.exec(&id, "mount -t tmpfs x /tmp").await.unwrap().exit_code != 0);
    assert_eq!(pod.output(&id, "head -c 4 /proc/kcore | wc -c || true").await.trim_start_matches('0'), "");
    assert!(pod.exec(&id, "touch /sys/x /sys/fs/cgroup/x").await.unwrap().exit_code != 0);
    assert_eq!(pod.output(&id, "ls /proc/self/fd | grep -c .").await, "4", "stdio and the folder that is listed");
    pod.remove().await;
    node.finish().await;
}

#[tokio::test]
async fn users_and_groups_are_the_images_or_the_requests() {
    let node = Node::start().await;
    let mut pod = Pod::run(&node, "users").await;
    let mut by_name = script("name", "id -u; id -g; id -G");
    security(&mut by_name).run_as_username = "web".to_owned();
    security(&mut by_name).supplemental_groups = vec![70];
    let id = pod.start(by_name).await;
    pod.ended(&id).await;
    assert_eq!(pod.log("name"), ["33", "34", "34 50 70"]);
    let user = pod.container(&id).await.user.unwrap().linux.unwrap();
    assert_eq!((user.uid, user.gid, user.supplemental_groups), (33, 34, vec![34, 50, 70]));

    let mut strict = script("strict", "id -G; grep NoNewPrivs /proc/self/status; touch /x || echo denied");
    let context = security(&mut strict);
    context.run_as_user = Some(v1::Int64Value { value: 33 });
    context.set_supplemental_groups_policy(v1::SupplementalGroupsPolicy::Strict);
    context.no_new_privs = true;
    context.readonly_rootfs = true;
    let id = pod.start(strict).await;
    pod.ended(&id).await;
    let log = pod.log("strict");
    assert_eq!(log.first().map(String::as_str), Some("34"));
    assert!(log.contains(&"NoNewPrivs:\t1".to_owned()) && log.contains(&"denied".to_owned()), "{log:?}");

    for user in ["nobody-here", "4294967296", "-1"] {
        let mut config = script("bad", "id");
        security(&mut config).run_as_username = user.to_owned();
        assert_eq!(pod.create(config).await.unwrap_err().code(), tonic::Code::InvalidArgument, "{user}");
    }
    pod.remove().await;
    node.finish().await;
}

#[tokio::test]
async fn mounts_are_as_the_request_says() {
    let node = Node::start().await;
    let volume = node.names.state.join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("file"), "from the host\n").unwrap();
    let mut pod = Pod::run(&node, "mounts").await;
    let mut config =
        script("main", "cat /ro/file; echo x 2>/dev/null > /ro/new || echo denied; echo y > /rw/new; sleep 1000");
    let mount = |path: &str, readonly| v1::Mount {
        container_path: path.to_owned(),
        host_path: volume.to_string_lossy().into_owned(),
        readonly,
        ..Default::default()
    };
    config.mounts = vec![mount("/ro", true), mount("/rw", false)];
    let id = pod.start(config).await;
    wait_for("the volume to be written", async || std::fs::read(volume.join("new")).is_ok_and(|text| text == b"y\n"))
        .await;
    wait_for("the log to be written", async || pod.log("main") == ["from the host", "denied"]).await;
    assert_eq!(pod.container(&id).await.mounts.len(), 2);
    pod.remove().await;
    assert_eq!(std::fs::read_to_string(volume.join("new")).unwrap(), "y\n");
    node.finish().await;
}

#[tokio::test]
async fn the_pods_files_cannot_fill_the_node() {
    let node = Node::start().await;
    let mut pod = Pod::run(&node, "full").await;
    let id = pod.start(script("main", "sleep 1000")).await;
    for file in ["resolv.conf", "hostname", "hosts"] {
        let answer = pod.exec(&id, &format!("yes > /etc/{file}")).await.unwrap();
        assert!(String::from_utf8_lossy(&answer.stderr).contains("No space left"), "{answer:?}");
    }
    let used: u64 = ["resolv.conf", "hostname", "hosts"]
        .map(|file| node.names.run.join("pods").join(&pod.id).join("files").join(file))
        .map(|path| std::fs::metadata(path).unwrap().len())
        .iter()
        .sum();
    assert!(used <= 64 << 20, "{used}");
    pod.remove().await;
    node.finish().await;
}

#[tokio::test]
async fn a_pid_namespace_is_joined_only_within_the_pod() {
    let node = Node::start().await;
    let (mut pod, mut other) = (Pod::run(&node, "debugged").await, Pod::run(&node, "other").await);
    let id = pod.start(script("main", "sleep 1000")).await;
    let foreign = other.start(script("main", "sleep 1000")).await;
    let waiting = pod.create(script("waiting", "sleep 1000")).await.unwrap();
    let debug = |target: &str| {
        let mut config = script("debug", "cat /proc/1/cmdline; echo; sleep 1000");
        let options = security(&mut config).namespace_options.as_mut().unwrap();
        options.set_pid(v1::NamespaceMode::Target);
        options.target_id = target.to_owned();
        config
    };
    assert_eq!(pod.create(debug(&foreign)).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    assert_eq!(pod.create(debug(&waiting)).await.unwrap_err().code(), tonic::Code::FailedPrecondition);
    pod.start(debug(&id)).await;
    wait_for("the other's first process to be seen", async || pod.log("debug").concat().contains("sleep")).await;
    for pod in [&mut pod, &mut other] {
        pod.remove().await;
    }
    node.finish().await;
}
