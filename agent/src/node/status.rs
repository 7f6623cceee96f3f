//! The node's status: computed every ten seconds, written when it changed or grew old.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
    NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use orlop_proto::v1;
use serde_json::json;
use tokio::time::Instant;

use super::info;
use crate::context::Context;

const COMPUTE: Duration = Duration::from_secs(10);
/// The shortest and the longest pause while the node is not ready.
const UNTIL_READY: Duration = Duration::from_millis(200);
const NOT_READY: Duration = Duration::from_secs(5);
const REPORT: Duration = Duration::from_mins(5);
const MAX_IMAGES: usize = 50;
const MAX_NAMES: usize = 5;

/// Keeps the status for ever.
pub(super) async fn run(ctx: &Context, client: Client, port: u16) {
    let api: Api<Node> = Api::all(client);
    let mut told: Option<(NodeStatus, Instant)> = None;
    let mut pod_cidr = None;
    let mut pause = UNTIL_READY;
    loop {
        let old = told.as_ref().map(|(status, _)| status);
        let status = compute(ctx, port, old).await;
        let ready = is_ready(&status);
        let due = told.as_ref().is_none_or(|(old, at)| at.elapsed() >= REPORT || !same(old, &status));
        if due {
            match write(ctx, &api, &status).await {
                Ok(node) => {
                    if ready != old.is_some_and(is_ready) {
                        let kind = if ready { "NodeReady" } else { "NodeNotReady" };
                        let text = format!("Node {} status is now: {kind}", ctx.config.node_name);
                        ctx.events.normal(ctx.node_reference(), kind, text);
                    }
                    tell_pod_cidr(ctx, &node, &mut pod_cidr).await;
                    ctx.node.send_replace(Some(node));
                    told = Some((status, Instant::now()));
                }
                Err(error) => tracing::warn!(%error, "cannot write the node's status"),
            }
        }
        // A node becomes ready soon after its start, or it may take hours.
        tokio::time::sleep(if ready { COMPUTE } else { pause }).await;
        pause = if ready { UNTIL_READY } else { (pause * 2).min(NOT_READY) };
    }
}

/// Passes the pods' range on to the runtime, once for each change.
async fn tell_pod_cidr(ctx: &Context, node: &Node, told: &mut Option<String>) {
    let spec = node.spec.as_ref();
    let several = spec.and_then(|s| s.pod_cidrs.as_ref()).map(|list| list.join(","));
    let cidr = several.or_else(|| spec.and_then(|s| s.pod_cidr.clone())).filter(|c| !c.is_empty());
    if cidr.is_none() || cidr == *told {
        return;
    }
    let request = v1::UpdateRuntimeConfigRequest {
        runtime_config: Some(v1::RuntimeConfig {
            network_config: cidr.clone().map(|pod_cidr| v1::NetworkConfig { pod_cidr }),
        }),
    };
    match ctx.cri.update_runtime_config(request).await {
        Ok(_) => *told = cidr,
        Err(error) => tracing::warn!(%error, "cannot tell the runtime the pods' addresses"),
    }
}

async fn write(ctx: &Context, api: &Api<Node>, status: &NodeStatus) -> Result<Node, kube::Error> {
    let patch = json!({"status": status});
    api.patch_status(&ctx.config.node_name, &PatchParams::default(), &Patch::Strategic(&patch)).await
}

fn is_ready(status: &NodeStatus) -> bool {
    status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Equal but for the time of the heartbeat.
fn same(a: &NodeStatus, b: &NodeStatus) -> bool {
    let timeless = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status
    };
    timeless(a) == timeless(b)
}

