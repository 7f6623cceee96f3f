//! Unmodified kubectl against the control plane.

mod common;

use common::{Cluster, DEPLOYMENT, no_kubectl, node, squeezed};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_cluster_has_what_every_cluster_has() {
    if no_kubectl() {
        return;
    }
    let cluster = Cluster::start().await;
    let namespaces = cluster.kubectl("get ns -o name").await.ok();
    assert_eq!(
        namespaces,
        "namespace/default\nnamespace/kube-node-lease\nnamespace/kube-public\nnamespace/kube-system\n"
    );
    let service = squeezed(&cluster.kubectl("get svc kubernetes --no-headers").await.ok());
    assert!(service.contains("ClusterIP 10.96.0.1 <none> 443/TCP"), "{service}");
    assert!(cluster.kubectl("version").await.ok().contains("Server Version: v1.36"));
    assert!(cluster.kubectl("auth whoami").await.ok().contains("kubernetes-admin"));
    assert_eq!(cluster.kubectl("auth can-i create pods").await.ok().trim(), "yes");
    let resources = cluster.kubectl("api-resources -o name").await.ok();
    for name in ["pods", "deployments.apps", "leases.coordination.k8s.io", "csinodes.storage.k8s.io"] {
        assert!(resources.lines().any(|line| line == name), "{name} in {resources}");
    }
    assert_eq!(cluster.kubectl("get --raw /readyz").await.ok(), "ok");
    cluster.until("get sa default -n kube-system -o name", |out| out.starts_with("serviceaccount/")).await;
    cluster.until("get cm kube-root-ca.crt -o yaml", |out| out.contains("BEGIN CERTIFICATE")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_from_apply_to_delete() {
    if no_kubectl() {
        return;
    }
    let cluster = Cluster::start().await;
    cluster.admin().post("/api/v1/nodes", &node("n1")).await;
    assert_eq!(cluster.apply(DEPLOYMENT).await.ok().trim(), "deployment.apps/web created");
    assert_eq!(cluster.apply(DEPLOYMENT).await.ok().trim(), "deployment.apps/web unchanged");
    cluster.until("get pods -o jsonpath={.items[*].spec.nodeName}", |out| out == "n1 n1").await;
    let table = squeezed(&cluster.kubectl("get deploy,rs,pods -o wide").await.ok());
    assert!(table.contains("READY UP-TO-DATE AVAILABLE AGE CONTAINERS IMAGES SELECTOR"), "{table}");
    assert!(table.contains("0/2 2 0"), "{table}");
    assert!(table.contains("0/1 Pending 0"), "{table}");

    let described = cluster.kubectl("describe deploy web").await.ok();
    assert!(described.contains("Scaled up replica set web-"), "{described}");
    assert!(described.contains("MinimumReplicasUnavailable"), "{described}");

    cluster.kubectl("scale deploy/web --replicas=30").await.ok();
    let bound = |out: &str| out.split_whitespace().count() == 30;
    cluster.until("get pods -o jsonpath={.items[*].spec.nodeName}", bound).await;
    cluster.until("get events -o jsonpath={.items[*].reason}", |out| out.matches("Scheduled").count() >= 30).await;
    cluster.kubectl("scale deploy/web --replicas=1").await.ok();
    let left = |out: &str| out.split_whitespace().count() == 1;
    cluster.until("get rs -o jsonpath={.items[*].status.replicas}", left).await;

    cluster.kubectl("set image deploy/web web=web:2").await.ok();
    cluster.until("get rs -o name", |out| out.lines().count() == 2).await;
    cluster.kubectl("rollout restart deploy/web").await.ok();
    cluster.until("rollout history deploy/web", |out| out.contains("\n3 ")).await;
    cluster.kubectl("rollout undo deploy/web --to-revision=1").await.ok();
    let first = "get deploy web -o jsonpath={.spec.template.spec.containers[0].image}";
    cluster.until(first, |out| out == "web:1").await;

    cluster.kubectl("expose deploy web --port=80").await.ok();
    assert!(cluster.kubectl("get svc web").await.ok().contains("80/TCP"));
    cluster.kubectl("delete deploy web --timeout=20s").await.ok();
    cluster.until("get rs -o name", str::is_empty).await;
    cluster.kubectl("delete pod --all --force --grace-period=0").await.ok();
    cluster.until("get pods -o name", str::is_empty).await;
}

/// Says what a kubelet would say of a pod that runs.
async fn play_ready(cluster: &Cluster) {
    let admin = cluster.admin();
    let (_, pods) = admin.get("/api/v1/namespaces/default/pods").await;
    for pod in pods["items"].as_array().unwrap() {
        let path = format!("/api/v1/namespaces/default/pods/{}/status", pod["metadata"]["name"].as_str().unwrap());
        let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True",
            "lastTransitionTime": "2020-01-01T00:00:00Z"}], "containerStatuses": [{"name": "web", "ready": true,
            "image": "web", "imageID": "x", "restartCount": 0, "state": {"running": {}}}]}});
        admin.patch("strategic-merge-patch+json", &path, &status).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_ends_when_its_pods_are_ready_and_replaces_the_old_ones() {
    if no_kubectl() {
        return;
    }
    let cluster = Cluster::start().await;
    cluster.admin().post("/api/v1/nodes", &node("n1")).await;
    cluster.apply(DEPLOYMENT).await.ok();
    cluster.until("get pods -o name", |out| out.lines().count() == 2).await;
    play_ready(&cluster).await;
    let status = cluster.kubectl("rollout status deploy/web --timeout=20s").await.ok();
    assert!(status.contains("successfully rolled out"), "{status}");
    let table = squeezed(&cluster.kubectl("get deploy web --no-headers").await.ok());
    assert!(table.contains("2/2 2 2"), "{table}");
    cluster.kubectl("wait --for=condition=Available deploy/web --timeout=10s").await.ok();

    cluster.kubectl("set image deploy/web web=web:2").await.ok();
    // Each step of the rollout waits for the pods of the last to be ready.
    for _ in 0..200 {
        play_ready(&cluster).await;
        let status = cluster
            .kubectl(
                "get deploy web -o jsonpath={.status.updatedReplicas}/{.status.replicas}/{.status.availableReplicas}",
            )
            .await
            .ok();
        if status == "2/2/2" {
            break;
        }
    }
    let status = cluster.kubectl("rollout status deploy/web --timeout=20s").await.ok();
    assert!(status.contains("successfully rolled out"), "{status}");
    let sets = cluster.kubectl("get rs -o jsonpath={.items[*].spec.replicas}").await.ok();
    let mut sizes: Vec<&str> = sets.split_whitespace().collect();
    sizes.sort_unstable();
    assert_eq!(sizes, ["0", "2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_are_labelled_annotated_patched_and_replaced() {
    if no_kubectl() {
        return;
    }
    let cluster = Cluster::start().await;
    cluster.kubectl("create ns foo").await.ok();
    cluster.kubectl("create configmap c --from-literal=a=1 -n foo").await.ok();
    cluster.kubectl("create secret generic s --from-literal=a=1 -n foo").await.ok();
    cluster.kubectl("run p --image=web:1 -n foo").await.ok();
    assert!(cluster.kubectl("label pod p x=y -n foo").await.ok().contains("labeled"));
    assert!(cluster.kubectl("annotate cm c note=1 -n foo").await.ok().contains("annotated"));
    assert_eq!(cluster.kubectl("get pods -l x=y -n foo -o name").await.ok().trim(), "pod/p");
    assert!(
        cluster
            .kubectl("patch cm c -n foo --type=json -p [{\"op\":\"replace\",\"path\":\"/data/a\",\"value\":\"2\"}]")
            .await
            .ok()
            .contains("patched")
    );
    assert!(
        cluster.kubectl("patch cm c -n foo --type=merge -p {\"data\":{\"b\":\"3\"}}").await.ok().contains("patched")
    );
    assert!(cluster.kubectl("patch cm c -n foo -p {\"data\":{\"b\":\"3\"}}").await.ok().contains("no change"));
    let data = cluster.kubectl("get cm c -n foo -o jsonpath={.data}").await.ok();
    assert_eq!(serde_json::from_str::<Value>(&data).unwrap(), json!({"a": "2", "b": "3"}));
    let secret = squeezed(&cluster.kubectl("get secret s -n foo").await.ok());
    assert!(secret.contains("Opaque 1"), "{secret}");
    let dry = cluster.kubectl("create configmap d --from-literal=a=1 -n foo --dry-run=server").await.ok();
    assert!(dry.contains("server dry run"), "{dry}");
    assert!(cluster.kubectl("get cm d -n foo").await.failed().contains("configmaps \"d\" not found"));
    assert!(cluster.kubectl("delete ns foo --timeout=20s").await.ok().contains("deleted"));
    assert_eq!(cluster.kubectl("get all,cm,secrets -n foo -o name").await.ok(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_manifest_is_refused_with_its_faults_and_stores_nothing() {
    if no_kubectl() {
        return;
    }
    let cluster = Cluster::start().await;
    let unknown =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec: {containers: [{name: c, image: x, imagee: y}]}";
    let error = cluster.apply(unknown).await.failed();
    assert!(error.contains("strict decoding error: unknown field \"spec.containers[0].imagee\""), "{error}");
    let invalid = "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec: {containers: [{name: c}]}";
    let error = cluster.apply(invalid).await.failed();
    assert!(error.contains("The Pod \"bad\" is invalid: spec.containers[0].image: Required value"), "{error}");
    let error = cluster.kubectl("get pod bad").await.failed();
    assert_eq!(error.trim(), "Error from server (NotFound): pods \"bad\" not found");
    let error = cluster.kubectl("run p --image=x -n nowhere").await.failed();
    assert!(error.contains("namespaces \"nowhere\" not found"), "{error}");
    let error = cluster.kubectl_with(&["apply", "--server-side", "-f", "-"], DEPLOYMENT).await.failed();
    assert!(error.contains("server-side apply is not implemented"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_scheduled_says_why_until_there_is_room() {
    if no_kubectl() {
        return;
    }
    let cluster = Cluster::start().await;
    cluster.kubectl("run p --image=web:1").await.ok();
    let described = cluster.until("describe pod p", |out| out.contains("FailedScheduling")).await;
    assert!(described.contains("no nodes available to schedule pods"), "{described}");
    cluster.admin().post("/api/v1/nodes", &node("n1")).await;
    cluster.until("get pod p -o jsonpath={.spec.nodeName}", |out| out == "n1").await;
    let described = cluster.until("describe pod p", |out| out.contains("Successfully assigned")).await;
    assert!(described.contains("Successfully assigned default/p to n1"), "{described}");
    cluster.kubectl("cordon n1").await.ok();
    assert!(cluster.kubectl("get nodes").await.ok().contains("Ready,SchedulingDisabled"));
    cluster.kubectl("run q --image=web:1").await.ok();
    cluster.until("describe pod q", |out| out.contains("0/1 nodes are available: 1 node(s) were unschedulable.")).await;
    cluster.kubectl("uncordon n1").await.ok();
    cluster.until("get pod q -o jsonpath={.spec.nodeName}", |out| out == "n1").await;
}
