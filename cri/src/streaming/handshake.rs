//! From an HTTP request to the protocol that both sides will speak.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use http::header::{SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::remote_command::RemoteCommand;
use super::server::Call;
use super::status::StatusVersion;
use super::websocket::Encoding;

const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_PROTOCOLS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
const SPDY: &str = "SPDY/3.1";
const PORT_FORWARD_SPDY: &str = "portforward.k8s.io";
const PORT_FORWARD_TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// The versions of remote command over SPDY.
const REMOTE_COMMAND_SPDY: &[(&str, CommandVersion)] = &[
    ("v4.channel.k8s.io", CommandVersion { status: StatusVersion::Json, resize: true }),
    ("v3.channel.k8s.io", CommandVersion { status: StatusVersion::Text, resize: true }),
    ("v2.channel.k8s.io", CommandVersion { status: StatusVersion::Text, resize: false }),
    ("channel.k8s.io", CommandVersion { status: StatusVersion::Text, resize: false }),
];

/// The subprotocols of remote command over WebSocket.
const REMOTE_COMMAND_WEBSOCKET: &[(&str, ChannelVersion)] = &[
    ("v5.channel.k8s.io", ChannelVersion { status: StatusVersion::Json, encoding: Encoding::BinaryWithClose }),
    ("v4.channel.k8s.io", ChannelVersion { status: StatusVersion::Json, encoding: Encoding::Binary }),
    ("v4.base64.channel.k8s.io", ChannelVersion { status: StatusVersion::Json, encoding: Encoding::Base64 }),
    ("channel.k8s.io", ChannelVersion { status: StatusVersion::Text, encoding: Encoding::Binary }),
    ("base64.channel.k8s.io", ChannelVersion { status: StatusVersion::Text, encoding: Encoding::Base64 }),
];

const PORT_FORWARD_WEBSOCKET: &[(&str, ForwardVersion)] = &[
    (PORT_FORWARD_TUNNEL, ForwardVersion::Tunnel),
    ("v4.channel.k8s.io", ForwardVersion::Channels(Encoding::Binary)),
    ("v4.base64.channel.k8s.io", ForwardVersion::Channels(Encoding::Base64)),
];

/// What a version of remote command over SPDY has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CommandVersion {
    pub(super) status: StatusVersion,
    pub(super) resize: bool,
}

/// What a version of remote command over WebSocket has; all have the resize channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChannelVersion {
    pub(super) status: StatusVersion,
    pub(super) encoding: Encoding,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ForwardVersion {
    Tunnel,
    Channels(Encoding),
}

/// What to do once the connection is upgraded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Plan {
    CommandSpdy(RemoteCommand, CommandVersion),
    CommandWebSocket(RemoteCommand, ChannelVersion),
    /// Ports by pairs of SPDY streams.
    ForwardSpdy {
        sandbox_id: String,
    },
    /// The same, in the binary messages of a WebSocket.
    ForwardTunnel {
        sandbox_id: String,
    },
    /// Ports by pairs of WebSocket channels.
    ForwardWebSocket {
        sandbox_id: String,
        ports: Vec<u16>,
        encoding: Encoding,
    },
}

/// Why a request is not upgraded.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error(
        "unable to upgrade: the request has neither 'Upgrade: SPDY/3.1' nor 'Upgrade: websocket' with 'Connection: Upgrade'"
    )]
    NoUpgrade,
    #[error("unable to upgrade: the header X-Stream-Protocol-Version is missing")]
    NoStreamProtocol,
    #[error("unable to upgrade: the client offers the protocols {offered:?}, the server has {supported:?}")]
    NoCommonProtocol { offered: Vec<String>, supported: Vec<&'static str> },
    #[error("unable to upgrade: not a WebSocket handshake of version 13 with a key")]
    BadWebSocket,
    #[error("unable to upgrade: '{value}' is not a port to forward")]
    BadPort { value: String },
    #[error("unable to upgrade: {count} ports at once; this WebSocket protocol has channels for {limit}")]
    TooManyPorts { count: usize, limit: usize },
    #[error("unable to upgrade: no port to forward was named")]
    NoPort,
}

impl Refusal {
    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let status = match self {
            Refusal::NoCommonProtocol { .. } => StatusCode::FORBIDDEN,
            _ => StatusCode::BAD_REQUEST,
        };
        let mut response = text(status, &self.to_string());
        if let Refusal::NoCommonProtocol { supported, .. } = self {
            for protocol in supported {
                response.headers_mut().append(ACCEPTED_PROTOCOLS, HeaderValue::from_static(protocol));
            }
        }
        response
    }
}

