//! RunPodSandbox: namespaces by the shim, network by CNI, and all undone if a step fails.

use std::sync::Arc;

use orlop_proto::v1::{self, NamespaceMode};

use super::check::{Plan, check};
use super::{files, undo};
use crate::engine::{Engine, Shared, new_id, now};
use crate::error::{Context, Error, Kind, Result};
use crate::shim::{Init, PodNamespaces, ShimClient, ShimConfig};
use crate::store::{Sandbox, SandboxRecord, SandboxState};
use crate::watching;

/// Of the shims: after everything in pods, before the node's own daemons.
const SHIM_OOM_SCORE_ADJ: i64 = -998;

/// Makes a sandbox and answers with its id when it is ready.
///
/// The same request again, while the first is in flight or when its sandbox is ready, gives the same id.
pub(crate) async fn run(engine: &Shared, request: v1::RunPodSandboxRequest) -> Result<String> {
    let plan = check(engine, request)?;
    let key = format!("pod {:?}", plan.config.metadata);
    engine.making.run(key, run_once(engine, plan)).await
}

async fn run_once(engine: &Shared, plan: Plan) -> Result<String> {
    if let Some(id) = existing(engine, &plan)? {
        return Ok(id);
    }
    let sandbox = Arc::new(Sandbox::new(record(engine, &plan)));
    let _operation = sandbox.operation.write().await;
    engine.store.save_sandbox(&sandbox)?;
    engine.store.sandboxes.insert(Arc::clone(&sandbox));
    match make(engine, &sandbox, &plan).await {
        Ok(()) => Ok(sandbox.id.clone()),
        Err(error) => Err(error.and_cleanup(undo(engine, &sandbox).await)),
    }
}

fn existing(engine: &Engine, plan: &Plan) -> Result<Option<String>> {
    let same =
        engine.store.sandboxes.list().into_iter().find(|sandbox| sandbox.config.metadata == plan.config.metadata);
    let Some(sandbox) = same else { return Ok(None) };
    if sandbox.state() == SandboxState::Ready
        && sandbox.config == plan.config
        && sandbox.runtime_handler == plan.handler
    {
        return Ok(Some(sandbox.id.clone()));
    }
    Err(Error::new(
        Kind::AlreadyExists,
        format!(
            "sandbox {} has the same name, namespace, uid and attempt: use the next attempt, or remove it",
            sandbox.id
        ),
    ))
}

fn record(engine: &Engine, plan: &Plan) -> SandboxRecord {
    let id = new_id();
    let own_cgroup = plan.cgroup_parent.is_none();
    let cgroup = plan
        .cgroup_parent
        .clone()
        .unwrap_or_else(|| std::path::Path::new("/").join(&engine.config.cgroup_parent).join(&id));
    SandboxRecord {
        id,
        config: plan.config.clone(),
        runtime_handler: plan.handler.clone(),
        created_at: now(),
        state: SandboxState::Creating,
        addresses: Vec::new(),
        cgroup,
        own_cgroup,
        network: false,
    }
}

async fn make(engine: &Shared, sandbox: &Arc<Sandbox>, plan: &Plan) -> Result<()> {
    let pod = engine.config.pod_dir(&sandbox.id);
    {
        let (pod, sandbox) = (pod.clone(), Arc::clone(sandbox));
        Engine::blocking(|| "make the pod's folder".to_owned(), move || files::make(&pod, &sandbox)).await?;
    }
    let shim = ShimClient::spawn(shim_config(engine, sandbox, plan))
        .await
        .context(Kind::Internal, || format!("start the shim of sandbox {}", sandbox.id))?;
    sandbox.set_shim(Some(shim));
    if !sandbox.host_network() {
        sandbox.network_begins();
        engine.store.save_sandbox(sandbox)?;
        let addresses = engine.network.add(sandbox, &pod.join("ns/net")).await?;
        sandbox.network_is_up(addresses);
    }
    // A pod on the node's network sees the node's.
    if !sandbox.host_network() {
        files::write_hosts(&pod, sandbox)?;
    }
    sandbox.set_state(SandboxState::Ready);
    engine.store.save_sandbox(sandbox)?;
    watching::watch(engine, sandbox);
    Ok(())
}

fn shim_config(engine: &Engine, sandbox: &Sandbox, plan: &Plan) -> ShimConfig {
    let own_network = plan.namespaces.network() != NamespaceMode::Node;
    ShimConfig {
        binary: engine.shim.clone(),
        init: Init {
            id: sandbox.id.clone(),
            dir: engine.config.pod_dir(&sandbox.id),
            runtime_root: engine.config.runtime_root(),
            namespaces: PodNamespaces {
                net: own_network,
                ipc: plan.namespaces.ipc() != NamespaceMode::Node,
                uts: own_network,
                pid: plan.namespaces.pid() == NamespaceMode::Pod,
            },
            hostname: own_network.then(|| sandbox.hostname()),
            sysctls: plan.sysctls.clone(),
            oom_score_adj: Some(engine.host.oom_score_adj(SHIM_OOM_SCORE_ADJ)),
        },
    }
}
