//! The stream of container events (evented PLEG): made only while somebody listens.

use std::sync::Arc;

use orlop_proto::v1;

use crate::engine::{Engine, now};
use crate::status;
use crate::store::Container;

/// Tells listeners what has become of a container, with the state of its pod.
pub(crate) fn send(engine: &Engine, container: &Arc<Container>, kind: v1::ContainerEventType) {
    if engine.events.receiver_count() == 0 {
        return;
    }
    let Ok(sandbox) = engine.store.sandboxes.find(&container.sandbox) else { return };
    let event = v1::ContainerEventResponse {
        container_id: container.id.clone(),
        container_event_type: kind as i32,
        created_at: now(),
        pod_sandbox_status: Some(status::sandbox(&sandbox)),
        containers_statuses: status::containers_of(engine, &sandbox),
    };
    // The last listener may have gone meanwhile.
    drop(engine.events.send(event));
}
