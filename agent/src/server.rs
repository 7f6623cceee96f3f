//! The HTTPS API on port 10250: what `kubectl logs`, `exec`, `attach` and `port-forward` come through.

mod auth;
mod logs;
mod metrics;
mod routes;
pub(crate) mod tls;
mod tunnel;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::pods::registry::Registry;

/// How long a client may take for its handshake or its headers.
const PATIENCE: Duration = Duration::from_secs(30);

/// A body of any kind.
pub(super) type Body = BoxBody<Bytes, io::Error>;

/// What requests are answered from.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) ctx: Arc<Context>,
    pub(crate) registry: Arc<Registry>,
    auth: auth::Cache,
}

impl State {
    pub(crate) fn new(ctx: Arc<Context>, registry: Arc<Registry>) -> Self {
        Self { ctx, registry, auth: auth::Cache::default() }
    }
}

/// An answer of plain text.
pub(super) fn text(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(full(text.into()));
    *response.status_mut() = status;
    response
}

/// An answer in JSON.
pub(super) fn json(value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(bytes) => {
            let mut response = Response::new(full(bytes));
            let kind = http::HeaderValue::from_static("application/json");
            response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
            response
        }
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
    }
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// Accepts connections until told to stop.
pub(crate) async fn serve(listener: TcpListener, acceptor: TlsAcceptor, state: Arc<State>, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (acceptor, state, stop) = (acceptor.clone(), Arc::clone(&state), stop.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = connection(stream, peer, acceptor, state) => {}
                    }
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: it passes.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, acceptor: TlsAcceptor, state: Arc<State>) {
    let stream = match tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "TLS handshake");
            return;
        }
        Err(_) => return,
    };
    let certificates = stream.get_ref().1.peer_certificates();
    let identity = certificates.and_then(|c| c.first()).and_then(|c| auth::Identity::of_certificate(c));
    let service = service_fn(move |request| {
        let (state, identity) = (Arc::clone(&state), identity.clone());
        async move { Ok::<_, io::Error>(routes::handle(&state, identity, peer, request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "connection");
    }
}
