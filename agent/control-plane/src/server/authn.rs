//! Who makes a request: a client certificate of our CA, or a service-account token.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use rustls_pki_types::CertificateDer;
use serde_json::Value;

use super::Api;
use crate::registry::resource::{PODS, SERVICE_ACCOUNTS};
use crate::registry::uid_of;
use crate::status::Status;
use crate::tokens::ISSUER;
use crate::user::User;

const AUTHENTICATED: &str = "system:authenticated";

/// The user that a verified certificate names.
pub(super) fn certificate_user(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned)).collect();
    groups.push(AUTHENTICATED.to_owned());
    Some(User { name, groups, ..User::default() })
}

/// The user of a request; nobody gets in without being one.
pub(super) fn authenticate(api: &Api, certified: Option<User>, headers: &HeaderMap) -> Result<User, Status> {
    if let Some(user) = certified {
        return Ok(user);
    }
    let header = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let token = header.strip_prefix("Bearer ").map(str::trim).filter(|token| !token.is_empty());
    let token = token.ok_or_else(Status::unauthorized)?;
    let (user, _) = token_user(api, token, &[ISSUER.to_owned()]).map_err(|reason| {
        tracing::debug!(reason, "a bearer token was refused");
        Status::unauthorized()
    })?;
    Ok(user)
}

/// The user of a token for one of `audiences`, and its claims. The account, and the pod if the token is bound to
/// one, must still be the same.
pub(super) fn token_user(api: &Api, token: &str, audiences: &[String]) -> Result<(User, Value), &'static str> {
    let claims = api.signer.verify(token, audiences)?;
    let bound = &claims["kubernetes.io"];
    let namespace = bound["namespace"].as_str().ok_or("no namespace")?;
    let account = bound["serviceaccount"]["name"].as_str().ok_or("no service account")?;
    let found = api.registry.get(&SERVICE_ACCOUNTS, namespace, account).map_err(|_| "the account is gone")?;
    if bound["serviceaccount"]["uid"] != *uid_of(&found) {
        return Err("the account is another one");
    }
    let mut user = User {
        name: format!("system:serviceaccount:{namespace}:{account}"),
        uid: uid_of(&found).to_owned(),
        groups: vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
            AUTHENTICATED.to_owned(),
        ],
        ..User::default()
    };
    if let Some(pod) = bound["pod"]["name"].as_str() {
        let found = api.registry.get(&PODS, namespace, pod).map_err(|_| "the pod is gone")?;
        if bound["pod"]["uid"] != *uid_of(&found) {
            return Err("the pod is another one");
        }
        for (key, value) in [("pod-name", pod), ("pod-uid", uid_of(&found))] {
            user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        }
    }
    Ok((user, claims))
}

/// Acts as another user (`kubectl --as`), which only `system:masters` may.
pub(super) fn impersonate(user: User, headers: &HeaderMap) -> Result<User, Status> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let Some(name) = text("impersonate-user") else {
        let partial = headers.keys().any(|name| name.as_str().starts_with("impersonate-"));
        return if partial {
            Err(Status::bad_request("requested impersonation without impersonating a user"))
        } else {
            Ok(user)
        };
    };
    if !user.in_group("system:masters") {
        let why = format!(
            "User {:?} cannot impersonate resource \"users\" in API group \"\" at the cluster scope",
            user.name
        );
        return Err(Status::forbidden("", "users", name, &why));
    }
    let mut groups: Vec<String> =
        headers.get_all("impersonate-group").iter().filter_map(|v| v.to_str().ok().map(str::to_owned)).collect();
    if let Some((namespace, _)) = name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'))
        && groups.is_empty()
    {
        groups = vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
    }
    groups.push(AUTHENTICATED.to_owned());
    let uid = text("impersonate-uid").unwrap_or_default().to_owned();
    Ok(User { name: name.to_owned(), uid, groups, ..User::default() })
}
