//! ListPodSandbox, ListContainers, and their streams.

use futures::StreamExt;
use futures::stream;
use orlop_proto::v1;

use super::filter;
use super::services::Messages;
use crate::engine::Shared;
use crate::error::Result;
use crate::status;

/// Objects in one message of a stream: far below the limit of a message.
pub(super) const CHUNK: usize = 100;

/// Sends `items` in messages of [`CHUNK`]; none at all for no items.
pub(super) fn chunks<T: Send + 'static, M: Send + 'static>(
    items: Vec<T>,
    message: impl Fn(Vec<T>) -> M + Send + 'static,
) -> Messages<M> {
    let mut items = items.into_iter();
    let parts = std::iter::from_fn(move || {
        let part: Vec<T> = items.by_ref().take(CHUNK).collect();
        (!part.is_empty()).then_some(part)
    });
    stream::iter(parts.map(move |part| Ok(message(part)))).boxed()
}

fn find_sandboxes(engine: &Shared, filter: Option<&v1::PodSandboxFilter>) -> Vec<v1::PodSandbox> {
    let all = engine.store.sandboxes.list();
    all.iter().filter(|each| filter::sandbox(filter, each)).map(|each| status::sandbox_item(each)).collect()
}

fn find_containers(engine: &Shared, filter: Option<&v1::ContainerFilter>) -> Vec<v1::Container> {
    let all = engine.store.containers.list();
    all.iter().filter(|each| filter::container(filter, each)).map(|each| status::container_item(each)).collect()
}

pub(super) async fn sandboxes(
    engine: Shared,
    request: v1::ListPodSandboxRequest,
) -> Result<v1::ListPodSandboxResponse> {
    Ok(v1::ListPodSandboxResponse { items: find_sandboxes(&engine, request.filter.as_ref()) })
}

pub(super) async fn containers(
    engine: Shared,
    request: v1::ListContainersRequest,
) -> Result<v1::ListContainersResponse> {
    Ok(v1::ListContainersResponse { containers: find_containers(&engine, request.filter.as_ref()) })
}

pub(super) async fn stream_sandboxes(
    engine: Shared,
    request: v1::StreamPodSandboxesRequest,
) -> Result<Messages<v1::StreamPodSandboxesResponse>> {
    let found = find_sandboxes(&engine, request.filter.as_ref());
    Ok(chunks(found, |pod_sandboxes| v1::StreamPodSandboxesResponse { pod_sandboxes }))
}

pub(super) async fn stream_containers(
    engine: Shared,
    request: v1::StreamContainersRequest,
) -> Result<Messages<v1::StreamContainersResponse>> {
    let found = find_containers(&engine, request.filter.as_ref());
    Ok(chunks(found, |containers| v1::StreamContainersResponse { containers }))
}
