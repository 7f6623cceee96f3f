//! What the API refuses, bounds and keeps, over plain HTTPS.

mod common;

use common::{Client, Cluster, node, pod};
use http::StatusCode;
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const MERGE: &str = "merge-patch+json";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
}

async fn make(client: &Client, path: &str, object: &Value) -> Value {
    let (code, made) = client.post(path, object).await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
    made
}

async fn make_assigned_pod(admin: &Client, mut pod: Value) -> Value {
    pod["spec"]["nodeName"] = json!("n1");
    make(admin, PODS, &pod).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_beyond_all_dates_and_parts_of_the_wrong_type_are_answered() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for (name, options) in [("spec", json!({})), ("options", json!({"gracePeriodSeconds": i64::MAX}))] {
        let mut long = pod(name);
        long["spec"]["terminationGracePeriodSeconds"] = json!(1_000_000_000_000_i64);
        make_assigned_pod(&admin, long).await;
        let (code, deleted) = admin.delete(&format!("{PODS}/{name}"), &options).await;
        assert_eq!(code, StatusCode::OK, "{deleted}");
        assert_eq!(deleted["metadata"]["deletionGracePeriodSeconds"], i32::MAX);
    }
    let mut watch = admin.watch(&format!("{PODS}?watch=1&timeoutSeconds={}", i64::MAX)).await;
    assert_eq!(watch.next().await.0, "ADDED");
    let reviews = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    assert_eq!(admin.post(reviews, &json!({"metadata": "x"})).await.0, StatusCode::BAD_REQUEST);
    make(&admin, "/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "x"}})).await;
    for body in [json!([]), json!({"spec": "x"})] {
        let (code, _) = admin.post("/api/v1/namespaces/default/serviceaccounts/x/token", &body).await;
        assert_eq!(code, StatusCode::BAD_REQUEST, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_pod_opens_nothing_to_its_node() {
    let cluster = Cluster::start().await;
    let n1 = cluster.node("n1");
    let mirror = |name: &str| {
        let mut pod = pod(name);
        pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        pod["spec"]["nodeName"] = json!("n1");
        pod
    };
    make(&n1, PODS, &mirror("plain")).await;
    let reference = json!({"secretKeyRef": {"name": "password", "key": "k"}});
    for (pointer, value) in [
        ("/spec/serviceAccountName", json!("admin")),
        ("/spec/serviceAccount", json!("admin")),
        ("/spec/imagePullSecrets", json!([{"name": "password"}])),
        ("/spec/containers/0/env", json!([{"name": "E", "valueFrom": reference}])),
        ("/spec/containers/0/envFrom", json!([{"secretRef": {"name": "password"}}])),
        ("/spec/volumes", json!([{"name": "v", "cephfs": {"monitors": ["m"], "secretRef": {"name": "password"}}}])),
        ("/spec/volumes", json!([{"name": "v", "secret": {"secretName": "password"}}])),
        ("/spec/resourceClaims", json!([{"name": "r", "resourceClaimName": "claim"}])),
    ] {
        let mut pod = mirror("greedy");
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        pod.pointer_mut(parent).unwrap()[field] = value;
        let (code, status) = n1.post(PODS, &pod).await;
        assert_eq!(code, StatusCode::FORBIDDEN, "{pointer}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_labels_neither_itself_nor_its_pods_as_it_likes() {
    let cluster = Cluster::start().await;
    let (admin, n1) = (cluster.admin(), cluster.node("n1"));
    for label in ["node-role.kubernetes.io/control-plane", "x.node-restriction.kubernetes.io/y"] {
        let mut object = node("n1");
        object["metadata"]["labels"][label] = json!("");
        let (code, status) = n1.post("/api/v1/nodes", &object).await;
        assert_eq!(code, StatusCode::FORBIDDEN, "{status}");
    }
    make(&n1, "/api/v1/nodes", &node("n1")).await;
    make_assigned_pod(&admin, pod("p")).await;
    let path = format!("{PODS}/p/status");
    let other = json!({"metadata": {"labels": {"app": "other"}}, "status": {"phase": "Running"}});
    assert_eq!(n1.patch(MERGE, &path, &other).await.0, StatusCode::FORBIDDEN);
    assert_eq!(n1.patch(MERGE, &path, &json!({"status": {"phase": "Running"}})).await.0, StatusCode::OK);
    let wrong = json!({"metadata": {"labels": {"-": "x"}}});
    assert_eq!(admin.patch(MERGE, &path, &wrong).await.0, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_eviction_that_is_only_tried_or_meant_for_another_pod_does_nothing() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let made = make_assigned_pod(&admin, pod("p")).await;
    let path = format!("{PODS}/p");
    let evict = |options: Value| json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}, "deleteOptions": options});
    let eviction = format!("{path}/eviction");
    assert_eq!(admin.post(&eviction, &evict(json!({"dryRun": ["All"]}))).await.0, StatusCode::CREATED);
    for precondition in [json!({"uid": "another"}), json!({"resourceVersion": "1"})] {
        let (code, _) = admin.post(&eviction, &evict(json!({"preconditions": precondition}))).await;
        assert_eq!(code, StatusCode::CONFLICT);
    }
    assert_eq!(admin.get(&path).await.1, made);
    let precise = json!({"resourceVersion": made["metadata"]["resourceVersion"], "uid": made["metadata"]["uid"]});
    assert_eq!(admin.post(&eviction, &evict(json!({"preconditions": precise}))).await.0, StatusCode::CREATED);
    let (_, evicted) = admin.get(&path).await;
    assert!(evicted["metadata"]["deletionTimestamp"].is_string());
    let conditions = evicted["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().any(|c| c["type"] == "DisruptionTarget"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_gets_and_keeps_what_its_type_needs() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    let first = make(&admin, SERVICES, &service).await;
    let path = format!("{SERVICES}/s");
    let kind = |kind: &str| json!({"spec": {"type": kind}});
    let (_, exposed) = admin.patch(MERGE, &path, &kind("NodePort")).await;
    let port = |service: &Value| service["spec"]["ports"][0]["nodePort"].as_i64();
    assert!(port(&exposed).is_some_and(|p| (30_000..=32_767).contains(&p)), "{exposed}");
    assert_eq!(exposed["spec"]["clusterIP"], first["spec"]["clusterIP"]);

    let mut replaced = service.clone();
    replaced["spec"]["type"] = json!("NodePort");
    assert_eq!(port(&admin.put(&path, &replaced).await.1), port(&exposed), "left open, so it stays");
    replaced["metadata"]["name"] = json!("t");
    let second = make(&admin, SERVICES, &replaced).await;
    assert_ne!(port(&second), port(&exposed));
    for number in [80, port(&second).unwrap()] {
        let ports = json!({"spec": {"ports": [{"port": 80, "nodePort": number}]}});
        let (code, status) = admin.patch(MERGE, &path, &ports).await;
        assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY, "{status}");
    }
    let (_, hidden) = admin.patch(MERGE, &path, &kind("ClusterIP")).await;
    assert_eq!(port(&hidden), None);
    let explicit = json!({"spec": {"ports": [{"port": 80, "nodePort": 30_001}]}});
    assert_eq!(admin.patch(MERGE, &path, &explicit).await.0, StatusCode::UNPROCESSABLE_ENTITY);

    let external = json!({"spec": {"type": "ExternalName", "externalName": "example.com"}});
    let (_, external) = admin.patch(MERGE, &path, &external).await;
    assert!(external["spec"]["clusterIP"].is_null(), "{external}");
    let (_, internal) = admin.patch(MERGE, &path, &kind("ClusterIP")).await;
    assert!(internal["spec"]["clusterIP"].as_str().is_some_and(|ip| ip.starts_with("10.96.")), "{internal}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scale_is_what_it_says_it_is() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"replicas": 3, "selector": {"matchLabels": {"a": "b"}}, "template": template});
    make(&admin, deployments, &json!({"metadata": {"name": "d"}, "spec": spec})).await;
    let path = format!("{deployments}/d/scale");
    let text = json!({"spec": {"replicas": "5"}});
    assert_eq!(admin.patch(MERGE, &path, &text).await.0, StatusCode::BAD_REQUEST);
    for body in [
        json!({"kind": "Pod", "metadata": {"name": "d"}}),
        json!({"replicas": 5}),
        json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {"name": "e"}, "spec": {"replicas": 1}}),
        json!({"kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": "5"}}),
    ] {
        assert_eq!(admin.put(&path, &body).await.0, StatusCode::BAD_REQUEST, "{body}");
    }
    assert_eq!(admin.get(&path).await.1["spec"]["replicas"], 3);
    let none = json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {"name": "d"}, "spec": {}});
    assert_eq!(admin.put(&path, &none).await.1["spec"]["replicas"], 0, "typed clients leave zero out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_by_path_is_of_one_object() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for name in ["a", "b", "c"] {
        make(&admin, MAPS, &map(name)).await;
    }
    let mut watch = admin.watch(&format!("{MAPS}/b?watch=1")).await;
    assert_eq!(watch.next().await.1["metadata"]["name"], "b");
    for name in ["c", "b"] {
        admin.delete(&format!("{MAPS}/{name}"), &json!({})).await;
    }
    let (kind, object) = watch.next().await;
    assert_eq!((kind.as_str(), &object["metadata"]["name"]), ("DELETED", &json!("b")));
}

