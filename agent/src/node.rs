//! The node in the API: registration, status and lease.

pub(crate) mod info;
mod lease;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use crate::context::Context;

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(7);
const ATTACH: &str = "volumes.kubernetes.io/controller-managed-attach-detach";

/// Registers the node and keeps its status and lease, for ever. `port` is the HTTPS API's.
pub(crate) async fn run(ctx: Arc<Context>, client: Client, port: u16) {
    let started = ctx.node_reference();
    ctx.events.normal(started, "Starting", "Starting kubelet.");
    let node = register(&ctx, &client).await;
    let uid = node.metadata.uid.clone();
    ctx.node.send_replace(Some(node));
    tokio::join!(status::run(&ctx, client.clone(), port), lease::run(&ctx, client.clone(), uid),);
}

fn labels(ctx: &Context) -> BTreeMap<String, String> {
    let name = ctx.config.node_name.as_str();
    let arch = info::architecture();
    let always = [
        ("kubernetes.io/hostname", name),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", arch),
    ];
    let always = always.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned()));
    let mut labels: BTreeMap<_, _> = always.collect();
    labels.extend(ctx.config.labels.clone());
    labels
}

async fn register(ctx: &Context, client: &Client) -> Node {
    let api: Api<Node> = Api::all(client.clone());
    let mut pause = FIRST_RETRY;
    loop {
        match try_register(ctx, &api).await {
            Ok(node) => return node,
            Err(error) => {
                // A server that is not there yet will come; one that refuses wants something changed.
                if matches!(error, kube::Error::Api(_)) {
                    tracing::warn!(%error, "the API server refuses to register the node");
                } else {
                    tracing::info!(%error, "cannot register the node yet");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LAST_RETRY);
            }
        }
    }
}

async fn try_register(ctx: &Context, api: &Api<Node>) -> Result<Node, kube::Error> {
    let taints = Some(ctx.config.taints.clone()).filter(|t| !t.is_empty());
    let node = Node {
        metadata: ObjectMeta {
            name: Some(ctx.config.node_name.clone()),
            labels: Some(labels(ctx)),
            annotations: Some(BTreeMap::from([(ATTACH.to_owned(), "true".to_owned())])),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec { taints, ..NodeSpec::default() }),
        status: None,
    };
    match api.create(&PostParams::default(), &node).await {
        Err(kube::Error::Api(status)) if matches!(status.code, 403 | 409) => {
            let patch = json!({"metadata": {"labels": labels(ctx), "annotations": {ATTACH: "true"}}});
            api.patch(&ctx.config.node_name, &PatchParams::default(), &Patch::Strategic(&patch)).await
        }
        created => created,
    }
}
