//! Version, Status, RuntimeConfig, UpdateRuntimeConfig.

use std::collections::BTreeMap;

use orlop_proto::v1;

use crate::config::BUILT_IN_HANDLERS;
use crate::engine::Shared;
use crate::error::Result;

/// The version of the kubelet's side of the protocol; it has been this since there is one.
const KUBELET_API: &str = "0.1.0";
const RUNTIME_API: &str = "v1";

pub(super) async fn version(_: Shared, _: v1::VersionRequest) -> Result<v1::VersionResponse> {
    Ok(v1::VersionResponse {
        version: KUBELET_API.to_owned(),
        runtime_name: "orlop".to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_api_version: RUNTIME_API.to_owned(),
    })
}

pub(super) async fn status(engine: Shared, request: v1::StatusRequest) -> Result<v1::StatusResponse> {
    let network = engine.network.status().await;
    let condition = |kind: &str, reason: &str, message: String| v1::RuntimeCondition {
        r#type: kind.to_owned(),
        status: reason.is_empty(),
        reason: reason.to_owned(),
        message,
    };
    let network_condition = match &network {
        Ok(_) => condition("NetworkReady", "", String::new()),
        Err(error) => condition("NetworkReady", "NetworkPluginNotReady", error.chain()),
    };
    let mut info = BTreeMap::new();
    if request.verbose {
        let config = serde_json::json!({
            "state": engine.config.state,
            "run": engine.config.run,
            "shim": engine.shim,
            "cgroupParent": engine.config.cgroup_parent,
            "cgroup2": engine.host.cgroup2,
            "network": network.as_ref().ok(),
            "cniConfDir": engine.config.cni.conf_dir,
            "streaming": engine.streams().ok().map(|server| server.address().to_string()),
            "sandboxes": engine.store.sandboxes.list().len(),
            "containers": engine.store.containers.list().len(),
        });
        info.insert("config".to_owned(), config.to_string());
    }
    Ok(v1::StatusResponse {
        status: Some(v1::RuntimeStatus {
            conditions: vec![condition("RuntimeReady", "", String::new()), network_condition],
        }),
        info,
        runtime_handlers: handlers(&engine),
        features: Some(v1::RuntimeFeatures { supplemental_groups_policy: true, user_namespaces_host_network: false }),
    })
}

fn handlers(engine: &Shared) -> Vec<v1::RuntimeHandler> {
    let handler = |name: &str, features| v1::RuntimeHandler { name: name.to_owned(), features: Some(features) };
    let built_in = v1::RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: false };
    let mut handlers: Vec<_> = BUILT_IN_HANDLERS.iter().map(|name| handler(name, built_in)).collect();
    // What another program can do is not asked.
    handlers.extend(engine.config.runtimes.keys().map(|name| handler(name, v1::RuntimeHandlerFeatures::default())));
    handlers
}

pub(super) async fn runtime_config(_: Shared, _: v1::RuntimeConfigRequest) -> Result<v1::RuntimeConfigResponse> {
    let linux = v1::LinuxRuntimeConfiguration { cgroup_driver: v1::CgroupDriver::Cgroupfs as i32 };
    Ok(v1::RuntimeConfigResponse { linux: Some(linux) })
}

/// The pod network is what the CNI configuration says; a CIDR that the node is given is noted in the log only, as
/// containerd does without a template.
pub(super) async fn update_runtime_config(
    _: Shared,
    request: v1::UpdateRuntimeConfigRequest,
) -> Result<v1::UpdateRuntimeConfigResponse> {
    let network = request.runtime_config.and_then(|config| config.network_config);
    if let Some(network) = network {
        tracing::info!(pod_cidr = %network.pod_cidr, "the node was given a pod CIDR; the CNI configuration decides");
    }
    Ok(v1::UpdateRuntimeConfigResponse {})
}
