//! Requests that are repeated, wrong, or for nobody.

use std::os::unix::fs::PermissionsExt;

use orlop_proto::v1;
use tonic::Code;

use crate::busybox::IMAGE;
use crate::node::Node;
use crate::pod::{self, Pod, script};

#[tokio::test]
async fn the_same_request_gives_the_same_object() {
    let node = Node::start().await;
    let (first, second) =
        tokio::join!(Pod::run_as(&node, pod::config(&node, "twin")), Pod::run_as(&node, pod::config(&node, "twin")),);
    let (mut first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(first.id, second.id);
    let mut other = pod::config(&node, "twin");
    other.hostname = "other".to_owned();
    assert_eq!(Pod::run_as(&node, other).await.unwrap_err().code(), Code::AlreadyExists);

    let id = first.create(script("main", "sleep 1000")).await.unwrap();
    assert_eq!(first.create(script("main", "sleep 1000")).await.unwrap(), id);
    assert_eq!(first.create(script("main", "sleep 1")).await.unwrap_err().code(), Code::AlreadyExists);
    first.remove_container(&id).await;
    first.create(script("main", "sleep 1")).await.unwrap();
    first.remove().await;
    node.finish().await;
}

#[tokio::test]
async fn wrong_requests_are_refused_and_leave_nothing() {
    let node = Node::start().await;
    let mut client = node.runtime().await;
    let request =
        v1::RunPodSandboxRequest { config: Some(pod::config(&node, "x")), runtime_handler: "nowhere".to_owned() };
    assert_eq!(client.run_pod_sandbox(request).await.unwrap_err().code(), Code::InvalidArgument);
    let mut config = pod::config(&node, "x");
    let sysctl = ("kernel.shmmax".to_owned(), "1+kernel.core_pattern=|/x".to_owned());
    config.linux.as_mut().unwrap().sysctls = [sysctl].into();
    assert_eq!(Pod::run_as(&node, config).await.unwrap_err().code(), Code::InvalidArgument);
    let mut config = pod::config(&node, "x");
    config.metadata = None;
    assert_eq!(Pod::run_as(&node, config).await.unwrap_err().code(), Code::InvalidArgument);

    let mut pod = Pod::run(&node, "x").await;
    let mut config = script("main", "true");
    config.image.as_mut().unwrap().image = "nobody/nothing:1".to_owned();
    assert_eq!(pod.create(config).await.unwrap_err().code(), Code::NotFound);
    let mut config = script("main", "true");
    config.log_path = "../../escape.log".to_owned();
    assert_eq!(pod.create(config).await.unwrap_err().code(), Code::InvalidArgument);
    let checkpoint = v1::CheckpointContainerRequest { container_id: "x".to_owned(), ..Default::default() };
    assert_eq!(client.checkpoint_container(checkpoint).await.unwrap_err().code(), Code::Unimplemented);
    let list = client.list_containers(v1::ListContainersRequest::default()).await.unwrap().into_inner();
    assert!(list.containers.is_empty(), "{list:?}");
    pod.remove().await;
    node.finish().await;
}

#[tokio::test]
async fn the_node_says_what_it_is() {
    let node = Node::start().await;
    let mut client = node.runtime().await;
    let version = client.version(v1::VersionRequest::default()).await.unwrap().into_inner();
    assert_eq!((version.version.as_str(), version.runtime_name.as_str()), ("0.1.0", "orlop"));
    assert_eq!(version.runtime_api_version, "v1");
    let status = client.status(v1::StatusRequest { verbose: true }).await.unwrap().into_inner();
    let conditions = status.status.unwrap().conditions;
    assert!(conditions.len() == 2 && conditions.iter().all(|condition| condition.status), "{conditions:?}");
    assert!(status.info["config"].contains("cniConfDir"));
    let config = client.runtime_config(v1::RuntimeConfigRequest {}).await.unwrap().into_inner();
    assert_eq!(config.linux.unwrap().cgroup_driver(), v1::CgroupDriver::Cgroupfs);

    std::fs::remove_file(node.names.state.join("net.d/10-test.conflist")).unwrap();
    let status = client.status(v1::StatusRequest::default()).await.unwrap().into_inner();
    let network = status.status.unwrap().conditions.into_iter().find(|each| each.r#type == "NetworkReady").unwrap();
    assert!(!network.status && network.message.contains("conflist"), "{network:?}");
    node.finish().await;
}

#[tokio::test]
async fn only_root_and_only_one_daemon() {
    let node = Node::start().await;
    for (path, mode) in [("cri.sock", 0o600), ("pods", 0o700)] {
        let metadata = std::fs::metadata(node.names.run.join(path)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, mode, "{path}");
    }
    let second = node.command().output().unwrap();
    assert!(!second.status.success());
    let text = String::from_utf8_lossy(&second.stderr);
    assert!(text.contains("another daemon has this root"), "{text}");
    node.runtime().await.version(v1::VersionRequest::default()).await.unwrap();
    node.finish().await;
}

#[tokio::test]
async fn images_are_listed_used_and_removed() {
    let node = Node::start().await;
    let mut client = node.images().await;
    let images = client.list_images(v1::ListImagesRequest::default()).await.unwrap().into_inner().images;
    assert_eq!(images.len(), 1);
    assert_eq!(images[0].repo_tags, [IMAGE]);
    let mut pod = Pod::run(&node, "image").await;
    let id = pod.start(script("main", "sleep 1000")).await;
    assert_eq!(pod.container(&id).await.image_id, images[0].id);
    let spec = v1::ImageSpec { image: IMAGE.to_owned(), ..Default::default() };
    client.remove_image(v1::RemoveImageRequest { image: Some(spec.clone()) }).await.unwrap();
    client.remove_image(v1::RemoveImageRequest { image: Some(spec.clone()) }).await.unwrap();
    let status = client.image_status(v1::ImageStatusRequest { image: Some(spec), verbose: false }).await.unwrap();
    assert!(status.into_inner().image.is_none());
    assert_eq!(pod.output(&id, "cat /etc/passwd | head -n 1").await, "root:x:0:0:root:/root:/bin/sh");
    let info = client.image_fs_info(v1::ImageFsInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.image_filesystems.len(), info.container_filesystems.len()), (1, 1));
    pod.remove().await;
    node.finish().await;
}
