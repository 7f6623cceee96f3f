//! Stats of containers and pods, and their streams. The metrics calls are not there.

use std::sync::Arc;

use orlop_proto::v1;

use super::filter;
use super::list::chunks;
use super::services::Messages;
use crate::engine::{Engine, Shared};
use crate::error::{Error, Result};
use crate::stats;
use crate::store::{Container, Sandbox};

pub(super) async fn container(
    engine: Shared,
    request: v1::ContainerStatsRequest,
) -> Result<v1::ContainerStatsResponse> {
    let found = engine.store.containers.find(&request.container_id)?;
    Ok(v1::ContainerStatsResponse { stats: of_containers(&engine, vec![found]).await?.pop() })
}

pub(super) async fn pod(engine: Shared, request: v1::PodSandboxStatsRequest) -> Result<v1::PodSandboxStatsResponse> {
    let found = engine.store.sandboxes.find(&request.pod_sandbox_id)?;
    Ok(v1::PodSandboxStatsResponse { stats: of_pods(&engine, vec![found]).await?.pop() })
}

pub(super) async fn containers(
    engine: Shared,
    request: v1::ListContainerStatsRequest,
) -> Result<v1::ListContainerStatsResponse> {
    Ok(v1::ListContainerStatsResponse { stats: find_containers(&engine, request.filter).await? })
}

pub(super) async fn pods(
    engine: Shared,
    request: v1::ListPodSandboxStatsRequest,
) -> Result<v1::ListPodSandboxStatsResponse> {
    Ok(v1::ListPodSandboxStatsResponse { stats: find_pods(&engine, request.filter).await? })
}

pub(super) async fn stream_containers(
    engine: Shared,
    request: v1::StreamContainerStatsRequest,
) -> Result<Messages<v1::StreamContainerStatsResponse>> {
    let found = find_containers(&engine, request.filter).await?;
    Ok(chunks(found, |container_stats| v1::StreamContainerStatsResponse { container_stats }))
}

pub(super) async fn stream_pods(
    engine: Shared,
    request: v1::StreamPodSandboxStatsRequest,
) -> Result<Messages<v1::StreamPodSandboxStatsResponse>> {
    let found = find_pods(&engine, request.filter).await?;
    Ok(chunks(found, |pod_sandbox_stats| v1::StreamPodSandboxStatsResponse { pod_sandbox_stats }))
}

async fn find_containers(engine: &Shared, filter: Option<v1::ContainerStatsFilter>) -> Result<Vec<v1::ContainerStats>> {
    let mut found = engine.store.containers.list();
    found.retain(|each| each.is_running() && filter::container_stats(filter.as_ref(), each));
    of_containers(engine, found).await
}

async fn find_pods(engine: &Shared, filter: Option<v1::PodSandboxStatsFilter>) -> Result<Vec<v1::PodSandboxStats>> {
    let mut found = engine.store.sandboxes.list();
    found.retain(|each| filter::pod_stats(filter.as_ref(), each));
    of_pods(engine, found).await
}

async fn of_containers(engine: &Shared, found: Vec<Arc<Container>>) -> Result<Vec<v1::ContainerStats>> {
    let engine = Arc::clone(engine);
    let read = move || Ok(found.iter().map(|each| stats::container(&engine, each)).collect());
    Engine::blocking(|| "read what containers use".to_owned(), read).await
}

async fn of_pods(engine: &Shared, found: Vec<Arc<Sandbox>>) -> Result<Vec<v1::PodSandboxStats>> {
    let engine = Arc::clone(engine);
    let read = move || Ok(found.iter().map(|each| stats::pod(&engine, each)).collect());
    Engine::blocking(|| "read what pods use".to_owned(), read).await
}

fn no_metrics<T>() -> Result<T> {
    Err(Error::unimplemented("metrics by descriptor are not supported: use the stats calls"))
}

pub(super) async fn metric_descriptors(
    _: Shared,
    _: v1::ListMetricDescriptorsRequest,
) -> Result<v1::ListMetricDescriptorsResponse> {
    no_metrics()
}

pub(super) async fn metrics(
    _: Shared,
    _: v1::ListPodSandboxMetricsRequest,
) -> Result<v1::ListPodSandboxMetricsResponse> {
    no_metrics()
}

pub(super) async fn stream_metrics(
    _: Shared,
    _: v1::StreamPodSandboxMetricsRequest,
) -> Result<Messages<v1::StreamPodSandboxMetricsResponse>> {
    no_metrics()
}
