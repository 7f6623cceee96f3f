//! Proving who one is: the challenge of a 401 answer (RFC 9110, section 11.6.1), and bearer tokens from the realm it
//! names (distribution's token authentication, and its OAuth2 variant for identity tokens).

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use http::{Method, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::super::credentials::{Credentials, Login, Secret};
use super::super::error::Attempt;
use super::hosts::Endpoint;
use super::transport::{Call, Transport, authorize, shown};

const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const CLIENT_ID: &str = "orlop";

/// What a registry asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: String, scope: String },
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

/// The strongest challenge of an answer that is understood.
pub(super) fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let offered: Vec<Challenge> =
        headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok()).flat_map(parse).collect();
    let bearer = offered.iter().find(|c| matches!(c, Challenge::Bearer { .. }));
    bearer.or(offered.first()).cloned()
}

/// The value of the Authorization header that answers a challenge.
pub(super) async fn answer(
    transport: &Transport,
    endpoint: &Endpoint,
    challenge: Challenge,
    fallback_scope: &str,
    credentials: Option<&Credentials>,
) -> Result<Secret, Attempt> {
    let here = |reason: &str| Attempt { url: endpoint.origin.clone(), status: Some(401), reason: reason.to_owned() };
    match challenge {
        Challenge::Basic => credentials
            .and_then(Credentials::basic)
            .ok_or_else(|| here("401 Unauthorized: it wants a user and a password, and none were given for it")),
        Challenge::Bearer { realm, service, scope } => {
            let realm: Uri = realm.parse().map_err(|_| here("401 Unauthorized: its token realm is no URL"))?;
            let plain = realm.scheme_str() == Some("http");
            if realm.authority().is_none() || (plain && endpoint.origin.starts_with("https:")) {
                return Err(here("401 Unauthorized: its token realm is not https"));
            }
            let scope = if scope.is_empty() { fallback_scope.to_owned() } else { scope };
            token(transport, endpoint, &realm, &service, &scope, credentials).await
        }
    }
}

async fn token(
    transport: &Transport,
    endpoint: &Endpoint,
    realm: &Uri,
    service: &str,
    scope: &str,
    credentials: Option<&Credentials>,
) -> Result<Secret, Attempt> {
    let failed = |reason: &str| Attempt { url: shown(realm), status: None, reason: reason.to_owned() };
    let encode = |text: &str| utf8_percent_encode(text, QUERY).to_string();
    // The realm is a host of its own: neither the endpoint's headers nor its TLS settings are for it.
    let realm_endpoint = if realm.authority().is_some_and(|a| a.as_str() == endpoint.host) {
        endpoint.clone()
    } else {
        Endpoint { tls: super::hosts::TlsSettings::default(), ..endpoint.clone() }
    };
    let mut call = Call {
        endpoint: &realm_endpoint,
        method: Method::GET,
        uri: realm.clone(),
        headers: HeaderMap::new(),
        private: HeaderMap::new(),
        body: Bytes::new(),
    };
    let query = format!("service={}&scope={}", encode(service), encode(scope));
    match credentials.map(|c| (c, &c.login)) {
        Some((_, Login::IdentityToken(refresh))) => {
            let body = format!(
                "grant_type=refresh_token&client_id={CLIENT_ID}&{query}&refresh_token={}",
                encode(refresh.reveal())
            );
            call.method = Method::POST;
            call.body = Bytes::from(body);
            call.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        }
        other => {
            let joint = if realm.query().is_some() { '&' } else { '?' };
            call.uri = format!("{realm}{joint}{query}").parse().map_err(|_| failed("the token realm is no URL"))?;
            if let Some(basic) = other.and_then(|(credentials, _)| credentials.basic()) {
                authorize(&mut call.private, basic.reveal()).map_err(failed)?;
            }
        }
    }
    let answer = transport.send(call).await?;
    if !answer.status().is_success() {
        return Err(transport.refusal(realm, answer).await);
    }
    let body = transport.document(realm, answer).await?;
    let parsed: TokenAnswer = serde_json::from_slice(&body).map_err(|_| failed("the token answer is malformed"))?;
    let token = parsed.token.or(parsed.access_token).filter(|token| !token.is_empty());
    token.map(|token| Secret::new(format!("Bearer {token}"))).ok_or_else(|| failed("the token answer has no token"))
}

/// The Authorization to begin with, before any challenge.
pub(super) fn initial(credentials: Option<&Credentials>) -> Option<Secret> {
    match credentials.map(|c| &c.login) {
        Some(Login::RegistryToken(token)) => Some(Secret::new(format!("Bearer {}", token.reveal()))),
        _ => None,
    }
}

/// Reads one WWW-Authenticate value, which may hold several challenges.
fn parse(value: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut rest = value.trim();
    while !rest.is_empty() {
        let (scheme, after) = rest.split_once(' ').unwrap_or((rest, ""));
        let (parameters, after) = parameters(after);
        rest = after;
        let get = |name: &str| parameters.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.clone());
        if scheme.eq_ignore_ascii_case("basic") {
            found.push(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = get("realm")
        {
            let (service, scope) = (get("service").unwrap_or_default(), get("scope").unwrap_or_default());
            found.push(Challenge::Bearer { realm, service, scope });
        }
    }
    found
}

/// Reads `name=value` and `name="value"` pairs up to the next scheme.
fn parameters(mut text: &str) -> (Vec<(String, String)>, &str) {
    let mut pairs = Vec::new();
    loop {
        text = text.trim_start_matches([' ', ',', '\t']);
        let Some(equals) = text.find('=') else { return (pairs, if text.contains(' ') { text } else { "" }) };
        let name = text[..equals].trim_end();
        if name.contains([' ', ',']) {
            return (pairs, text);
        }
        let value = &text[equals + 1..];
        let (value, after) = if let Some(quoted) = value.strip_prefix('"') {
            unquote(quoted)
        } else {
            let (value, after) = value.split_at(value.find([',', ' ']).unwrap_or(value.len()));
            (value.to_owned(), after)
        };
        pairs.push((name.to_owned(), value));
        text = after;
    }
}

fn unquote(text: &str) -> (String, &str) {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (out, &text[at + 1..]),
            '\\' => out.extend(chars.next().map(|(_, c)| c)),
            c => out.push(c),
        }
    }
    (out, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let bearer = Challenge::Bearer {
            realm: "https://auth.example/token?a=b".to_owned(),
            service: "r.example".to_owned(),
            scope: "repository:a/b:pull,push".to_owned(),
        };
        let text =
            r#"Bearer realm="https://auth.example/token?a=b",service="r.example", scope="repository:a/b:pull,push""#;
        assert_eq!(parse(text), std::slice::from_ref(&bearer));
        assert_eq!(parse(&format!("Basic realm=\"x\", {text}")), [Challenge::Basic, bearer.clone()]);
        assert_eq!(parse("basic"), [Challenge::Basic]);
        assert!(
            parse("Negotiate").is_empty() && parse("").is_empty() && parse("Bearer service=\"no realm\"").is_empty()
        );
        let mut headers = HeaderMap::new();
        headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"x\""));
        headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(text).unwrap());
        assert_eq!(challenge(&headers), Some(bearer));
    }
}
