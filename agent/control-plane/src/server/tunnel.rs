//! log, exec, attach and port-forward: passed on to the API of the pod's kubelet, bytes untouched.
//!
//! The client's upgrade (WebSocket or SPDY) is negotiated with the kubelet itself: the request goes on with its
//! headers, and once the kubelet has answered 101 the two connections are joined.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderMap, HeaderName, UPGRADE};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::reply::{Body, Reply};
use super::request::{ResourceRequest, encode};
use super::{Api, connections};
use crate::registry::name_of;
use crate::registry::resource::{NODES, PODS};
use crate::status::Status;

/// A kubelet must take a connection within this time.
const CONNECT: std::time::Duration = std::time::Duration::from_secs(10);
const KUBELET_PORT: i64 = 10_250;

/// Headers of the handshake that the kubelet must see, and its answer's that the client must.
fn passes(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(name, "upgrade" | "connection" | "x-stream-protocol-version" | "content-type" | "user-agent")
        || name.starts_with("sec-websocket-")
}

/// Serves one of the pod's streaming sub-resources.
pub(super) async fn serve(
    api: &Arc<Api>,
    request: &ResourceRequest,
    mut incoming: Request<Incoming>,
) -> Result<Reply, Status> {
    let pod = api.registry.get(&PODS, &request.namespace, &request.name)?;
    let path = kubelet_path(request, &pod)?;
    let streaming = request.subresource != "log";
    if streaming && !incoming.headers().contains_key(UPGRADE) {
        return Err(Status::bad_request("Upgrade request required"));
    }
    let mut sender = connect(api, &pod).await?;
    let outgoing = outgoing(incoming.method(), &path, incoming.headers(), &sender.host)?;
    let mut response = sender
        .requests
        .send_request(outgoing)
        .await
        .map_err(|e| Status::internal(format!("error dialing backend: {e}")))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let mut answer = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        copy_headers(response.headers(), answer.headers_mut());
        let client = hyper::upgrade::on(&mut incoming);
        let kubelet = hyper::upgrade::on(&mut response);
        let stop = api.stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = join(client, kubelet) => {}
                () = stop.cancelled() => {}
            }
        });
        return Ok(Reply::relayed(answer));
    }
    if !response.status().is_success() {
        return Err(kubelet_failure(response, &pod).await);
    }
    let mut answer: Response<Body> = response.map(|body| body.map_err(std::io::Error::other).boxed_unsync());
    let wanted: Vec<_> = answer.headers().keys().filter(|name| name.as_str() != "content-type").cloned().collect();
    for name in wanted {
        answer.headers_mut().remove(name);
    }
    Ok(Reply::relayed(answer))
}

/// Copies bytes both ways until both sides have ended.
async fn join(client: hyper::upgrade::OnUpgrade, kubelet: hyper::upgrade::OnUpgrade) {
    let (client, kubelet) = match futures::try_join!(client, kubelet) {
        Ok(pair) => pair,
        Err(error) => return tracing::debug!(%error, "upgrading a stream"),
    };
    let (mut client, mut kubelet) = (TokioIo::new(client), TokioIo::new(kubelet));
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut kubelet).await {
        tracing::debug!(%error, "a stream ended");
    }
}

struct Kubelet {
    requests: hyper::client::conn::http1::SendRequest<Empty<Bytes>>,
    host: String,
}

async fn connect(api: &Api, pod: &Value) -> Result<Kubelet, Status> {
    let node_name = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node_name.is_empty() {
        return Err(Status::bad_request(format!("pod {} does not have a host assigned", name_of(pod))));
    }
    let node = api.registry.get(&NODES, "", node_name)?;
    let host = address(&node)
        .ok_or_else(|| Status::internal(format!("no preferred addresses found for node {node_name:?}")))?;
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_i64().filter(|p| *p != 0);
    let port = port.unwrap_or(KUBELET_PORT);
    let unreachable =
        |e: &dyn std::fmt::Display| Status::internal(format!("error dialing backend: {host}:{port}: {e}"));
    let name = ServerName::try_from(host.clone()).map_err(|e| unreachable(&e))?;
    let address = if host.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    let dial = async {
        let stream = TcpStream::connect(&address).await?;
        connections::prepare(&stream)?;
        TlsConnector::from(Arc::clone(&api.kubelets)).connect(name, stream).await
    };
    let stream = tokio::time::timeout(CONNECT, dial)
        .await
        .map_err(|_| unreachable(&"no answer"))?
        .map_err(|e| unreachable(&e))?;
    let (requests, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| unreachable(&e))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to a kubelet");
        }
    });
    Ok(Kubelet { requests, host: address })
}

/// An address of the node that needs no name resolution of ours, in the order that the node prefers.
fn address(node: &Value) -> Option<String> {
    let all = node["status"]["addresses"].as_array()?;
    ["InternalIP", "ExternalIP", "Hostname", "InternalDNS", "ExternalDNS"].iter().find_map(|kind| {
        let found = all.iter().find(|a| a["type"] == **kind)?;
        found["address"].as_str().map(str::to_owned)
    })
}

