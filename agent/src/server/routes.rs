//! From a path to an answer.

use std::net::SocketAddr;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use orlop_proto::v1;
use serde_json::json;

use super::auth::{self, Identity};
use super::{Body, State, json, logs, metrics, text, tunnel};
use crate::container::keys;
use crate::cri::CriError;
use crate::pods::registry::Entry;

/// The query, decoded.
pub(super) fn query(request: &Request<Incoming>) -> Vec<(String, String)> {
    let pairs = request.uri().query().unwrap_or_default().split('&').filter(|p| !p.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        })
        .collect()
}

fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|h| std::str::from_utf8(h).ok());
        match (bytes[at], hex.and_then(|h| u8::from_str_radix(h, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
                continue;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Authenticates, authorises, answers.
pub(super) async fn handle(
    state: &State,
    certificate: Option<Identity>,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let open = path == "/healthz" && peer.ip().to_canonical().is_loopback();
    if !open {
        let identity = match certificate {
            Some(identity) => Some(identity),
            None => auth::by_token(&state.ctx, &state.auth, request.headers()).await,
        };
        let Some(who) = identity else {
            return text(StatusCode::UNAUTHORIZED, "Unauthorized");
        };
        let (verb, resources) = (auth::verb(request.method()), auth::subresources(&path));
        if !auth::allowed(&state.ctx, &state.auth, &who, verb, resources).await {
            let message = format!(
                "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])",
                who.user,
                resources.join(" ")
            );
            return text(StatusCode::FORBIDDEN, message);
        }
    }
    let parts: Vec<String> = path.split('/').filter(|p| !p.is_empty()).map(decode).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    route(state, &parts, request).await
}

async fn route(state: &State, parts: &[&str], request: Request<Incoming>) -> Response<Body> {
    let get = *request.method() == Method::GET;
    match parts {
        ["healthz"] if get => text(StatusCode::OK, "ok"),
        ["pods"] if get => pods(state),
        ["runningpods"] if get => running_pods(state).await,
        ["configz"] if get => configz(state),
        ["stats", "summary"] if get => metrics::summary(state).await,
        ["metrics", "resource"] if get => metrics::resource(state).await,
        ["containerLogs", namespace, pod, container] if get => {
            with_pod(state, namespace, pod, None, async |entry| logs::answer(state, &entry, container, &request).await)
                .await
        }
        ["run", namespace, pod, container] => run(state, (namespace, pod, None), container, &request).await,
        ["run", namespace, pod, uid, container] => run(state, (namespace, pod, Some(uid)), container, &request).await,
        ["exec" | "attach", namespace, pod, container] => {
            stream(state, parts[0], (namespace, pod, None), container, request).await
        }
        ["exec" | "attach", namespace, pod, uid, container] => {
            stream(state, parts[0], (namespace, pod, Some(uid)), container, request).await
        }
        ["portForward", namespace, pod] => forward(state, (namespace, pod, None), request).await,
        ["portForward", namespace, pod, uid] => forward(state, (namespace, pod, Some(uid)), request).await,
        _ => text(StatusCode::NOT_FOUND, "404 page not found"),
    }
}

/// Namespace, name, perhaps the uid.
type PodName<'a> = (&'a str, &'a str, Option<&'a str>);

async fn with_pod(
    state: &State,
    namespace: &str,
    name: &str,
    uid: Option<&str>,
    answer: impl AsyncFnOnce(Entry) -> Response<Body>,
) -> Response<Body> {
    match state.registry.find(namespace, name, uid) {
        Some(entry) => answer(entry).await,
        None => text(StatusCode::NOT_FOUND, "pod does not exist"),
    }
}

fn failed(error: &CriError) -> Response<Body> {
    text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

/// The containers of a name in a pod, newest first.
pub(super) async fn containers(state: &State, pod: &Pod, name: &str) -> Result<Vec<v1::Container>, CriError> {
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let labels = [(keys::POD_UID, uid), (keys::CONTAINER_NAME, name.to_owned())];
    let request = v1::ListContainersRequest {
        filter: Some(v1::ContainerFilter {
            label_selector: labels.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
            ..v1::ContainerFilter::default()
        }),
    };
    let mut found = state.ctx.cri.list_containers(request).await?.containers;
    found.sort_by_key(|c| std::cmp::Reverse(c.created_at));
    Ok(found)
}

async fn running(state: &State, pod: &Pod, name: &str) -> Result<String, Response<Body>> {
    let found = containers(state, pod, name).await.map_err(|e| failed(&e))?;
    let running = found.into_iter().find(|c| c.state() == v1::ContainerState::ContainerRunning);
    running.map(|c| c.id).ok_or_else(|| text(StatusCode::NOT_FOUND, format!("container not found (\"{name}\")")))
}

async fn run(
    state: &State,
    (namespace, pod, uid): PodName<'_>,
    container: &str,
    request: &Request<Incoming>,
) -> Response<Body> {
    if *request.method() != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    }
    with_pod(state, namespace, pod, uid, async |entry| {
        let id = match running(state, &entry.pod, container).await {
            Ok(id) => id,
            Err(answer) => return answer,
        };
        let query = query(request);
        let command = query.iter().find(|(k, _)| k == "cmd").map_or("", |(_, v)| v.as_str());
        let words: Vec<String> = command.split(' ').map(str::to_owned).collect();
        match state.ctx.cri.exec_sync(&id, &words, std::time::Duration::ZERO).await {
            Ok(answer) if answer.exit_code == 0 => {
                let output = [answer.stdout, answer.stderr].concat();
                text(StatusCode::OK, String::from_utf8_lossy(&output))
            }
            Ok(answer) => {
                let message = format!("command '{command}' exited with {}", answer.exit_code);
                text(StatusCode::INTERNAL_SERVER_ERROR, message)
            }
            Err(e) => failed(&e),
        }
    })
    .await
}

async fn stream(
    state: &State,
    kind: &str,
    (namespace, pod, uid): PodName<'_>,
    container: &str,
    request: Request<Incoming>,
) -> Response<Body> {
    with_pod(state, namespace, pod, uid, async |entry| {
        let id = match running(state, &entry.pod, container).await {
            Ok(id) => id,
            Err(answer) => return answer,
        };
        let query = query(&request);
        let on = |short: &str, long: &str| {
            query.iter().any(|(k, v)| (k == short || k == long) && matches!(v.as_str(), "1" | "true"))
        };
        let (stdin, stdout, tty) = (on("input", "stdin"), on("output", "stdout"), on("tty", "tty"));
        let stderr = on("error", "stderr") && !tty;
        let url = if kind == "exec" {
            let command = query.iter().filter(|(k, _)| k == "command").map(|(_, v)| v.clone());
            let request = v1::ExecRequest { container_id: id, cmd: command.collect(), tty, stdin, stdout, stderr };
            state.ctx.cri.exec(request).await.map(|a| a.url)
        } else {
            let request = v1::AttachRequest { container_id: id, stdin, tty, stdout, stderr };
            state.ctx.cri.attach(request).await.map(|a| a.url)
        };
        match url {
            Ok(url) => tunnel::to(&url, request).await,
            Err(e) => failed(&e),
        }
    })
    .await
}

async fn forward(state: &State, (namespace, pod, uid): PodName<'_>, request: Request<Incoming>) -> Response<Body> {
    with_pod(state, namespace, pod, uid, async |entry| {
        let uid = entry.pod.metadata.uid.clone().unwrap_or_default();
        let listed = state.ctx.cri.list_pod_sandbox(v1::ListPodSandboxRequest {
            filter: Some(v1::PodSandboxFilter {
                label_selector: [(keys::POD_UID.to_owned(), uid)].into_iter().collect(),
                ..v1::PodSandboxFilter::default()
            }),
        });
        let ready = match listed.await {
            Ok(list) => list.items.into_iter().find(|s| s.state() == v1::PodSandboxState::SandboxReady),
            Err(e) => return failed(&e),
        };
        let Some(sandbox) = ready else {
            return text(StatusCode::NOT_FOUND, "the pod has no running sandbox");
        };
        let ports = query(&request).into_iter().filter(|(k, _)| k == "port" || k == "ports");
        let ports = ports.filter_map(|(_, v)| v.parse().ok()).collect();
        let ask = v1::PortForwardRequest { pod_sandbox_id: sandbox.id, port: ports };
        match state.ctx.cri.port_forward(ask).await {
            Ok(answer) => tunnel::to(&answer.url, request).await,
            Err(e) => failed(&e),
        }
    })
    .await
}

fn pods(state: &State) -> Response<Body> {
    let pods: Vec<Pod> = state.registry.all().iter().map(Entry::current).collect();
    json(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods}))
}

