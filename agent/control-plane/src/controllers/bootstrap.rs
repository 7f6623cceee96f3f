//! The objects that every cluster has.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::registry::resource::{ENDPOINT_SLICES, NAMESPACES, PRIORITY_CLASSES, Resource, SERVICES};
use crate::registry::{Context, Part, Registry, name_of};
use crate::status::Status;

/// Where the API server is, inside and outside.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Endpoint {
    pub(crate) service_ip: Ipv4Addr,
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
}

/// Makes what is missing. What is there is left alone, but for where the API server is.
pub(crate) async fn bootstrap(registry: &Arc<Registry>, endpoint: Endpoint) -> Result<(), Status> {
    let ctx = Context::component("system:apiserver");
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        ensure(registry, &ctx, &NAMESPACES, "", json!({"metadata": {"name": name}})).await?;
    }
    for (name, value) in [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)] {
        let class = json!({"metadata": {"name": name}, "value": value, "description":
            "Used for system critical pods that must run."});
        ensure(registry, &ctx, &PRIORITY_CLASSES, "", class).await?;
    }
    let port = json!({"name": "https", "port": 443, "protocol": "TCP", "targetPort": endpoint.port});
    let service = json!({
        "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"clusterIP": endpoint.service_ip.to_string(), "ports": [port]},
    });
    ensure(registry, &ctx, &SERVICES, "default", service).await?;
    let family = if endpoint.address.is_ipv6() { "IPv6" } else { "IPv4" };
    let slice = json!({
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": family, "ports": [{"name": "https", "port": endpoint.port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [endpoint.address.to_string()], "conditions": {"ready": true}}],
    });
    ensure(registry, &ctx, &ENDPOINT_SLICES, "default", slice.clone()).await?;
    registry
        .update(&ctx, &ENDPOINT_SLICES, "default", name_of(&slice), Part::Main, |old| {
            let mut new = old.clone();
            for field in ["ports", "endpoints"] {
                new[field] = slice[field].clone();
            }
            Ok(new)
        })
        .await
        .map(drop)
}

async fn ensure(
    registry: &Registry,
    ctx: &Context,
    resource: &'static Resource,
    namespace: &str,
    object: Value,
) -> Result<(), Status> {
    if registry.get(resource, namespace, name_of(&object)).is_ok() {
        return Ok(());
    }
    match registry.create(ctx, resource, namespace, object).await {
        Err(status) if !status.is_already_exists() => Err(status),
        _ => Ok(()),
    }
}
