//! Events are kept for an hour.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::registry::resource::EVENTS;
use crate::registry::{Context, DeleteOptions, Registry, name_of, namespace_of, uid_of};
use crate::time;

const SWEEP: Duration = Duration::from_mins(5);
const LIFETIME: SignedDuration = SignedDuration::from_hours(1);

/// Runs until told to stop.
pub(super) async fn run(registry: Arc<Registry>, stop: CancellationToken) {
    let ctx = Context::component("event-ttl");
    let mut ticks = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            _ = ticks.tick() => sweep(&registry, &ctx).await,
            () = stop.cancelled() => return,
        }
    }
}

async fn sweep(registry: &Registry, ctx: &Context) {
    let limit = Timestamp::now() - LIFETIME;
    for event in registry.list(&EVENTS, None) {
        let last = ["lastTimestamp", "eventTime"].iter().find_map(|field| time::parse(&event[*field]));
        let last = last.or_else(|| time::parse(&event["metadata"]["creationTimestamp"]));
        if last.is_none_or(|last| last < limit) {
            let options = DeleteOptions::now(uid_of(&event));
            if let Err(error) = registry.delete(ctx, &EVENTS, namespace_of(&event), name_of(&event), &options).await {
                tracing::debug!(%error, name = name_of(&event), "removing an old event");
            }
        }
    }
}
