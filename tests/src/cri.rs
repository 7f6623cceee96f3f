//! A CRI client: the two services over a unix socket, and the configurations that tests make pods of.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use orlop_proto::v1::image_service_client::ImageServiceClient;
use orlop_proto::v1::runtime_service_client::RuntimeServiceClient;
use orlop_proto::v1::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, ImageSpec, LinuxPodSandboxConfig, PodSandboxConfig,
    PodSandboxMetadata, RunPodSandboxRequest, StartContainerRequest,
};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// Both services of one daemon.
#[derive(Debug, Clone)]
pub struct Client {
    /// Pods and containers.
    pub runtime: RuntimeServiceClient<Channel>,
    /// Images.
    pub images: ImageServiceClient<Channel>,
}

impl Client {
    /// Connects to the socket of a daemon.
    pub async fn connect(socket: &Path) -> Result<Client> {
        let path: PathBuf = socket.into();
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(service_fn(move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            }))
            .await
            .with_context(|| format!("connect to {}", socket.display()))?;
        Ok(Client { runtime: RuntimeServiceClient::new(channel.clone()), images: ImageServiceClient::new(channel) })
    }

    /// Makes a sandbox and returns its id.
    pub async fn run_sandbox(&mut self, config: &PodSandboxConfig) -> Result<String> {
        let request = RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        Ok(self.runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
    }

    /// Makes a container in a sandbox and returns its id.
    pub async fn create(&mut self, sandbox: &str, pod: &PodSandboxConfig, config: ContainerConfig) -> Result<String> {
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(pod.clone()),
        };
        Ok(self.runtime.create_container(request).await?.into_inner().container_id)
    }

    /// Starts a container.
    pub async fn start(&mut self, container: &str) -> Result<()> {
        self.runtime.start_container(StartContainerRequest { container_id: container.to_owned() }).await?;
        Ok(())
    }
}

/// A pod of that name, with logs below `logs` and cgroups below `cgroup`.
#[must_use]
pub fn pod(name: &str, logs: &Path, cgroup: &str) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "cri".to_owned(),
            attempt: 0,
        }),
        hostname: name.to_owned(),
        log_directory: logs.join(name).to_string_lossy().into_owned(),
        labels: [("name".to_owned(), name.to_owned())].into(),
        linux: Some(LinuxPodSandboxConfig { cgroup_parent: format!("{cgroup}/{name}"), ..Default::default() }),
        ..Default::default()
    }
}

/// A container that runs `command` in an image.
#[must_use]
pub fn container(name: &str, image: &str, command: &[&str]) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(ImageSpec { image: image.to_owned(), ..Default::default() }),
        command: command.iter().map(|&word| word.to_owned()).collect(),
        log_path: format!("{name}.log"),
        ..Default::default()
    }
}
