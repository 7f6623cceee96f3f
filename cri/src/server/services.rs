//! The table of calls: which function answers which.

use std::future::Future;

use futures::stream::BoxStream;
use orlop_proto::v1;
use orlop_proto::v1::image_service_server::ImageService;
use orlop_proto::v1::runtime_service_server::RuntimeService;
use tonic::{Request, Response, Status};

use super::{answer, container, events, images, list, node, sandbox, stats, streams, update};
use crate::engine::Shared;
use crate::error;

/// Both services of one engine.
#[derive(Debug, Clone)]
pub(crate) struct Services {
    pub(crate) engine: Shared,
}

type Answer<T> = Result<Response<T>, Status>;
/// What a call with many answers sends.
pub(super) type Messages<T> = BoxStream<'static, Result<T, Status>>;

impl Services {
    async fn answer<Q, A, F>(
        &self,
        call: &'static str,
        request: Request<Q>,
        function: impl FnOnce(Shared, Q) -> F,
    ) -> Answer<A>
    where
        A: Send + 'static,
        F: Future<Output = error::Result<A>> + Send + 'static,
    {
        let work = function(self.engine.clone(), request.into_inner());
        answer::answer(&self.engine, call, work).await
    }
}

#[tonic::async_trait]
impl RuntimeService for Services {
    type StreamPodSandboxesStream = Messages<v1::StreamPodSandboxesResponse>;
    type StreamContainersStream = Messages<v1::StreamContainersResponse>;
    type StreamContainerStatsStream = Messages<v1::StreamContainerStatsResponse>;
    type StreamPodSandboxStatsStream = Messages<v1::StreamPodSandboxStatsResponse>;
    type StreamPodSandboxMetricsStream = Messages<v1::StreamPodSandboxMetricsResponse>;
    type GetContainerEventsStream = Messages<v1::ContainerEventResponse>;

    async fn version(&self, request: Request<v1::VersionRequest>) -> Answer<v1::VersionResponse> {
        self.answer("Version", request, node::version).await
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        self.answer("Status", request, node::status).await
    }

    async fn runtime_config(&self, request: Request<v1::RuntimeConfigRequest>) -> Answer<v1::RuntimeConfigResponse> {
        self.answer("RuntimeConfig", request, node::runtime_config).await
    }

    async fn update_runtime_config(
        &self,
        request: Request<v1::UpdateRuntimeConfigRequest>,
    ) -> Answer<v1::UpdateRuntimeConfigResponse> {
        self.answer("UpdateRuntimeConfig", request, node::update_runtime_config).await
    }

