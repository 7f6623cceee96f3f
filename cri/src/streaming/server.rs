//! The listener, its URLs, and the way of a request to its session.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::backend::{AttachStream, Backend, ExecStream, PortForwardStream};
use super::error::Error;
use super::handshake::{self, Plan};
use super::session::{self, Socket};
use super::token::TokenCache;

/// How long a client may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// A client that vanished without a word is noticed after three unanswered probes.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// What a token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Call {
    Exec(ExecStream),
    Attach(AttachStream),
    PortForward(PortForwardStream),
}

impl Call {
    /// The first part of the URL's path.
    fn path(&self) -> &'static str {
        match self {
            Call::Exec(_) => "exec",
            Call::Attach(_) => "attach",
            Call::PortForward(_) => "portforward",
        }
    }
}

type Tokens = TokenCache<Call>;

/// Serves streams until it is dropped; dropping it ends every session.
#[derive(Debug)]
pub struct StreamingServer {
    address: SocketAddr,
    tokens: Arc<Tokens>,
    _stop: DropGuard,
}

impl StreamingServer {
    /// Listens on `listen` (`127.0.0.1:0` picks a free port) and serves in the background.
    pub async fn start(listen: SocketAddr, backend: Arc<dyn Backend>) -> Result<StreamingServer, Error> {
        let failed = |source| Error::Listen { address: listen, source };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let tokens = Arc::new(Tokens::new());
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(accept(
            listener,
            Arc::clone(&tokens),
            backend,
            stop.clone(),
        )));
        Ok(StreamingServer { address, tokens, _stop: stop.drop_guard() })
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A URL for one client to run `request` with; it is good once, for a minute.
    pub fn exec_url(&self, request: ExecStream) -> Result<String, Error> {
        check_streams(request.tty, [request.stdin, request.stdout, request.stderr])?;
        if request.container_id.is_empty() {
            return Err(Error::NoTarget);
        }
        if request.command.is_empty() {
            return Err(Error::NoCommand);
        }
        self.url(Call::Exec(request))
    }

    /// A URL for one client to attach with; it is good once, for a minute.
    pub fn attach_url(&self, request: AttachStream) -> Result<String, Error> {
        check_streams(request.tty, [request.stdin, request.stdout, request.stderr])?;
        if request.container_id.is_empty() {
            return Err(Error::NoTarget);
        }
        self.url(Call::Attach(request))
    }

    /// A URL for one client to forward ports with; it is good once, for a minute.
    pub fn port_forward_url(&self, request: PortForwardStream) -> Result<String, Error> {
        if request.sandbox_id.is_empty() {
            return Err(Error::NoTarget);
        }
        self.url(Call::PortForward(request))
    }

    fn url(&self, call: Call) -> Result<String, Error> {
        let path = call.path();
        let token = self.tokens.insert(call)?;
        Ok(format!("http://{}/{path}/{token}", reachable(self.address)))
    }
}

/// The address to give to clients of a server that may listen on every address: they are on this host.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn check_streams(tty: bool, [stdin, stdout, stderr]: [bool; 3]) -> Result<(), Error> {
    if !stdin && !stdout && !stderr {
        return Err(Error::NoStream);
    }
    if tty && stderr {
        return Err(Error::TtyWithStderr);
    }
    Ok(())
}

async fn accept(listener: TcpListener, tokens: Arc<Tokens>, backend: Arc<dyn Backend>, stop: CancellationToken) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let connection = serve(stream, Arc::clone(&tokens), Arc::clone(&backend));
                tokio::spawn(stop.clone().run_until_cancelled_owned(connection));
            }
            Err(error) => {
                // Out of descriptors, most likely: sessions that end give some back.
                tracing::warn!(%error, "streaming server: cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// The upgrade that a request on this connection agreed on.
type Agreed = Mutex<Option<(OnUpgrade, Plan)>>;

/// One connection: its HTTP request, and then the session that came of it.
async fn serve(stream: TcpStream, tokens: Arc<Tokens>, backend: Arc<dyn Backend>) {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(3);
    if let Err(error) = stream.set_nodelay(true).and_then(|()| SockRef::from(&stream).set_tcp_keepalive(&keepalive)) {
        tracing::debug!(%error, "streaming server: cannot set socket options");
    }
    let agreed = Agreed::default();
    let service = service_fn(|request| {
        let response = route(request, &tokens, &agreed);
        async { Ok::<_, Infallible>(response) }
    });
    let http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = http.await {
        tracing::debug!(%error, "streaming server: the HTTP request failed");
        return;
    }
    let Some((upgrade, plan)) = agreed.into_inner().unwrap_or_else(PoisonError::into_inner) else { return };
    match upgrade.await.map(hyper::upgrade::Upgraded::downcast::<TokioIo<TcpStream>>) {
        Ok(Ok(parts)) => match Socket::new(parts.io.into_inner(), parts.read_buf) {
            Ok(socket) => session::run(socket, plan, backend).await,
            Err(error) => tracing::warn!(%error, "streaming server: cannot watch a client"),
        },
        Ok(Err(_)) => tracing::warn!("streaming server: the upgraded connection is not the one that was accepted"),
        Err(error) => tracing::debug!(%error, "streaming server: the upgrade failed"),
    }
}

fn route(mut request: Request<Incoming>, tokens: &Tokens, agreed: &Agreed) -> Response<Full<Bytes>> {
    let mut path = request.uri().path().trim_start_matches('/').splitn(2, '/');
    let (Some(kind @ ("exec" | "attach" | "portforward")), Some(token)) = (path.next(), path.next()) else {
        return handshake::text(StatusCode::NOT_FOUND, "page not found");
    };
    if !matches!(*request.method(), Method::GET | Method::POST) {
        return handshake::text(StatusCode::METHOD_NOT_ALLOWED, "a stream is asked for by GET or POST");
    }
    let Some(call) = tokens.take(token).filter(|call| call.path() == kind) else {
        return handshake::text(StatusCode::NOT_FOUND, "this URL was used before, or has expired, or never was");
    };
    match handshake::negotiate(&request, call) {
        Ok((response, plan)) => {
            let upgrade = hyper::upgrade::on(&mut request);
            *agreed.lock().unwrap_or_else(PoisonError::into_inner) = Some((upgrade, plan));
            response
        }
        Err(refusal) => refusal.into_response(),
    }
}
