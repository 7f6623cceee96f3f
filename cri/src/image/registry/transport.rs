//! HTTP to registries: one connection pool per TLS configuration, time limits, and redirects that carry no secrets.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Mutex;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderMap, LOCATION};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::super::error::{Attempt, Error, chain};
use super::super::settings::Limits;
use super::hosts::{Endpoint, TlsSettings};
use super::tls;

const MAX_REDIRECTS: usize = 10;
/// Of an error answer's body, what is read to tell the reason.
const MAX_REASON: usize = 4096;

type Pool = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// The connections of a store to all registries.
pub(crate) struct Transport {
    limits: Limits,
    /// Each with the files that it was made from.
    pools: Mutex<HashMap<TlsSettings, (Vec<tls::Stamp>, Pool)>>,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Transport")
    }
}

/// A request that may be sent again, to wherever a redirect leads.
pub(super) struct Call<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) method: Method,
    pub(super) uri: Uri,
    /// Sent to every host.
    pub(super) headers: HeaderMap,
    /// Sent to the endpoint alone: authorization, and what hosts.toml adds.
    pub(super) private: HeaderMap,
    pub(super) body: Bytes,
}

impl Transport {
    pub(crate) fn new(limits: Limits) -> Transport {
        Transport { limits, pools: Mutex::new(HashMap::new()) }
    }

    /// Sends a request and gives the head of the final answer, whatever its status.
    pub(super) async fn send(&self, call: Call<'_>) -> Result<Response<Incoming>, Attempt> {
        let mut uri = call.uri.clone();
        for _ in 0..MAX_REDIRECTS {
            let failed = |reason: String| Attempt { url: shown(&uri), status: None, reason };
            let own = same_origin(&uri, &call.uri);
            let pool = self.pool(call.endpoint, &uri, own).map_err(|error| failed(error.to_string()))?;
            let mut request = Request::new(Full::new(call.body.clone()));
            *request.method_mut() = call.method.clone();
            *request.uri_mut() = uri.clone();
            *request.headers_mut() = call.headers.clone();
            if own {
                request.headers_mut().extend(call.private.clone());
            }
            let answer = tokio::time::timeout(self.limits.answer_timeout, pool.request(request)).await;
            let answer = answer
                .map_err(|_| failed(format!("no answer within {} s", self.limits.answer_timeout.as_secs())))?
                .map_err(|error| failed(chain(&error)))?;
            let redirects = answer.status().is_redirection() && answer.status() != StatusCode::NOT_MODIFIED;
            if !redirects || (call.method != Method::GET && call.method != Method::HEAD) {
                return Ok(answer);
            }
            uri = redirected(&uri, answer.headers()).map_err(failed)?;
        }
        Err(Attempt { url: shown(&call.uri), status: None, reason: format!("more than {MAX_REDIRECTS} redirects") })
    }

    /// Reads a whole body of at most `limits.document` bytes.
    pub(super) async fn document(&self, url: &Uri, answer: Response<Incoming>) -> Result<Bytes, Attempt> {
        let failed = |reason: String| Attempt { url: shown(url), status: None, reason };
        let limited = Limited::new(answer.into_body(), usize::try_from(self.limits.document).unwrap_or(usize::MAX));
        match tokio::time::timeout(self.limits.stall_window, limited.collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
                Err(failed(format!("the answer is over the limit of {} bytes", self.limits.document)))
            }
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed(format!("the answer took over {} s", self.limits.stall_window.as_secs()))),
        }
    }

    /// An attempt that ended with an error status, with what the registry says about it.
    pub(super) async fn refusal(&self, url: &Uri, answer: Response<Incoming>) -> Attempt {
        let status = answer.status();
        let mut reason = status.to_string();
        let body = Limited::new(answer.into_body(), MAX_REASON).collect();
        if let Ok(Ok(body)) = tokio::time::timeout(self.limits.connect_timeout, body).await
            && let Some(message) = message(&body.to_bytes())
        {
            let _ = write!(reason, ": {message}");
        }
        Attempt { url: shown(url), status: Some(status.as_u16()), reason }
    }

    fn pool(&self, endpoint: &Endpoint, uri: &Uri, own: bool) -> Result<Pool, Error> {
        // The settings of an endpoint are for its host; elsewhere, and where there is no TLS, they mean nothing.
        let plain = uri.scheme_str() == Some("http");
        let key = if own && !plain {
            endpoint.tls.clone()
        } else {
            TlsSettings { skip_verify: plain, ..TlsSettings::default() }
        };
        let stamps = tls::stamps(&key);
        let mut pools = self.pools.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((_, pool)) = pools.get(&key).filter(|(made_from, _)| *made_from == stamps) {
            return Ok(pool.clone());
        }
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(self.limits.connect_timeout));
        let config = tls::config(&Endpoint { tls: key.clone(), ..endpoint.clone() })?;
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().wrap_connector(http);
        let pool = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        pools.insert(key, (stamps, pool.clone()));
        Ok(pool)
    }
}

