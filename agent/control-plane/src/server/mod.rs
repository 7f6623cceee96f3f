//! The API server: TLS, authentication, authorisation, and a handler per verb.

mod accept;
mod authn;
mod authz;
mod connections;
mod discovery;
mod handlers;
mod openapi;
mod protobuf;
mod reply;
mod request;
mod reviews;
mod tables;
mod tls;
mod tunnel;
mod yaml;

use std::net::SocketAddr;
use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::pki::CertificateAndKey;
use crate::registry::Registry;
use crate::status::Status;
use crate::tokens::Signer;
use crate::user::User;
use reply::Reply;
use request::RequestInfo;

pub(crate) use connections::serve;
pub(crate) use tls::{kubelet_client_config, server_config};

/// The version of Kubernetes whose API this is.
const VERSION: &str = "v1.36.0";

/// What every request needs.
pub(crate) struct Api {
    pub(crate) registry: Arc<Registry>,
    pub(crate) signer: Arc<Signer>,
    pub(crate) kubelets: Arc<rustls::ClientConfig>,
    pub(crate) stop: CancellationToken,
    /// Where the server can be reached, for discovery.
    pub(crate) address: SocketAddr,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("address", &self.address).finish_non_exhaustive()
    }
}

async fn handle(api: Arc<Api>, certified: Option<User>, request: Request<Incoming>) -> Response<reply::Body> {
    match respond(&api, certified, request).await {
        Ok(reply) => reply.into_response(),
        Err(status) => Reply::status(&status).into_response(),
    }
}

async fn respond(api: &Arc<Api>, certified: Option<User>, request: Request<Incoming>) -> Result<Reply, Status> {
    let path = request.uri().path().to_owned();
    if let Some(reply) = public(request.method(), &path) {
        return Ok(reply);
    }
    let user = authn::authenticate(api, certified, request.headers())?;
    let user = authn::impersonate(user, request.headers())?;
    let info = request::parse(request.method(), request.uri())?;
    authz::require(api, &user, &info)?;
    match &info {
        RequestInfo::Path { path, .. } => paths(api, path, &request),
        RequestInfo::Resource(_) => handlers::dispatch(api, user, info, request).await,
    }
}

/// What is served to anybody: whether the server lives, and its version.
fn public(method: &Method, path: &str) -> Option<Reply> {
    if method != Method::GET && method != Method::HEAD {
        return None;
    }
    let health = ["/healthz", "/livez", "/readyz"];
    match path {
        "/version" => Some(Reply::json(StatusCode::OK, &version())),
        // Whoever connects has a server with its store open and its cache full: there is nothing else to check.
        _ if health.iter().any(|h| path == *h || path == format!("{h}/ping")) => Some(Reply::text("ok")),
        _ => None,
    }
}

fn version() -> serde_json::Value {
    json!({
        "major": "1", "minor": "36", "gitVersion": format!("{VERSION}+orlop-{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none",
        "compiler": "rustc", "platform": format!("linux/{}", architecture()),
    })
}

/// The machine's name in Go's terms.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn paths(api: &Arc<Api>, path: &str, request: &Request<Incoming>) -> Result<Reply, Status> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Err(Status::no_such_path());
    }
    if path == "/" {
        let all =
            ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/openapi/v3", "/openid/v1/jwks", "/readyz", "/version"];
        return Ok(Reply::json(StatusCode::OK, &json!({"paths": all})));
    }
    if path == "/openid/v1/jwks" {
        return Ok(Reply::json(StatusCode::OK, &api.signer.jwks()));
    }
    if path == "/.well-known/openid-configuration" {
        return Ok(Reply::json(
            StatusCode::OK,
            &json!({
                "issuer": crate::tokens::ISSUER, "jwks_uri": format!("https://{}/openid/v1/jwks", api.address),
                "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"],
            }),
        ));
    }
    if let Some(rest) = path.strip_prefix("/openapi/v3") {
        return openapi::serve(rest.trim_matches('/'));
    }
    discovery::serve(api.address, path, request.headers())
}