fn outgoing(method: &Method, path: &str, headers: &HeaderMap, host: &str) -> Result<Request<Empty<Bytes>>, Status> {
    let uri: Uri = path.parse().map_err(|e| Status::bad_request(format!("{e}")))?;
    let mut outgoing = Request::new(Empty::new());
    *outgoing.method_mut() = method.clone();
    *outgoing.uri_mut() = uri;
    copy_headers(headers, outgoing.headers_mut());
    if !headers.contains_key(UPGRADE) {
        outgoing.headers_mut().remove(CONNECTION);
    }
    let host = http::HeaderValue::from_str(host).map_err(Status::internal)?;
    outgoing.headers_mut().insert(HOST, host);
    Ok(outgoing)
}

fn copy_headers(from: &HeaderMap, to: &mut HeaderMap) {
    for (name, value) in from.iter().filter(|(name, _)| passes(name)) {
        to.append(name, value.clone());
    }
}

/// Turns a kubelet's refusal into a status: its own if it sent one, else its text.
async fn kubelet_failure(response: Response<Incoming>, pod: &Value) -> Status {
    const LIMIT: usize = 64 * 1024;
    let code = response.status().as_u16();
    let body = http_body_util::Limited::new(response.into_body(), LIMIT).collect().await;
    let bytes = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let text = match serde_json::from_slice::<Value>(&bytes) {
        Ok(value) if value["message"].is_string() => value["message"].as_str().unwrap_or_default().to_owned(),
        _ => String::from_utf8_lossy(&bytes).trim().to_owned(),
    };
    match code {
        400 => Status::bad_request(text),
        403 => Status::forbidden("", "pods", name_of(pod), &text),
        404 => Status::new(404, "NotFound", text).about("", "pods", name_of(pod)),
        405 => Status::method_not_allowed(),
        _ => Status::new(code, "InternalError", text),
    }
}

/// The kubelet's path for the request, with the options by its names.
fn kubelet_path(request: &ResourceRequest, pod: &Value) -> Result<String, Status> {
    let (namespace, name) = (encode(&request.namespace), encode(&request.name));
    if request.subresource == "portforward" {
        let ports = query(request, &["ports"]);
        return Ok(format!("/portForward/{namespace}/{name}{ports}"));
    }
    let container = encode(&container(request, pod)?);
    match request.subresource.as_str() {
        "log" => {
            let options =
                ["follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream"];
            Ok(format!("/containerLogs/{namespace}/{name}/{container}{}", query(request, &options)))
        }
        verb @ ("exec" | "attach") => {
            let mut parameters = Vec::new();
            for (option, theirs) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
                if request.query.flag(option) {
                    parameters.push(format!("{theirs}=1"));
                }
            }
            if parameters.is_empty() {
                return Err(Status::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
            }
            let commands = request.query.pairs().filter(|(key, _)| *key == "command");
            parameters.extend(commands.map(|(_, value)| format!("command={}", encode(value))));
            if verb == "exec" && !request.query.has("command") {
                return Err(Status::bad_request("you must specify at least one command for the container"));
            }
            Ok(format!("/{verb}/{namespace}/{name}/{container}?{}", parameters.join("&")))
        }
        _ => Err(Status::no_such_path()),
    }
}

fn query(request: &ResourceRequest, options: &[&str]) -> String {
    let pairs: Vec<String> = request
        .query
        .pairs()
        .filter(|(key, _)| options.contains(key))
        .map(|(key, value)| format!("{key}={}", encode(value)))
        .collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

/// The container that is meant: the one named, or the pod's only one.
fn container(request: &ResourceRequest, pod: &Value) -> Result<String, Status> {
    let names = |list: &str| -> Vec<&str> {
        pod["spec"][list].as_array().into_iter().flatten().filter_map(|c| c["name"].as_str()).collect()
    };
    let (main, init, ephemeral) = (names("containers"), names("initContainers"), names("ephemeralContainers"));
    let wanted = request.query.get("container");
    if !wanted.is_empty() {
        if main.iter().chain(&init).chain(&ephemeral).any(|name| *name == wanted) {
            return Ok(wanted.to_owned());
        }
        let message = format!("container {wanted} is not valid for pod {}", request.name);
        return Err(Status::bad_request(message));
    }
    match main.as_slice() {
        [one] => Ok((*one).to_owned()),
        many => {
            let mut message = format!(
                "a container name must be specified for pod {}, choose one of: [{}]",
                request.name,
                many.join(" ")
            );
            if !init.is_empty() {
                message = format!("{message} or one of the init containers: [{}]", init.join(" "));
            }
            Err(Status::bad_request(message))
        }
    }
}
