//! One task per ready sandbox that hears its shim's events: ends of containers and execs, and the end of the shim.

use std::sync::Arc;

use futures::StreamExt;

use crate::container;
use crate::engine::Shared;
use crate::sandbox;
use crate::shim::{Event, EventStream};
use crate::store::Sandbox;

/// Begins to hear the shim of `sandbox`, until it is gone, the sandbox is stopped, or the daemon is.
pub(crate) fn watch(engine: &Shared, sandbox: &Arc<Sandbox>) {
    let Some(shim) = sandbox.shim() else { return };
    let events = shim.events();
    let (engine, sandbox) = (Arc::clone(engine), Arc::clone(sandbox));
    let watch = sandbox.next_watch();
    engine.tasks.clone().spawn(async move {
        let heard = watch.run_until_cancelled(hear(&engine, events));
        if let Some(Some(())) = engine.stop.run_until_cancelled(heard).await {
            sandbox::lost(&engine, &sandbox).await;
        }
    });
}

/// Returns when the shim is gone.
async fn hear(engine: &Shared, mut events: EventStream) {
    while let Some(Ok(event)) = events.next().await {
        match event {
            Event::Exit { id, exec_id: None, status } => container::ended(engine, &id, status),
            Event::Exit { id, exec_id: Some(exec), status } => engine.exec_ended(&id, &exec, status),
            Event::Oom { id } => tracing::info!(container = %id, "out of memory: the kernel killed a process"),
            Event::Synced => {}
        }
    }
}