/// A URL for messages: without a query, which may hold a signature, and without user info.
pub(super) fn shown(uri: &Uri) -> String {
    let authority = uri.authority().map_or("", |a| a.as_str());
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{}://{host}{}", uri.scheme_str().unwrap_or("http"), uri.path())
}

pub(super) fn same_origin(a: &Uri, b: &Uri) -> bool {
    a.scheme() == b.scheme() && a.authority() == b.authority()
}

fn redirected(from: &Uri, headers: &HeaderMap) -> Result<Uri, String> {
    let location = headers.get(LOCATION).and_then(|value| value.to_str().ok()).ok_or("a redirect to nowhere")?;
    let target: Uri = location.parse().map_err(|error| format!("a redirect to a malformed URL: {error}"))?;
    if target.authority().is_none() {
        let mut parts = from.clone().into_parts();
        parts.path_and_query = target.into_parts().path_and_query;
        return Uri::from_parts(parts).map_err(|error| format!("a redirect to a malformed URL: {error}"));
    }
    match (from.scheme_str(), target.scheme_str()) {
        (_, Some("https")) | (Some("http"), Some("http")) => Ok(target),
        _ => Err(format!("a redirect from https to {}", shown(&target))),
    }
}

/// The message of a registry's error (OCI distribution spec, "Error Codes"), made fit to print.
fn message(body: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    let error = value.get("errors")?.get(0)?;
    let text = error.get("message").or_else(|| error.get("code"))?.as_str()?;
    Some(text.chars().filter(|c| !c.is_control()).take(200).collect())
}

/// Marks a value as secret, so that nothing that prints headers shows it.
pub(super) fn secret_header(headers: &mut HeaderMap, name: http::HeaderName, value: &str) -> Result<(), &'static str> {
    let mut value = http::HeaderValue::from_str(value).map_err(|_| "it holds characters that no header may have")?;
    value.set_sensitive(true);
    headers.append(name, value);
    Ok(())
}

/// Adds an authorization.
pub(super) fn authorize(headers: &mut HeaderMap, value: &str) -> Result<(), &'static str> {
    headers.remove(AUTHORIZATION);
    secret_header(headers, AUTHORIZATION, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_never_lose_tls_and_urls_show_no_secret() {
        let from: Uri = "https://r.example/v2/a?x=1".parse().unwrap();
        let to = |location: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(LOCATION, location.parse().unwrap());
            redirected(&from, &headers)
        };
        assert_eq!(to("/other?q=2").unwrap().to_string(), "https://r.example/other?q=2");
        let signed = to("https://cdn.example/blob?signature=s3cret").unwrap();
        assert!(!same_origin(&from, &signed));
        assert_eq!(shown(&signed), "https://cdn.example/blob");
        assert!(to("http://cdn.example/blob").is_err());
        assert!(redirected(&from, &HeaderMap::new()).is_err());
    }
}