/// A short answer in plain text.
pub(super) fn text(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{message}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Chooses the protocol for `call`: the first of the client's that the server has.
pub(super) fn negotiate<B>(request: &Request<B>, call: Call) -> Result<(Response<Full<Bytes>>, Plan), Refusal> {
    let headers = request.headers();
    if !tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade")) {
        return Err(Refusal::NoUpgrade);
    }
    if tokens(headers, &UPGRADE).any(|token| token.eq_ignore_ascii_case(SPDY)) {
        return spdy(headers, call);
    }
    if tokens(headers, &UPGRADE).any(|token| token.eq_ignore_ascii_case("websocket")) {
        return websocket(headers, request.uri().query().unwrap_or_default(), call);
    }
    Err(Refusal::NoUpgrade)
}

fn spdy(headers: &HeaderMap, call: Call) -> Result<(Response<Full<Bytes>>, Plan), Refusal> {
    let offered: Vec<&str> = tokens(headers, &STREAM_PROTOCOL).collect();
    if offered.is_empty() {
        return Err(Refusal::NoStreamProtocol);
    }
    let (protocol, plan) = match RemoteCommand::from_call(call) {
        Ok(command) => {
            let (protocol, version) = choose(&offered, REMOTE_COMMAND_SPDY)?;
            (protocol, Plan::CommandSpdy(command, version))
        }
        Err(forward) => {
            let (protocol, ()) = choose(&offered, &[(PORT_FORWARD_SPDY, ())])?;
            (protocol, Plan::ForwardSpdy { sandbox_id: forward.sandbox_id })
        }
    };
    let mut response = switching(SPDY);
    response.headers_mut().insert(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
    Ok((response, plan))
}

fn websocket(headers: &HeaderMap, query: &str, call: Call) -> Result<(Response<Full<Bytes>>, Plan), Refusal> {
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or(Refusal::BadWebSocket)?;
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Refusal::BadWebSocket);
    }
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| Refusal::BadWebSocket)?;
    let offered: Vec<&str> = tokens(headers, &SEC_WEBSOCKET_PROTOCOL).collect();
    let (protocol, plan) = match RemoteCommand::from_call(call) {
        Ok(command) => {
            // A client that names no subprotocol speaks the first version.
            let offered = if offered.is_empty() { vec!["channel.k8s.io"] } else { offered.clone() };
            let (protocol, version) = choose(&offered, REMOTE_COMMAND_WEBSOCKET)?;
            (protocol, Plan::CommandWebSocket(command, version))
        }
        Err(forward) => {
            let sandbox_id = forward.sandbox_id;
            let (protocol, version) = choose(&offered, PORT_FORWARD_WEBSOCKET)?;
            let plan = match version {
                ForwardVersion::Tunnel => Plan::ForwardTunnel { sandbox_id },
                ForwardVersion::Channels(encoding) => {
                    Plan::ForwardWebSocket { sandbox_id, ports: ports(forward.ports, query, encoding)?, encoding }
                }
            };
            (protocol, plan)
        }
    };
    let mut response = switching("websocket");
    response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    // A subprotocol that the client did not ask for would end its handshake (RFC 6455, section 4.1).
    if !offered.is_empty() {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    Ok((response, plan))
}

/// The ports of the CRI call, or else those that the URL's query names (`port=80&port=81` or `ports=80,81`).
fn ports(of_call: Vec<u16>, query: &str, encoding: Encoding) -> Result<Vec<u16>, Refusal> {
    let ports = if of_call.is_empty() { ports_of_query(query)? } else { of_call };
    let limit = encoding.channels() / 2;
    match ports.len() {
        0 => Err(Refusal::NoPort),
        count if count > limit => Err(Refusal::TooManyPorts { count, limit }),
        _ => Ok(ports),
    }
}

fn ports_of_query(query: &str) -> Result<Vec<u16>, Refusal> {
    let mut ports = Vec::new();
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        if !matches!(name, "port" | "ports") {
            continue;
        }
        let value = percent_encoding::percent_decode_str(value).decode_utf8_lossy();
        for port in value.split(',') {
            match port.parse() {
                Ok(port) if port > 0 => ports.push(port),
                _ => return Err(Refusal::BadPort { value: port.to_owned() }),
            }
        }
    }
    Ok(ports)
}