async fn running_pods(state: &State) -> Response<Body> {
    let listed = state.ctx.cri.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await;
    let sandboxes = match listed {
        Ok(list) => list.items,
        Err(e) => return failed(&e),
    };
    let ready = sandboxes.into_iter().filter(|s| s.state() == v1::PodSandboxState::SandboxReady);
    let pods: Vec<Pod> = ready
        .map(|sandbox| {
            let label = |key: &str| sandbox.labels.get(key).cloned();
            let mut pod = Pod::default();
            pod.metadata.name = label(keys::POD_NAME);
            pod.metadata.namespace = label(keys::POD_NAMESPACE);
            pod.metadata.uid = label(keys::POD_UID);
            pod.spec = Some(PodSpec::default());
            pod
        })
        .collect();
    json(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods}))
}

fn configz(state: &State) -> Response<Body> {
    let config = &state.ctx.config;
    json(&json!({"kubeletconfig": {
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "address": config.listen.ip(),
        "port": config.listen.port(),
        "staticPodPath": config.static_pod_dir,
        "clusterDNS": config.cluster_dns,
        "clusterDomain": config.cluster_domain,
        "maxPods": config.max_pods,
        "cgroupRoot": config.cgroup_root,
        "podLogsDir": config.pod_logs_dir,
        "containerLogMaxSize": config.log_rotation.max_size.to_string(),
        "containerLogMaxFiles": config.log_rotation.max_files,
        "resolvConf": config.resolv_conf,
        "containerRuntimeEndpoint": format!("unix://{}", config.cri_socket.display()),
    }}))
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn percent_and_plus() {
        assert_eq!(decode("a%20b+c%2F%zz%"), "a b c/%zz%");
    }
}
