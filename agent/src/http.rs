//! A small HTTP client for probes and hooks: one request, one connection, no certificate checks.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

const MAX_BODY: usize = 10 << 10;
const MAX_REDIRECTS: usize = 10;

/// What came back, or where another host was named.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Done { status: StatusCode, body: String },
    Elsewhere { body: String },
}

/// The number of a port that may be named.
pub(crate) fn port_number(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let ports = container.ports.iter().flatten();
            let named = || ports.into_iter().find(|p| p.name.as_deref() == Some(name));
            let number = name.parse().ok().or_else(|| named().map(|p| p.container_port));
            number.ok_or_else(|| format!("unknown port: {name}"))?
        }
    };
    u16::try_from(number).ok().filter(|p| *p > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

/// `host:port` with brackets where an address needs them.
pub(crate) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The URI and headers of an `httpGet`; an empty host is the pod's.
pub(crate) fn request_of(
    action: &HTTPGetAction,
    container: &Container,
    pod_ip: &str,
) -> Result<(Uri, HeaderMap), String> {
    let host = action.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(pod_ip);
    let port = port_number(&action.port, container)?;
    let scheme = action.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
    let path = action.path.as_deref().unwrap_or_default();
    let slash = if path.starts_with('/') { "" } else { "/" };
    let text = format!("{scheme}://{}{slash}{path}", authority(host, port));
    let uri = text.parse().map_err(|e| format!("invalid URL {text:?}: {e}"))?;
    let mut headers = HeaderMap::new();
    for pair in action.http_headers.iter().flatten() {
        let name = HeaderName::try_from(&pair.name).map_err(|e| format!("header {:?}: {e}", pair.name))?;
        let value = HeaderValue::try_from(&pair.value).map_err(|e| format!("header {:?}: {e}", pair.name))?;
        headers.append(name, value);
    }
    Ok((uri, headers))
}

/// GETs, following redirects on the same host. The error is worded as Go's client words it.
pub(crate) async fn get(
    uri: Uri,
    headers: HeaderMap,
    agent: &'static str,
    timeout: Duration,
) -> Result<Answer, String> {
    let first = uri.to_string();
    match tokio::time::timeout(timeout, follow(uri, headers, agent)).await {
        Ok(answer) => answer.map_err(|e| format!("Get \"{first}\": {e}")),
        Err(_) => {
            Err(format!("Get \"{first}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"))
        }
    }
}

async fn follow(mut uri: Uri, headers: HeaderMap, agent: &'static str) -> Result<Answer, String> {
    for _ in 0..=MAX_REDIRECTS {
        let (status, location, body) = once(&uri, &headers, agent).await?;
        let Some(location) = location.filter(|_| status.is_redirection()) else {
            return Ok(Answer::Done { status, body });
        };
        let next = resolve(&uri, &location).ok_or_else(|| format!("invalid redirect to {location:?}"))?;
        if next.host() != uri.host() {
            return Ok(Answer::Elsewhere { body });
        }
        uri = next;
    }
    Err(format!("stopped after {MAX_REDIRECTS} redirects"))
}

fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    if location.contains("://") {
        return location.parse().ok();
    }
    let path = if location.starts_with('/') { location.to_owned() } else { format!("/{location}") };
    let mut parts = base.clone().into_parts();
    parts.path_and_query = path.parse().ok();
    Uri::from_parts(parts).ok()
}

async fn once(
    uri: &Uri,
    headers: &HeaderMap,
    agent: &'static str,
) -> Result<(StatusCode, Option<String>, String), String> {
    let https = uri.scheme_str() == Some("https");
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
    let stream = dial(&host, port).await?;
    if https {
        let name = ServerName::try_from(host).map_err(|e| e.to_string())?;
        let connector = tokio_rustls::TlsConnector::from(unverified_tls()?);
        let stream = connector.connect(name, stream).await.map_err(|e| e.to_string())?;
        exchange(stream, uri, headers, agent).await
    } else {
        exchange(stream, uri, headers, agent).await
    }
}

/// Connects, with the system's answer in Go's words.
pub(crate) async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    let target = authority(host, port);
    TcpStream::connect((host, port)).await.map_err(|e| {
        let what = match e.kind() {
            std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
            std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
            _ => e.to_string(),
        };
        format!("dial tcp {target}: {what}")
    })
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    uri: &Uri,
    headers: &HeaderMap,
    agent: &'static str,
) -> Result<(StatusCode, Option<String>, String), String> {
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|e| e.to_string())?;
    let driver = tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let mut request = Request::get(path).body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
    let out = request.headers_mut();
    let host = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    out.insert(header::HOST, HeaderValue::try_from(host).map_err(|e| e.to_string())?);
    out.insert(header::USER_AGENT, HeaderValue::from_static(agent));
    out.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    out.insert(header::CONNECTION, HeaderValue::from_static("close"));
    for name in headers.keys() {
        out.remove(name);
    }
    for (name, value) in headers {
        out.append(name, value.clone());
    }
    let result = read_answer(sender.send_request(request).await).await;
    driver.abort();
    result
}

async fn read_answer(
    response: hyper::Result<http::Response<hyper::body::Incoming>>,
) -> Result<(StatusCode, Option<String>, String), String> {
    let response = response.map_err(|e| e.to_string())?;
    let status = response.status();
    let location = response.headers().get(header::LOCATION);
    let location = location.and_then(|v| v.to_str().ok()).map(str::to_owned);
    let mut body = response.into_body();
    let mut text = Vec::new();
    while text.len() < MAX_BODY {
        match body.frame().await {
            Some(Ok(frame)) => text.extend_from_slice(frame.data_ref().map_or(&[][..], |d| d)),
            Some(Err(e)) => return Err(e.to_string()),
            None => break,
        }
    }
    text.truncate(MAX_BODY);
    Ok((status, location, String::from_utf8_lossy(&text).into_owned()))
}

/// Probes ask whether a server answers, not who it is: Kubernetes does not verify here.
fn unverified_tls() -> Result<Arc<rustls::ClientConfig>, String> {
    let builder = orlop_tls::unverified_client().map_err(|error| error.to_string())?;
    Ok(Arc::new(builder.with_no_client_auth()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_may_be_named() {
        let container: Container =
            serde_json::from_value(serde_json::json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}))
                .expect("a container");
        let port = |p: IntOrString| port_number(&p, &container);
        assert_eq!(port(IntOrString::String("web".to_owned())), Ok(8080));
        assert_eq!(port(IntOrString::String("81".to_owned())), Ok(81));
        assert!(port(IntOrString::String("nope".to_owned())).is_err());
        assert!(port(IntOrString::Int(70_000)).is_err());
    }

    #[tokio::test]
    async fn a_refused_connection_reads_like_gos() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let uri: Uri = format!("http://{address}/x").parse().expect("a URI");
        let got = get(uri, HeaderMap::new(), "test", Duration::from_secs(5)).await;
        assert_eq!(got, Err(format!("Get \"http://{address}/x\": dial tcp {address}: connect: connection refused")));
    }
}