async fn compute(ctx: &Context, port: u16, old: Option<&NodeStatus>) -> NodeStatus {
    let runtime = ctx.cri.status(v1::StatusRequest::default()).await;
    let version = ctx.cri.version(v1::VersionRequest::default()).await;
    let images = ctx.cri.list_images(v1::ListImagesRequest::default()).await;
    let version = version.map(|v| format!("{}://{}", v.runtime_name, v.runtime_version));
    let not_ready = match &runtime {
        Ok(status) => runtime_problem(status.status.as_ref()),
        Err(_) => Some("container runtime is down".to_owned()),
    };
    let quantities =
        |list: &BTreeMap<String, String>| Some(list.iter().map(|(k, v)| (k.clone(), Quantity(v.clone()))).collect());
    let capacity = info::capacity(ctx.config.max_pods, &ctx.config.state_dir);
    let runtime = runtime.unwrap_or_default();
    NodeStatus {
        addresses: Some(addresses(ctx)),
        capacity: quantities(&capacity),
        allocatable: quantities(&capacity),
        conditions: Some(conditions(not_ready, old)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(port) }),
        }),
        images: images.ok().map(|i| node_images(i.images)),
        node_info: Some(info::system(&version.unwrap_or_default())),
        runtime_handlers: Some(runtime.runtime_handlers.iter().map(handler).collect()),
        features: runtime
            .features
            .map(|f| NodeFeatures { supplemental_groups_policy: Some(f.supplemental_groups_policy) }),
        ..NodeStatus::default()
    }
}

fn addresses(ctx: &Context) -> Vec<NodeAddress> {
    let address = |type_: &str, address: &String| NodeAddress { type_: type_.to_owned(), address: address.clone() };
    let ips = ctx.node_ips.iter().map(|ip| address("InternalIP", ip));
    ips.chain([address("Hostname", &ctx.config.node_name)]).collect()
}

fn handler(handler: &v1::RuntimeHandler) -> NodeRuntimeHandler {
    NodeRuntimeHandler {
        name: Some(handler.name.clone()),
        features: handler.features.as_ref().map(|f| NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(f.recursive_read_only_mounts),
            user_namespaces: Some(f.user_namespaces),
        }),
    }
}

/// Largest first, digests before tags.
fn node_images(mut images: Vec<v1::Image>) -> Vec<ContainerImage> {
    images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    let entries = images.into_iter().take(MAX_IMAGES).map(|image| ContainerImage {
        names: Some(image.repo_digests.into_iter().chain(image.repo_tags).take(MAX_NAMES).collect()),
        size_bytes: i64::try_from(image.size).ok(),
    });
    entries.collect()
}

fn runtime_problem(status: Option<&v1::RuntimeStatus>) -> Option<String> {
    let find = |kind: &str| status?.conditions.iter().find(|c| c.r#type == kind);
    for (kind, what) in [("RuntimeReady", "container runtime"), ("NetworkReady", "container runtime network")] {
        match find(kind) {
            Some(c) if c.status => {}
            Some(c) => {
                return Some(format!("{what} not ready: {kind}=false reason:{} message:{}", c.reason, c.message));
            }
            None => return Some(format!("{what} not ready: {kind} is not reported")),
        }
    }
    None
}

/// The four conditions; pressure is not measured yet beyond memory that is all but gone.
fn conditions(not_ready: Option<String>, old: Option<&NodeStatus>) -> Vec<NodeCondition> {
    const LEAST_MEMORY: i64 = 100 << 20;
    let short = info::memory_available() < LEAST_MEMORY;
    let memory = if short {
        ("True", "KubeletHasInsufficientMemory", "kubelet has insufficient memory available".to_owned())
    } else {
        ("False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available".to_owned())
    };
    let disk = ("False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure".to_owned());
    let pid = ("False", "KubeletHasSufficientPID", "kubelet has sufficient PID available".to_owned());
    let ready = match not_ready {
        None => ("True", "KubeletReady", "kubelet is posting ready status".to_owned()),
        Some(why) => ("False", "KubeletNotReady", why),
    };
    let all = [("MemoryPressure", memory), ("DiskPressure", disk), ("PIDPressure", pid), ("Ready", ready)];
    let now = Time(Timestamp::now());
    all.into_iter()
        .map(|(kind, (status, reason, message))| {
            let before = old.and_then(|o| o.conditions.as_ref()?.iter().find(|c| c.type_ == kind));
            let since = before.filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
            NodeCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_heartbeat_time: Some(now.clone()),
                last_transition_time: since.or_else(|| Some(now.clone())),
            }
        })
        .collect()
}
