//! watch: a stream of changes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use rand::RngExt as _;
use serde_json::{Value, json};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::read::{Selection, invalid, parse_revision, partial, too_large};
use crate::registry::resource::Resource;
use crate::server::Api;
use crate::server::accept::Form;
use crate::server::reply::Reply;
use crate::server::request::ResourceRequest;
use crate::server::tables;
use crate::status::Status;
use crate::store::{Event, Watcher};

/// Between two bookmarks.
const BOOKMARKS: Duration = Duration::from_mins(1);
/// A watch without a timeout lasts a random time from here to twice that.
const LIFETIME: u64 = 1800;
/// None lasts longer.
const LONGEST: u64 = 24 * 3600;

pub(super) fn serve(
    api: &Arc<Api>,
    resource: &'static Resource,
    request: &ResourceRequest,
    form: Form,
) -> Result<Reply, Status> {
    let selection = Selection::of(request)?;
    let query = &request.query;
    let bookmarks = query.flag("allowWatchBookmarks");
    let initial = initial_events(request)?;
    let version = query.get("resourceVersion");
    let revision = if version.is_empty() { 0 } else { parse_revision(version)? };
    let store = &api.registry.store;
    let newest = store.revision();
    if revision > newest {
        return Err(too_large(revision, newest));
    }
    let namespace = (!request.namespace.is_empty()).then(|| request.namespace.clone());
    let mut encoder = Encoder { resource, form, include: query.get("includeObject").to_owned(), first: true };
    let mut queue = VecDeque::new();
    let list_first = initial.unwrap_or(revision == 0);
    let start = if list_first {
        let listing = store.list(resource.storage, namespace.as_deref());
        for object in listing.items.iter().filter(|o| selection.matches(o)) {
            queue.push_back(encoder.event("ADDED", object));
        }
        if initial == Some(true) && bookmarks {
            queue.push_back(encoder.bookmark(listing.revision, true));
        }
        listing.revision
    } else if revision == 0 {
        newest
    } else {
        revision
    };
    let mut watcher = store.watch(resource.storage, start);
    // An expired start is told at once, as a status of its own.
    let first = watcher.poll().map_err(|_| gone(revision, newest))?;
    let mut ticks = tokio::time::interval(BOOKMARKS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset();
    let seconds = match query.number("timeoutSeconds")? {
        Some(seconds) if seconds > 0 => seconds.unsigned_abs().min(LONGEST),
        _ => rand::rng().random_range(LIFETIME..2 * LIFETIME),
    };
    let mut feed = Feed {
        watcher,
        encoder,
        selection,
        namespace,
        queue,
        bookmarks,
        ticks,
        end: Instant::now() + Duration::from_secs(seconds),
        ended: false,
        stop: api.stop.clone(),
    };
    feed.take(&first);
    let stream = stream::unfold(feed, |mut feed| async move { feed.next().await.map(|chunk| (Ok(chunk), feed)) });
    Ok(Reply::stream("application/json", stream))
}

/// Whether the present objects are to be sent first; none when the client leaves it to the resourceVersion.
fn initial_events(request: &ResourceRequest) -> Result<Option<bool>, Status> {
    let query = &request.query;
    let matching = query.get("resourceVersionMatch");
    if !query.has("sendInitialEvents") {
        return if matching.is_empty() {
            Ok(None)
        } else {
            Err(invalid(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ))
        };
    }
    if matching != "NotOlderThan" {
        let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        return Err(invalid("resourceVersionMatch", why));
    }
    let wanted = query.flag("sendInitialEvents");
    if wanted && !query.flag("allowWatchBookmarks") {
        return Err(invalid("allowWatchBookmarks", "sendInitialEvents requires setting allowWatchBookmarks to true"));
    }
    Ok(Some(wanted))
}

fn gone(revision: u64, newest: u64) -> Status {
    Status::expired(format!("too old resource version: {revision} ({newest})"))
}

/// Writes events in the form that the client wants.
struct Encoder {
    resource: &'static Resource,
    form: Form,
    include: String,
    /// The columns of a table are sent once.
    first: bool,
}

impl Encoder {
    fn event(&mut self, kind: &str, object: &Arc<Value>) -> Bytes {
        match self.form {
            Form::Object => {
                // Spares a copy of the object.
                let mut text = format!("{{\"type\":\"{kind}\",\"object\":");
                text.push_str(&object.to_string());
                text.push_str("}\n");
                Bytes::from(text)
            }
            Form::Metadata => line(kind, &partial(object)),
            Form::Table => {
                let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                let table = tables::table(self.resource, &[Arc::clone(object)], metadata, &self.include, self.first);
                self.first = false;
                line(kind, &table)
            }
        }
    }

    fn bookmark(&mut self, revision: u64, initial: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.form {
            Form::Object => {
                json!({"kind": self.resource.kind, "apiVersion": self.resource.api_version(), "metadata": metadata})
            }
            Form::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            Form::Table => {
                let row = json!({"cells": [], "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}});
                json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": revision.to_string()}, "columnDefinitions": null, "rows": [row]})
            }
        };
        line("BOOKMARK", &object)
    }
}

fn line(kind: &str, object: &Value) -> Bytes {
    let mut text = json!({"type": kind, "object": object}).to_string();
    text.push('\n');
    Bytes::from(text)
}

struct Feed {
    watcher: Watcher,
    encoder: Encoder,
    selection: Selection,
    namespace: Option<String>,
    queue: VecDeque<Bytes>,
    bookmarks: bool,
    ticks: Interval,
    end: Instant,
    ended: bool,
    stop: tokio_util::sync::CancellationToken,
}

impl Feed {
    /// The next piece of the stream; none at its end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if !self.queue.is_empty() {
                // What waits goes out in one piece.
                let mut piece = Vec::new();
                self.queue.drain(..).for_each(|line| piece.extend_from_slice(&line));
                return Some(Bytes::from(piece));
            }
            if self.ended {
                return None;
            }
            tokio::select! {
                events = self.watcher.next() => if let Ok(events) = events { self.take(&events) } else {
                    let revision = self.watcher.revision();
                    self.queue.push_back(line("ERROR", &gone(revision, revision).to_json()));
                    self.ended = true;
                },
                _ = self.ticks.tick(), if self.bookmarks => {
                    let revision = self.watcher.revision();
                    self.queue.push_back(self.encoder.bookmark(revision, false));
                }
                () = tokio::time::sleep_until(self.end) => return None,
                () = self.stop.cancelled() => return None,
            }
        }
    }

    fn take(&mut self, events: &[Arc<Event>]) {
        for event in events {
            if self.namespace.as_ref().is_some_and(|namespace| *namespace != event.namespace) {
                continue;
            }
            let value = event.value();
            let was = event.previous().is_some_and(|previous| self.selection.matches(&previous));
            let is = !event.deleted && self.selection.matches(&value);
            let kind = match (was, is) {
                (false, false) => continue,
                (false, true) => "ADDED",
                (true, true) => "MODIFIED",
                // Gone, or out of the selection, which is the same to this client.
                (true, false) => "DELETED",
            };
            self.queue.push_back(self.encoder.event(kind, &value));
        }
    }
}
