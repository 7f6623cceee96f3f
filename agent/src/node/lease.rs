//! The node's lease: its heartbeat.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use crate::context::Context;

const DURATION_SECONDS: i32 = 40;
const RENEW: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);

/// Renews the lease for ever.
pub(super) async fn run(ctx: &Context, client: Client, node_uid: Option<String>) {
    let api: Api<Lease> = Api::namespaced(client, "kube-node-lease");
    loop {
        let renewed = tokio::time::timeout(RENEW, renew(ctx, &api, node_uid.as_deref())).await;
        let pause = match renewed {
            Ok(Ok(())) => RENEW,
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot renew the node's lease");
                RETRY
            }
            Err(_) => {
                tracing::warn!("the API server does not answer to the node's lease");
                RETRY
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn renew(ctx: &Context, api: &Api<Lease>, node_uid: Option<&str>) -> Result<(), kube::Error> {
    let name = &ctx.config.node_name;
    let now = MicroTime(Timestamp::now());
    let patch = json!({"spec": {
        "holderIdentity": name, "leaseDurationSeconds": DURATION_SECONDS, "renewTime": now}});
    match api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        patched => return patched.map(drop),
    }
    let owner = node_uid.map(|uid| OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.clone(),
        uid: uid.to_owned(),
        ..OwnerReference::default()
    });
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            owner_references: owner.map(|o| vec![o]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.clone()),
            lease_duration_seconds: Some(DURATION_SECONDS),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    };
    api.create(&PostParams::default(), &lease).await.map(drop)
}
