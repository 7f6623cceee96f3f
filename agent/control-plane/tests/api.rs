//! The API itself, over plain HTTPS: watches, conflicts, authentication, durability.

mod common;

use common::{Cluster, node, pod};
use http::StatusCode;
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": value}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_served_unknown_but_health_and_version() {
    let cluster = Cluster::start().await;
    let stranger = cluster.stranger(None);
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(stranger.get(path).await.0, StatusCode::OK, "{path}");
    }
    for path in ["/", "/api", "/apis", "/openapi/v3", "/api/v1/namespaces", PODS, "/metrics", "/api/v1/nodes/x/proxy"] {
        let (code, status) = stranger.get(path).await;
        assert_eq!((code, &status["reason"]), (StatusCode::UNAUTHORIZED, &json!("Unauthorized")), "{path}");
    }
    assert_eq!(cluster.stranger(Some("not.a.token")).get(PODS).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_account_may_ask_about_itself_only() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut accounts = admin.watch("/api/v1/namespaces/default/serviceaccounts?watch=1").await;
    accounts.next().await;
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let (code, request) = admin.post(path, &json!({"spec": {"expirationSeconds": 600}})).await;
    assert_eq!(code, StatusCode::CREATED);
    let token = request["status"]["token"].as_str().unwrap();
    let account = cluster.stranger(Some(token));
    assert_eq!(account.get("/apis").await.0, StatusCode::OK);
    let (code, status) = account.get(PODS).await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    let text = "pods is forbidden: User \"system:serviceaccount:default:default\" cannot list resource \"pods\" in API \
                group \"\" in the namespace \"default\"";
    assert_eq!(status["message"], text);
    let (_, review) = account.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &json!({})).await;
    assert_eq!(review["status"]["userInfo"]["username"], "system:serviceaccount:default:default");
    let (_, review) =
        admin.post("/apis/authentication.k8s.io/v1/tokenreviews", &json!({"spec": {"token": token}})).await;
    assert_eq!(review["status"]["authenticated"], true);
    let (code, _) = admin.post(path, &json!({"spec": {"expirationSeconds": 1}})).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_reaches_what_is_its_own() {
    let cluster = Cluster::start().await;
    let (admin, n1, n2) = (cluster.admin(), cluster.node("n1"), cluster.node("n2"));
    assert_eq!(n1.post("/api/v1/nodes", &node("n1")).await.0, StatusCode::CREATED);
    assert_eq!(n1.post("/api/v1/nodes", &node("n3")).await.0, StatusCode::FORBIDDEN);
    for (name, secret) in [("mine", "a"), ("other", "b")] {
        let body = json!({"metadata": {"name": secret}, "stringData": {"k": "v"}});
        assert_eq!(admin.post("/api/v1/namespaces/default/secrets", &body).await.0, StatusCode::CREATED);
        let mut pod = pod(name);
        pod["spec"]["nodeName"] = json!(if name == "mine" { "n1" } else { "n2" });
        pod["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": secret}}]);
        assert_eq!(admin.post(PODS, &pod).await.0, StatusCode::CREATED);
    }
    let secrets = "/api/v1/namespaces/default/secrets";
    assert_eq!(n1.get(&format!("{secrets}/a")).await.0, StatusCode::OK);
    assert_eq!(n1.get(&format!("{secrets}/b")).await.0, StatusCode::FORBIDDEN);
    assert_eq!(n1.get(secrets).await.0, StatusCode::FORBIDDEN);
    assert_eq!(n1.get(&format!("{secrets}?fieldSelector=metadata.name%3Da")).await.0, StatusCode::OK);
    let (code, list) = n1.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await;
    assert_eq!((code, list["items"].as_array().unwrap().len()), (StatusCode::OK, 1));
    assert_eq!(n1.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn2").await.0, StatusCode::FORBIDDEN);
    assert_eq!(n1.get("/api/v1/pods").await.0, StatusCode::FORBIDDEN);
    let running = json!({"status": {"phase": "Running"}});
    let patch = "strategic-merge-patch+json";
    assert_eq!(n1.patch(patch, &format!("{PODS}/mine/status"), &running).await.0, StatusCode::OK);
    assert_eq!(n1.patch(patch, &format!("{PODS}/other/status"), &running).await.0, StatusCode::FORBIDDEN);
    assert_eq!(n1.post(PODS, &pod("plain")).await.0, StatusCode::FORBIDDEN);
    let lease = |name: &str| json!({"metadata": {"name": name}, "spec": {"holderIdentity": name}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    assert_eq!(n1.post(leases, &lease("n1")).await.0, StatusCode::CREATED);
    assert_eq!(n1.post(leases, &lease("n2")).await.0, StatusCode::FORBIDDEN);
    let token = json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "mine"}}});
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    assert_eq!(n1.post(path, &token).await.0, StatusCode::CREATED);
    assert_eq!(n1.post(path, &json!({"spec": {}})).await.0, StatusCode::FORBIDDEN);
    assert_eq!(n2.post(path, &token).await.0, StatusCode::FORBIDDEN);
    let taint = json!({"spec": {"taints": []}});
    assert_eq!(
        n1.patch("merge-patch+json", "/api/v1/nodes/n1", &json!({"metadata": {"labels": {"x": "y"}}})).await.0,
        StatusCode::OK
    );
    assert_eq!(n2.patch("merge-patch+json", "/api/v1/nodes/n1", &taint).await.0, StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_with_an_old_version_is_a_conflict_and_no_change_is_no_version() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let (code, first) = admin.post(MAPS, &map("c", "1")).await;
    assert_eq!(code, StatusCode::CREATED);
    let (code, status) = admin.post(MAPS, &map("c", "1")).await;
    assert_eq!((code, &status["message"]), (StatusCode::CONFLICT, &json!("configmaps \"c\" already exists")));
    let path = format!("{MAPS}/c");
    let mut changed = first.clone();
    changed["data"]["k"] = json!("2");
    let (code, second) = admin.put(&path, &changed).await;
    assert_eq!(code, StatusCode::OK);
    assert_ne!(first["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);
    changed["data"]["k"] = json!("3");
    let (code, status) = admin.put(&path, &changed).await;
    let text = "Operation cannot be fulfilled on configmaps \"c\": the object has been modified; please apply your \
                changes to the latest version and try again";
    assert_eq!((code, &status["message"]), (StatusCode::CONFLICT, &json!(text)));
    let (code, same) = admin.put(&path, &second).await;
    assert_eq!((code, &same), (StatusCode::OK, &second));
    let stale = json!({"preconditions": {"uid": "another"}});
    assert_eq!(admin.delete(&path, &stale).await.0, StatusCode::CONFLICT);
    assert_eq!(admin.delete(&path, &json!({})).await.0, StatusCode::OK);
    assert_eq!(admin.get(&path).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_tells_every_change_and_what_enters_and_leaves_a_selection() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let (_, list) = admin.get(&format!("{MAPS}?labelSelector=on")).await;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut all =
        admin.watch(&format!("{MAPS}?watch=1&resourceVersion={version}&fieldSelector=metadata.name%3Dc")).await;
    let mut selected = admin.watch(&format!("{MAPS}?watch=1&resourceVersion={version}&labelSelector=on")).await;
    admin.post(MAPS, &map("c", "1")).await;
    let path = format!("{MAPS}/c");
    for labels in [json!({"on": "1"}), json!({"on": null})] {
        admin.patch("merge-patch+json", &path, &json!({"metadata": {"labels": labels}})).await;
    }
    admin.delete(&path, &json!({})).await;
    let mut versions = Vec::new();
    for expected in ["ADDED", "MODIFIED", "MODIFIED", "DELETED"] {
        let (kind, object) = all.next().await;
        assert_eq!(kind, expected);
        versions.push(object["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap());
    }
    assert!(versions.is_sorted());
    for expected in ["ADDED", "DELETED"] {
        assert_eq!(selected.next().await.0, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_list_ends_its_beginning_with_a_bookmark() {
    // After a restart the changes before it are no longer known.
    let cluster = Cluster::start().await.restart().await;
    let admin = cluster.admin();
    admin.post(MAPS, &map("c", "1")).await;
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = admin.watch(&format!("{MAPS}?{query}&fieldSelector=metadata.name%3Dc")).await;
    assert_eq!(watch.next().await.0, "ADDED");
    let (kind, object) = watch.next().await;
    assert_eq!(kind, "BOOKMARK");
    assert_eq!(object["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    for query in [
        "sendInitialEvents=true",
        "sendInitialEvents=true&allowWatchBookmarks=true",
        "resourceVersionMatch=NotOlderThan",
    ] {
        let (code, _) = admin.get(&format!("{MAPS}?watch=1&{query}")).await;
        assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY, "{query}");
    }
    let (code, status) = admin.get(&format!("{MAPS}?watch=1&resourceVersion=1")).await;
    assert_eq!((code, &status["reason"]), (StatusCode::GONE, &json!("Expired")));
    let (code, _) = admin.get(&format!("{MAPS}?watch=1&resourceVersion=99999999999")).await;
    assert_eq!(code, StatusCode::GATEWAY_TIMEOUT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_come_in_chunks_of_one_moment() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for name in ["a", "b", "c", "d", "e"] {
        admin.post("/api/v1/namespaces/kube-public/configmaps", &map(name, "1")).await;
    }
    let path = "/api/v1/namespaces/kube-public/configmaps?labelSelector=!none&limit=2";
    let (_, first) = admin.get(path).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    admin.delete("/api/v1/namespaces/kube-public/configmaps/c", &json!({})).await;
    let (_, second) = admin.get(&format!("{path}&continue={token}")).await;
    let names: Vec<&str> = [&first, &second]
        .iter()
        .flat_map(|list| list["items"].as_array().unwrap())
        .map(|object| object["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["a", "b", "c", "d"], "c was there when the list began");
    assert_eq!(first["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let cluster = Cluster::start().await;
    let (_, made) = cluster.admin().post(MAPS, &map("c", "1")).await;
    let (_, pod_made) = cluster.admin().post(PODS, &pod("p")).await;
    let ca = cluster.control_plane.ca_pem().to_owned();
    let cluster = cluster.restart().await;
    assert_eq!(cluster.control_plane.ca_pem(), ca);
    let (_, found) = cluster.admin().get(&format!("{MAPS}/c")).await;
    assert_eq!(found, made);
    let (_, found) = cluster.admin().get(&format!("{PODS}/p")).await;
    assert_eq!(found["metadata"]["uid"], pod_made["metadata"]["uid"]);
    let (_, later) = cluster.admin().post(MAPS, &map("d", "1")).await;
    let version = |object: &Value| object["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(version(&later) > version(&found));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dependents_go_stay_or_hold_their_owner_as_asked() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for (policy, owner_name) in [("Background", "b"), ("Foreground", "f"), ("Orphan", "o")] {
        let (_, owner) = admin.post(MAPS, &map(owner_name, "1")).await;
        let mut dependent = map(&format!("{owner_name}-child"), "1");
        dependent["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": owner_name,
            "uid": owner["metadata"]["uid"], "blockOwnerDeletion": true}]);
        let (_, child) = admin.post(MAPS, &dependent).await;
        let version = child["metadata"]["resourceVersion"].as_str().unwrap();
        let field = format!("fieldSelector=metadata.name%3D{owner_name}-child");
        let mut watch = admin.watch(&format!("{MAPS}?watch=1&resourceVersion={version}&{field}")).await;
        let (code, _) = admin.delete(&format!("{MAPS}/{owner_name}"), &json!({"propagationPolicy": policy})).await;
        assert_eq!(code, StatusCode::OK);
        let (kind, last) = watch.next().await;
        if policy == "Orphan" {
            assert_eq!(kind, "MODIFIED");
            assert_eq!(last["metadata"]["ownerReferences"], json!([]));
        } else {
            assert_eq!(kind, "DELETED", "{policy}");
        }
        let mut watch = admin.watch(&format!("{MAPS}?watch=1&fieldSelector=metadata.name%3D{owner_name}")).await;
        // Either it is gone, or it goes now that nothing holds it.
        if admin.get(&format!("{MAPS}/{owner_name}")).await.0 == StatusCode::OK {
            while watch.next().await.0 != "DELETED" {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_takes_its_grace_and_goes_when_its_kubelet_says_so() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post("/api/v1/nodes", &node("n1")).await;
    let mut assigned = pod("p");
    assigned["spec"]["nodeName"] = json!("n1");
    admin.post(PODS, &assigned).await;
    let path = format!("{PODS}/p");
    let (_, pod) = admin.delete(&path, &json!({})).await;
    assert_eq!(pod["metadata"]["deletionGracePeriodSeconds"], 30);
    let (_, pod) = admin.delete(&path, &json!({"gracePeriodSeconds": 5})).await;
    assert_eq!(pod["metadata"]["deletionGracePeriodSeconds"], 5);
    let (_, pod) = admin.delete(&path, &json!({"gracePeriodSeconds": 60})).await;
    assert_eq!(pod["metadata"]["deletionGracePeriodSeconds"], 5, "it only gets shorter");
    let uid = pod["metadata"]["uid"].clone();
    let (code, _) =
        cluster.node("n1").delete(&path, &json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}})).await;
    assert_eq!(code, StatusCode::OK);
    assert_eq!(admin.get(&path).await.0, StatusCode::NOT_FOUND);
}
