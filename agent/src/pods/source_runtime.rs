//! Follows the runtime: its events as they come, and a listing of everything now and then.

use std::sync::Arc;
use std::time::Duration;

use orlop_proto::v1;
use tokio::sync::mpsc;

use super::manager::Message;
use crate::context::Context;

/// The runtime's sandboxes and containers.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) sandboxes: Vec<v1::PodSandbox>,
    pub(crate) containers: Vec<v1::Container>,
}

/// How often everything is listed: rarely when the runtime tells events, else each second.
const SLOW: Duration = Duration::from_secs(10);
const FAST: Duration = Duration::from_secs(1);

/// Follows the runtime: its events as they come, and a listing of everything now and then.
pub(crate) async fn follow_runtime(ctx: Arc<Context>, manager: mpsc::UnboundedSender<Message>) {
    loop {
        list_into(&ctx, &manager).await;
        match ctx.cri.events().await {
            Ok(mut events) => {
                let mut tick = tokio::time::interval(SLOW);
                loop {
                    tokio::select! {
                        event = events.message() => match event {
                            Ok(Some(event)) => told(&ctx, &manager, event).await,
                            Ok(None) | Err(_) => break,
                        },
                        _ = tick.tick() => list_into(&ctx, &manager).await,
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "the runtime tells no events; listing each second"),
        }
        tokio::time::sleep(FAST).await;
    }
}

async fn told(ctx: &Context, manager: &mpsc::UnboundedSender<Message>, event: v1::ContainerEventResponse) {
    let metadata = event.pod_sandbox_status.and_then(|s| s.metadata);
    match metadata.map(|m| m.uid).filter(|uid| !uid.is_empty()) {
        Some(uid) => {
            // The manager is gone only when the agent stops.
            let _ = manager.send(Message::Wake(vec![uid]));
        }
        None => list_into(ctx, manager).await,
    }
}

async fn list_into(ctx: &Context, manager: &mpsc::UnboundedSender<Message>) {
    let sandboxes = ctx.cri.list_pod_sandbox(v1::ListPodSandboxRequest::default());
    let containers = ctx.cri.list_containers(v1::ListContainersRequest::default());
    match tokio::try_join!(sandboxes, containers) {
        Ok((sandboxes, containers)) => {
            let listing = Listing { sandboxes: sandboxes.items, containers: containers.containers };
            let _ = manager.send(Message::Relist(Box::new(listing)));
        }
        Err(error) => tracing::warn!(%error, "cannot list what the runtime has"),
    }
}
