//! Connections: so many at once, and none for a peer that says nothing.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use nix::sys::resource::{Resource, getrlimit};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use super::{Api, authn, handle};

/// A client has so long to finish its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// …and then so long for its first request.
const FIRST_REQUEST: Duration = Duration::from_secs(32);
/// Between requests, a connection of HTTP/1 is kept so long.
const IDLE: Duration = Duration::from_secs(90);
/// A silent peer is asked so often whether it is still there (a machine without power never says that it is not).
const PROBES: Duration = Duration::from_secs(15);
/// While there is no room, the next connection is looked at after so long.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections at once, at most, however many descriptors there may be.
const MOST: u64 = 8192;

/// How many connections there may still be.
struct Room {
    all: Arc<Semaphore>,
    /// Those of clients without a certificate, who may be anybody: they leave half to nodes and administrators.
    strangers: Arc<Semaphore>,
}

impl Room {
    /// Half of the descriptors that this process may have are left to its files and its own connections.
    fn new() -> Self {
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let most = usize::try_from(MOST.min(descriptors / 2)).unwrap_or(usize::MAX);
        Self { all: Arc::new(Semaphore::new(most)), strangers: Arc::new(Semaphore::new(most / 2)) }
    }
}

/// Accepts connections until told to stop.
pub(crate) async fn serve(api: Arc<Api>, listener: TcpListener, tls: Arc<rustls::ServerConfig>) {
    let acceptor = TlsAcceptor::from(tls);
    let connections = TaskTracker::new();
    let room = Room::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = api.stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Ok(permit) = Arc::clone(&room.all).try_acquire_owned() else {
                    tracing::warn!(%peer, "refusing a connection: there are too many");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                };
                let (api, acceptor, strangers) = (Arc::clone(&api), acceptor.clone(), Arc::clone(&room.strangers));
                connections.spawn(async move {
                    serve_connection(api, acceptor, &strangers, stream).await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: let some go first.
                tracing::warn!(%error, "accepting a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
}

async fn serve_connection(api: Arc<Api>, acceptor: TlsAcceptor, strangers: &Semaphore, stream: TcpStream) {
    if let Err(error) = prepare(&stream) {
        // The peer may be gone already, which the handshake will notice.
        tracing::debug!(%error, "setting the options of a connection");
    }
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake"),
        Err(_) => return tracing::debug!("TLS handshake timed out"),
    };
    let certified = stream.get_ref().1.peer_certificates().and_then(|chain| authn::certificate_user(chain.first()?));
    let _permit = match (&certified, strangers.try_acquire()) {
        (Some(_), _) => None,
        (None, Ok(permit)) => Some(permit),
        (None, Err(_)) => return tracing::debug!("refusing a connection: there are too many without a certificate"),
    };
    let stop = api.stop.clone();
    let asked = Arc::new(Notify::new());
    let first = Arc::clone(&asked);
    let service = hyper::service::service_fn(move |request| {
        asked.notify_one();
        let (api, certified) = (Arc::clone(&api), certified.clone());
        async move { Ok::<_, std::convert::Infallible>(handle(api, certified, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(PROBES * 2).max_concurrent_streams(1000);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = silence(&first) => return tracing::debug!("a connection without a request timed out"),
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(Duration::from_secs(1), connection).await {
                Ok(result) => result,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(error = %error, "connection");
    }
}

/// Small pieces go out at once, and a peer that has vanished is noticed.
pub(super) fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(PROBES).with_interval(PROBES))
}

/// Ends when the first request does not come; hyper's own limits begin only when it knows the protocol.
async fn silence(first: &Notify) {
    if tokio::time::timeout(FIRST_REQUEST, first.notified()).await.is_ok() {
        std::future::pending::<()>().await;
    }
}
