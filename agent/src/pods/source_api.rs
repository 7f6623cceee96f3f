//! Pods from the API server: a watch on those bound to this node.

use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, DefaultBackoff, Event, watcher};
use kube::{Api, Client};
use tokio::sync::mpsc::UnboundedSender;

use super::manager::{Message, Source};

/// Follows the API for ever.
pub(crate) async fn run(client: Client, node_name: String, manager: UnboundedSender<Message>) {
    let api: Api<Pod> = Api::all(client);
    let config = Config::default().fields(&format!("spec.nodeName={node_name}"));
    let stream = watcher(api, config).backoff(DefaultBackoff::default());
    pin_mut!(stream);
    let mut fresh = Vec::new();
    while let Some(event) = stream.next().await {
        let message = match event {
            Ok(Event::Init) => {
                fresh = Vec::new();
                continue;
            }
            Ok(Event::InitApply(pod)) => {
                fresh.push(pod);
                continue;
            }
            Ok(Event::InitDone) => Message::Set(Source::Api, std::mem::take(&mut fresh)),
            Ok(Event::Apply(pod)) => Message::Apply(Source::Api, Box::new(pod)),
            Ok(Event::Delete(pod)) => match pod.metadata.uid {
                Some(uid) => Message::Remove(Source::Api, uid),
                None => continue,
            },
            Err(error) => {
                tracing::warn!(%error, "watching this node's pods");
                continue;
            }
        };
        if manager.send(message).is_err() {
            return;
        }
    }
}