    async fn run_pod_sandbox(&self, request: Request<v1::RunPodSandboxRequest>) -> Answer<v1::RunPodSandboxResponse> {
        self.answer("RunPodSandbox", request, sandbox::run).await
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<v1::StopPodSandboxRequest>,
    ) -> Answer<v1::StopPodSandboxResponse> {
        self.answer("StopPodSandbox", request, sandbox::stop).await
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Answer<v1::RemovePodSandboxResponse> {
        self.answer("RemovePodSandbox", request, sandbox::remove).await
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Answer<v1::PodSandboxStatusResponse> {
        self.answer("PodSandboxStatus", request, sandbox::status).await
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<v1::ListPodSandboxRequest>,
    ) -> Answer<v1::ListPodSandboxResponse> {
        self.answer("ListPodSandbox", request, list::sandboxes).await
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Answer<v1::CreateContainerResponse> {
        self.answer("CreateContainer", request, container::create).await
    }

    async fn start_container(&self, request: Request<v1::StartContainerRequest>) -> Answer<v1::StartContainerResponse> {
        self.answer("StartContainer", request, container::start).await
    }

    async fn stop_container(&self, request: Request<v1::StopContainerRequest>) -> Answer<v1::StopContainerResponse> {
        self.answer("StopContainer", request, container::stop).await
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Answer<v1::RemoveContainerResponse> {
        self.answer("RemoveContainer", request, container::remove).await
    }

    async fn list_containers(&self, request: Request<v1::ListContainersRequest>) -> Answer<v1::ListContainersResponse> {
        self.answer("ListContainers", request, list::containers).await
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Answer<v1::ContainerStatusResponse> {
        self.answer("ContainerStatus", request, container::status).await
    }

    async fn update_container_resources(
        &self,
        request: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Answer<v1::UpdateContainerResourcesResponse> {
        self.answer("UpdateContainerResources", request, update::container).await
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<v1::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<v1::UpdatePodSandboxResourcesResponse> {
        self.answer("UpdatePodSandboxResources", request, update::sandbox).await
    }

    async fn reopen_container_log(
        &self,
        request: Request<v1::ReopenContainerLogRequest>,
    ) -> Answer<v1::ReopenContainerLogResponse> {
        self.answer("ReopenContainerLog", request, container::reopen_log).await
    }

    async fn checkpoint_container(
        &self,
        request: Request<v1::CheckpointContainerRequest>,
    ) -> Answer<v1::CheckpointContainerResponse> {
        self.answer("CheckpointContainer", request, container::checkpoint).await
    }

    async fn exec_sync(&self, request: Request<v1::ExecSyncRequest>) -> Answer<v1::ExecSyncResponse> {
        self.answer("ExecSync", request, streams::exec_sync).await
    }

    async fn exec(&self, request: Request<v1::ExecRequest>) -> Answer<v1::ExecResponse> {
        self.answer("Exec", request, streams::exec).await
    }

    async fn attach(&self, request: Request<v1::AttachRequest>) -> Answer<v1::AttachResponse> {
        self.answer("Attach", request, streams::attach).await
    }

    async fn port_forward(&self, request: Request<v1::PortForwardRequest>) -> Answer<v1::PortForwardResponse> {
        self.answer("PortForward", request, streams::port_forward).await
    }

    async fn container_stats(&self, request: Request<v1::ContainerStatsRequest>) -> Answer<v1::ContainerStatsResponse> {
        self.answer("ContainerStats", request, stats::container).await
    }

    async fn list_container_stats(
        &self,
        request: Request<v1::ListContainerStatsRequest>,
    ) -> Answer<v1::ListContainerStatsResponse> {
        self.answer("ListContainerStats", request, stats::containers).await
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<v1::PodSandboxStatsRequest>,
    ) -> Answer<v1::PodSandboxStatsResponse> {
        self.answer("PodSandboxStats", request, stats::pod).await
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<v1::ListPodSandboxStatsRequest>,
    ) -> Answer<v1::ListPodSandboxStatsResponse> {
        self.answer("ListPodSandboxStats", request, stats::pods).await
    }

    async fn list_metric_descriptors(
        &self,
        request: Request<v1::ListMetricDescriptorsRequest>,
    ) -> Answer<v1::ListMetricDescriptorsResponse> {
        self.answer("ListMetricDescriptors", request, stats::metric_descriptors).await
    }

    async fn list_pod_sandbox_metrics(
        &self,
        request: Request<v1::ListPodSandboxMetricsRequest>,
    ) -> Answer<v1::ListPodSandboxMetricsResponse> {
        self.answer("ListPodSandboxMetrics", request, stats::metrics).await
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<v1::StreamPodSandboxesRequest>,
    ) -> Answer<Self::StreamPodSandboxesStream> {
        self.answer("StreamPodSandboxes", request, list::stream_sandboxes).await
    }

    async fn stream_containers(
        &self,
        request: Request<v1::StreamContainersRequest>,
    ) -> Answer<Self::StreamContainersStream> {
        self.answer("StreamContainers", request, list::stream_containers).await
    }

    async fn stream_container_stats(
        &self,
        request: Request<v1::StreamContainerStatsRequest>,
    ) -> Answer<Self::StreamContainerStatsStream> {
        self.answer("StreamContainerStats", request, stats::stream_containers).await
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<v1::StreamPodSandboxStatsRequest>,
    ) -> Answer<Self::StreamPodSandboxStatsStream> {
        self.answer("StreamPodSandboxStats", request, stats::stream_pods).await
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        request: Request<v1::StreamPodSandboxMetricsRequest>,
    ) -> Answer<Self::StreamPodSandboxMetricsStream> {
        self.answer("StreamPodSandboxMetrics", request, stats::stream_metrics).await
    }

    async fn get_container_events(
        &self,
        request: Request<v1::GetEventsRequest>,
    ) -> Answer<Self::GetContainerEventsStream> {
        self.answer("GetContainerEvents", request, events::get).await
    }
}

#[tonic::async_trait]
impl ImageService for Services {
    type StreamImagesStream = Messages<v1::StreamImagesResponse>;

    async fn list_images(&self, request: Request<v1::ListImagesRequest>) -> Answer<v1::ListImagesResponse> {
        self.answer("ListImages", request, images::list).await
    }

    async fn image_status(&self, request: Request<v1::ImageStatusRequest>) -> Answer<v1::ImageStatusResponse> {
        self.answer("ImageStatus", request, images::status).await
    }

    async fn pull_image(&self, request: Request<v1::PullImageRequest>) -> Answer<v1::PullImageResponse> {
        let engine = &self.engine;
        answer::tell("PullImage", images::pull(engine.clone(), request.into_inner())).await
    }

    async fn remove_image(&self, request: Request<v1::RemoveImageRequest>) -> Answer<v1::RemoveImageResponse> {
        self.answer("RemoveImage", request, images::remove).await
    }

    async fn image_fs_info(&self, request: Request<v1::ImageFsInfoRequest>) -> Answer<v1::ImageFsInfoResponse> {
        self.answer("ImageFsInfo", request, images::fs_info).await
    }

    async fn stream_images(&self, request: Request<v1::StreamImagesRequest>) -> Answer<Self::StreamImagesStream> {
        self.answer("StreamImages", request, images::stream).await
    }
}
