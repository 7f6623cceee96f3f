//! The CRI runtime, as the agent calls it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use orlop_proto::v1;
use orlop_proto::v1::image_service_client::ImageServiceClient;
use orlop_proto::v1::runtime_service_client::RuntimeServiceClient;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

/// How long the runtime may take for an ordinary call, as the kubelet's runtimeRequestTimeout.
const CALL_TIMEOUT: Duration = Duration::from_mins(2);
/// The longest grace period, seconds: ten years. Pods may ask for more seconds than timers and runtimes can count.
const LONGEST_GRACE: i64 = 10 * 365 * 24 * 3600;
/// Lists and exec output can be large; gRPC's default of 4 MiB is too small for a full node.
const MAX_MESSAGE: usize = 16 << 20;

/// A call to the runtime that failed, in the words users know from the kubelet.
#[derive(Debug, Clone, thiserror::Error)]
#[error("rpc error: code = {code:?} desc = {message}")]
pub struct CriError {
    /// The call, e.g. `RunPodSandbox`.
    pub call: &'static str,
    /// The gRPC code.
    pub code: Code,
    /// The runtime's message.
    pub message: String,
}

impl CriError {
    fn new(call: &'static str, status: &Status) -> Self {
        Self { call, code: status.code(), message: status.message().to_owned() }
    }

    /// The object is not there (any more).
    pub(crate) fn is_not_found(&self) -> bool {
        self.code == Code::NotFound
    }
}

/// A client of both CRI services over one connection, which reconnects by itself.
#[derive(Debug, Clone)]
pub(crate) struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

macro_rules! calls {
    ($($service:ident.$name:ident = $call:literal: $request:ident -> $response:ident;)*) => {$(
        pub(crate) async fn $name(&self, request: v1::$request) -> Result<v1::$response, CriError> {
            let mut request = tonic::Request::new(request);
            request.set_timeout(CALL_TIMEOUT);
            let answer = self.$service.clone().$name(request).await;
            answer.map(tonic::Response::into_inner).map_err(|s| CriError::new($call, &s))
        }
    )*};
}

impl Cri {
    /// A client for the socket; connects at the first call.
    pub(crate) fn new(socket: &Path) -> Self {
        let socket: PathBuf = socket.to_owned();
        // The URI is never looked up: the connector always dials the socket.
        let channel =
            Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
                let socket = socket.clone();
                async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
            }));
        Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            images: ImageServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE),
        }
    }

    calls! {
        runtime.version = "Version": VersionRequest -> VersionResponse;
        runtime.status = "Status": StatusRequest -> StatusResponse;
        runtime.update_runtime_config = "UpdateRuntimeConfig": UpdateRuntimeConfigRequest -> UpdateRuntimeConfigResponse;
        runtime.run_pod_sandbox = "RunPodSandbox": RunPodSandboxRequest -> RunPodSandboxResponse;
        runtime.stop_pod_sandbox = "StopPodSandbox": StopPodSandboxRequest -> StopPodSandboxResponse;
        runtime.remove_pod_sandbox = "RemovePodSandbox": RemovePodSandboxRequest -> RemovePodSandboxResponse;
        runtime.pod_sandbox_status = "PodSandboxStatus": PodSandboxStatusRequest -> PodSandboxStatusResponse;
        runtime.list_pod_sandbox = "ListPodSandbox": ListPodSandboxRequest -> ListPodSandboxResponse;
        runtime.create_container = "CreateContainer": CreateContainerRequest -> CreateContainerResponse;
        runtime.start_container = "StartContainer": StartContainerRequest -> StartContainerResponse;
        runtime.remove_container = "RemoveContainer": RemoveContainerRequest -> RemoveContainerResponse;
        runtime.list_containers = "ListContainers": ListContainersRequest -> ListContainersResponse;
        runtime.container_status = "ContainerStatus": ContainerStatusRequest -> ContainerStatusResponse;
        runtime.reopen_container_log = "ReopenContainerLog": ReopenContainerLogRequest -> ReopenContainerLogResponse;
        runtime.exec = "Exec": ExecRequest -> ExecResponse;
        runtime.attach = "Attach": AttachRequest -> AttachResponse;
        runtime.port_forward = "PortForward": PortForwardRequest -> PortForwardResponse;
        runtime.list_container_stats = "ListContainerStats": ListContainerStatsRequest -> ListContainerStatsResponse;
        images.list_images = "ListImages": ListImagesRequest -> ListImagesResponse;
        images.image_status = "ImageStatus": ImageStatusRequest -> ImageStatusResponse;
    }

    /// Pulls an image; no deadline of ours, since a pull takes as long as the network needs.
    pub(crate) async fn pull_image(&self, request: v1::PullImageRequest) -> Result<v1::PullImageResponse, CriError> {
        let answer = self.images.clone().pull_image(request).await;
        answer.map(tonic::Response::into_inner).map_err(|s| CriError::new("PullImage", &s))
    }

    /// Stops a container: the runtime waits up to `grace_seconds` before it kills.
    pub(crate) async fn stop_container(&self, id: &str, grace_seconds: i64) -> Result<(), CriError> {
        let grace = grace_seconds.clamp(0, LONGEST_GRACE);
        let mut request = tonic::Request::new(v1::StopContainerRequest { container_id: id.to_owned(), timeout: grace });
        request.set_timeout(CALL_TIMEOUT + Duration::from_secs(grace as u64));
        match self.runtime.clone().stop_container(request).await {
            Ok(_) => Ok(()),
            Err(s) if s.code() == Code::NotFound => Ok(()),
            Err(s) => Err(CriError::new("StopContainer", &s)),
        }
    }

    /// Runs a command in a container and waits for it, at most `timeout`.
    pub(crate) async fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        timeout: Duration,
    ) -> Result<v1::ExecSyncResponse, CriError> {
        let mut request = tonic::Request::new(v1::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command.to_vec(),
            timeout: timeout.as_secs_f64().ceil() as i64,
        });
        // The runtime keeps the limit; ours is the one for a runtime that hangs.
        if !timeout.is_zero() {
            request.set_timeout(timeout + Duration::from_secs(10));
        }
        let answer = self.runtime.clone().exec_sync(request).await;
        answer.map(tonic::Response::into_inner).map_err(|s| CriError::new("ExecSync", &s))
    }

    /// The stream of container events.
    pub(crate) async fn events(&self) -> Result<tonic::Streaming<v1::ContainerEventResponse>, CriError> {
        let answer = self.runtime.clone().get_container_events(v1::GetEventsRequest {}).await;
        answer.map(tonic::Response::into_inner).map_err(|s| CriError::new("GetContainerEvents", &s))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_grace_period_without_end_is_no_panic() {
        let cri = Cri::new(Path::new("/nonexistent/cri.sock"));
        let error = cri.stop_container("x", i64::MAX).await.expect_err("nobody answers");
        assert_eq!(error.call, "StopContainer");
    }
}