fn choose<V: Copy>(offered: &[&str], supported: &[(&'static str, V)]) -> Result<(&'static str, V), Refusal> {
    offered.iter().find_map(|name| supported.iter().find(|(known, _)| known == name)).copied().ok_or_else(|| {
        Refusal::NoCommonProtocol {
            offered: offered.iter().map(|name| (*name).to_owned()).collect(),
            supported: supported.iter().map(|(name, _)| *name).collect(),
        }
    })
}

fn switching(protocol: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(protocol));
    response
}

/// The elements of a header that is a comma-separated list, over all its lines.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streaming::{AttachStream, PortForwardStream};

    fn attach() -> Call {
        Call::Attach(AttachStream { container_id: "c".into(), tty: false, stdin: true, stdout: true, stderr: true })
    }

    fn forward(ports: &[u16]) -> Call {
        Call::PortForward(PortForwardStream { sandbox_id: "s".into(), ports: ports.to_vec() })
    }

    fn request(uri: &str, headers: &[(&str, &str)]) -> Request<()> {
        let builder = Request::builder().uri(uri);
        headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value)).body(()).unwrap()
    }

    const SPDY_UPGRADE: [(&str, &str); 2] = [("connection", "keep-alive, Upgrade"), ("upgrade", "SPDY/3.1")];
    const WS_UPGRADE: [(&str, &str); 4] = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn refused(request: &Request<()>, call: Call) -> StatusCode {
        negotiate(request, call).unwrap_err().into_response().status()
    }

    #[test]
    fn the_first_protocol_of_the_client_that_is_known_wins() {
        let mut headers = SPDY_UPGRADE.to_vec();
        headers.extend([
            ("X-Stream-Protocol-Version", "v5.channel.k8s.io"),
            ("X-Stream-Protocol-Version", "v4.channel.k8s.io, v3.channel.k8s.io"),
        ]);
        let (response, plan) = negotiate(&request("/", &headers), attach()).unwrap();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(response.headers()[STREAM_PROTOCOL], "v4.channel.k8s.io");
        assert!(matches!(plan, Plan::CommandSpdy(_, CommandVersion { status: StatusVersion::Json, resize: true })));
    }

    #[test]
    fn what_is_not_an_upgrade_is_a_bad_request_and_an_unknown_protocol_is_forbidden() {
        assert_eq!(refused(&request("/", &[]), attach()), StatusCode::BAD_REQUEST);
        assert_eq!(refused(&request("/", &SPDY_UPGRADE), attach()), StatusCode::BAD_REQUEST);
        let mut headers = SPDY_UPGRADE.to_vec();
        headers.push(("X-Stream-Protocol-Version", "v9.channel.k8s.io"));
        assert_eq!(refused(&request("/", &headers), attach()), StatusCode::FORBIDDEN);
        let mut headers = WS_UPGRADE.to_vec();
        headers.push(("sec-websocket-protocol", "v9.channel.k8s.io"));
        assert_eq!(refused(&request("/", &headers), attach()), StatusCode::FORBIDDEN);
        assert_eq!(refused(&request("/", &WS_UPGRADE[..3]), attach()), StatusCode::BAD_REQUEST);
        assert_eq!(refused(&request("/", &WS_UPGRADE), forward(&[80])), StatusCode::FORBIDDEN);
    }

    /// The key and the answer are the example of RFC 6455, section 1.3.
    #[test]
    fn a_websocket_handshake_is_answered_as_the_rfc_says() {
        let (response, plan) = negotiate(&request("/", &WS_UPGRADE), attach()).unwrap();
        assert_eq!(response.headers()[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(response.headers().get(SEC_WEBSOCKET_PROTOCOL).is_none());
        assert!(matches!(plan, Plan::CommandWebSocket(_, ChannelVersion { status: StatusVersion::Text, .. })));
    }

    #[test]
    fn ports_come_from_the_call_or_from_the_query() {
        let mut headers = WS_UPGRADE.to_vec();
        headers.push(("sec-websocket-protocol", "v5.channel.k8s.io, v4.channel.k8s.io"));
        let ports_of = |uri: &str, of_call: &[u16]| match negotiate(&request(uri, &headers), forward(of_call)) {
            Ok((_, Plan::ForwardWebSocket { ports, .. })) => Some(ports),
            _ => None,
        };
        assert_eq!(ports_of("/x?ports=80%2C81&port=82", &[]), Some(vec![80, 81, 82]));
        assert_eq!(ports_of("/x?ports=80", &[7]), Some(vec![7]));
        assert_eq!(ports_of("/x", &[]), None);
        assert_eq!(ports_of("/x?ports=0", &[]), None);
        assert_eq!(ports_of("/x?ports=70000", &[]), None);
    }
}
