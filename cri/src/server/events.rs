//! GetContainerEvents.

use futures::StreamExt;
use orlop_proto::v1;
use tokio_stream::wrappers::BroadcastStream;

use super::services::Messages;
use crate::engine::Shared;
use crate::error::Result;

/// Events from now on, until the client or the daemon goes away. A client that falls far behind loses some, which
/// the log tells; the protocol has no word for it.
pub(super) async fn get(engine: Shared, _: v1::GetEventsRequest) -> Result<Messages<v1::ContainerEventResponse>> {
    let events = BroadcastStream::new(engine.events.subscribe()).filter_map(|event| async {
        match event {
            Ok(event) => Some(Ok(event)),
            Err(error) => {
                tracing::warn!(%error, "a reader of container events is too slow");
                None
            }
        }
    });
    let stop = engine.stop.clone();
    Ok(events.take_until(async move { stop.cancelled().await }).boxed())
}
