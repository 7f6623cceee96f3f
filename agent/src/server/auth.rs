//! Who asks, and may they?

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use http::{HeaderMap, Method, header};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::context::Context;
use crate::sync::lock;

const ALLOWED_FOR: Duration = Duration::from_mins(5);
const DENIED_FOR: Duration = Duration::from_secs(30);
const REMEMBERED: usize = 1024;

/// An authenticated user.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    pub(super) user: String,
    pub(super) groups: Vec<String>,
}

impl Identity {
    /// The common name and the organizations of a certificate that was verified.
    pub(super) fn of_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let subject = certificate.subject();
        let user = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let groups = subject.iter_organization().filter_map(|o| o.as_str().ok());
        Some(Self { user, groups: groups.map(str::to_owned).collect() })
    }
}

/// Decisions of the API server, kept for a while.
#[derive(Debug, Default)]
pub(super) struct Cache(Mutex<HashMap<Question, (bool, Instant)>>);

/// Who, verb, subresource.
type Question = (Identity, String, String);

/// The user of a bearer token, as the API server says.
pub(super) async fn by_token(ctx: &Context, headers: &HeaderMap) -> Option<Identity> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let token = value.strip_prefix("Bearer ")?.trim().to_owned();
    let review = TokenReview { spec: TokenReviewSpec { token, audiences: None }, ..TokenReview::default() };
    let api: Api<TokenReview> = Api::all(ctx.api()?.clone());
    let answer = api.create(&PostParams::default(), &review).await;
    let status = answer.inspect_err(|error| tracing::warn!(%error, "TokenReview")).ok()?.status?;
    let user = status.user.filter(|_| status.authenticated == Some(true))?;
    Some(Identity { user: user.username?, groups: user.groups.unwrap_or_default() })
}

/// The verb of a method.
pub(super) fn verb(method: &Method) -> &'static str {
    match method.as_str() {
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "get",
    }
}

/// The subresources of `nodes`, one of which must be allowed.
pub(super) fn subresources(path: &str) -> &'static [&'static str] {
    match path.split('/').nth(1).unwrap_or_default() {
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "logs" => &["log"],
        "healthz" => &["healthz", "proxy"],
        "pods" | "runningpods" => &["pods", "proxy"],
        "configz" => &["configz", "proxy"],
        _ => &["proxy"],
    }
}

/// Whether the user may do this.
pub(super) async fn allowed(ctx: &Context, cache: &Cache, who: &Identity, verb: &str, resources: &[&str]) -> bool {
    let trusted = ctx.config.trusted_users.contains(&who.user)
        || who.groups.iter().any(|g| ctx.config.trusted_groups.contains(g));
    if trusted {
        return true;
    }
    for resource in resources {
        if review(ctx, cache, who, verb, resource).await {
            return true;
        }
    }
    false
}

async fn review(ctx: &Context, cache: &Cache, who: &Identity, verb: &str, resource: &str) -> bool {
    let key = (who.clone(), verb.to_owned(), resource.to_owned());
    if let Some((allowed, until)) = lock(&cache.0).get(&key)
        && Instant::now() < *until
    {
        return *allowed;
    }
    let Some(client) = ctx.api() else { return false };
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(who.user.clone()),
            groups: Some(who.groups.clone()),
            resource_attributes: Some(ResourceAttributes {
                verb: Some(verb.to_owned()),
                version: Some("v1".to_owned()),
                resource: Some("nodes".to_owned()),
                subresource: Some(resource.to_owned()),
                name: Some(ctx.config.node_name.clone()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let api: Api<SubjectAccessReview> = Api::all(client.clone());
    let answer = match api.create(&PostParams::default(), &review).await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::warn!(%error, "SubjectAccessReview");
            return false;
        }
    };
    let allowed = answer.status.is_some_and(|s| s.allowed);
    let until = Instant::now() + if allowed { ALLOWED_FOR } else { DENIED_FOR };
    let mut decisions = lock(&cache.0);
    if decisions.len() >= REMEMBERED {
        decisions.clear();
    }
    decisions.insert(key, (allowed, until));
    allowed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_their_subresources() {
        assert_eq!(subresources("/stats/summary"), ["stats"]);
        assert_eq!(subresources("/pods"), ["pods", "proxy"]);
        assert_eq!(subresources("/exec/a/b/c"), ["proxy"]);
        assert_eq!(verb(&Method::POST), "create");
    }
}