fn owned(name: &str, owners: &[&Value]) -> Value {
    let reference = |owner: &&Value| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"], "blockOwnerDeletion": true})
    };
    let mut object = map(name);
    object["metadata"]["ownerReferences"] = owners.iter().map(reference).collect();
    object
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_without_a_namespace_is_not_collected_for_an_owner_in_one() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let owner = make(&admin, MAPS, &map("owner")).await;
    let mut namespace = owned("kept", &[&owner]);
    namespace["kind"] = json!("Namespace");
    make(&admin, "/api/v1/namespaces", &namespace).await;
    let mut events = admin.watch("/api/v1/namespaces/default/events?watch=1").await;
    while events.next().await.1["reason"] != "OwnerRefInvalidNamespace" {}
    let (_, kept) = admin.get("/api/v1/namespaces/kept").await;
    assert_eq!(kept["status"]["phase"], "Active");
}

/// Waits until an object is gone.
async fn gone(admin: &Client, name: &str) {
    let mut watch = admin.watch(&format!("{MAPS}/{name}?watch=1")).await;
    if admin.get(&format!("{MAPS}/{name}")).await.0 == StatusCode::OK {
        while watch.next().await.0 != "DELETED" {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_in_the_foreground_does_not_wait_for_what_another_keeps() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let (a, b) = (make(&admin, MAPS, &map("a")).await, make(&admin, MAPS, &map("b")).await);
    make(&admin, MAPS, &owned("child", &[&a, &b])).await;
    let foreground = json!({"propagationPolicy": "Foreground"});
    admin.delete(&format!("{MAPS}/a"), &foreground).await;
    gone(&admin, "a").await;
    let (_, child) = admin.get(&format!("{MAPS}/child")).await;
    assert_eq!(child["metadata"]["ownerReferences"].as_array().unwrap().len(), 1, "{child}");
    admin.delete(&format!("{MAPS}/b"), &foreground).await;
    gone(&admin, "b").await;
    assert_eq!(admin.get(&format!("{MAPS}/child")).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_owners_in_the_foreground_take_what_they_share_along() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut owners = Vec::new();
    for name in ["a", "b"] {
        let owner = make(&admin, MAPS, &map(name)).await;
        let mut held = owned(&format!("of-{name}"), &[&owner]);
        held["metadata"]["finalizers"] = json!(["example.com/hold"]);
        make(&admin, MAPS, &held).await;
        admin.delete(&format!("{MAPS}/{name}"), &json!({"propagationPolicy": "Foreground"})).await;
        owners.push(owner);
    }
    make(&admin, MAPS, &owned("child", &[&owners[0], &owners[1]])).await;
    gone(&admin, "child").await;
    for name in ["a", "b"] {
        let release = json!({"metadata": {"finalizers": []}});
        assert_eq!(admin.patch(MERGE, &format!("{MAPS}/of-{name}"), &release).await.0, StatusCode::OK);
        gone(&admin, name).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_without_a_wish_does_not_overrule_the_one_before() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut owner = map("owner");
    owner["metadata"]["finalizers"] = json!(["example.com/hold"]);
    let owner = make(&admin, MAPS, &owner).await;
    let mut child = owned("child", &[&owner]);
    child["metadata"]["finalizers"] = json!(["example.com/hold"]);
    make(&admin, MAPS, &child).await;
    let path = format!("{MAPS}/owner");
    admin.delete(&path, &json!({"propagationPolicy": "Foreground"})).await;
    let (_, again) = admin.delete(&path, &json!({})).await;
    assert!(again["metadata"]["finalizers"].as_array().unwrap().contains(&json!("foregroundDeletion")), "{again}");
    let (_, again) = admin.delete(&path, &json!({"propagationPolicy": "Background"})).await;
    assert_eq!(again["metadata"]["finalizers"], json!(["example.com/hold"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_of_a_namespace_that_is_gone_goes() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    make(&admin, "/api/v1/namespaces", &json!({"metadata": {"name": "x"}})).await;
    let maps = "/api/v1/namespaces/x/configmaps";
    make(&admin, maps, &map("left")).await;
    let mut watch = admin.watch(&format!("{maps}/left?watch=1")).await;
    assert_eq!(watch.next().await.0, "ADDED");
    // Without finalizers, a namespace goes at once.
    let bare = json!({"metadata": {"name": "x"}, "spec": {"finalizers": []}});
    assert_eq!(admin.put("/api/v1/namespaces/x/finalize", &bare).await.0, StatusCode::OK);
    assert_eq!(admin.delete("/api/v1/namespaces/x", &json!({})).await.0, StatusCode::OK);
    assert_eq!(watch.next().await.0, "DELETED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn config_maps_and_secrets_carry_a_mebibyte() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let text = |size: usize| "x".repeat(size);
    for (path, field) in [(MAPS, "data"), ("/api/v1/namespaces/default/secrets", "stringData")] {
        for (size, expected) in [(1 << 20, StatusCode::CREATED), ((1 << 20) + 1, StatusCode::UNPROCESSABLE_ENTITY)] {
            let object = json!({"metadata": {"name": format!("s{size}")}, field: {"k": text(size)}});
            assert_eq!(admin.post(path, &object).await.0, expected, "{path} {size}");
        }
    }
}
