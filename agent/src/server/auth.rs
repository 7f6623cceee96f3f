//! Who asks, and may they?

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use http::{HeaderMap, Method, header};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::context::Context;
use crate::sync::lock;

const ALLOWED_FOR: Duration = Duration::from_mins(5);
const DENIED_FOR: Duration = Duration::from_secs(30);
const TOKEN_FOR: Duration = Duration::from_mins(2);
const REMEMBERED: usize = 1024;
/// How many questions of callers the API server gets at a time.
const QUESTIONS: usize = 8;

/// An authenticated user.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    pub(super) user: String,
    pub(super) uid: Option<String>,
    pub(super) groups: Vec<String>,
    pub(super) extra: BTreeMap<String, Vec<String>>,
}

impl Identity {
    /// The common name and the organizations of a certificate that was verified.
    pub(super) fn of_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let subject = certificate.subject();
        let user = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let groups = subject.iter_organization().filter_map(|o| o.as_str().ok());
        Some(Self { user, groups: groups.map(str::to_owned).collect(), ..Self::default() })
    }
}

/// Answers, each until its time.
#[derive(Debug)]
struct Answers<Q, A>(Mutex<HashMap<Q, (A, Instant)>>);

impl<Q: Eq + Hash, A: Clone> Answers<Q, A> {
    fn get(&self, question: &Q) -> Option<A> {
        let answers = lock(&self.0);
        answers.get(question).filter(|(_, until)| Instant::now() < *until).map(|(answer, _)| answer.clone())
    }

    fn put(&self, question: Q, answer: A, life: Duration) {
        let mut answers = lock(&self.0);
        if answers.len() >= REMEMBERED {
            answers.clear();
        }
        answers.insert(question, (answer, Instant::now() + life));
    }
}

/// What the API server said about callers, kept for a while.
#[derive(Debug)]
pub(super) struct Cache {
    decisions: Answers<Question, bool>,
    /// By the token's digest.
    tokens: Answers<[u8; 32], Option<Identity>>,
    questions: Semaphore,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            decisions: Answers(Mutex::default()),
            tokens: Answers(Mutex::default()),
            questions: Semaphore::new(QUESTIONS),
        }
    }
}

/// Who, verb, subresource.
type Question = (Identity, String, String);

/// The user of a bearer token, as the API server says.
pub(super) async fn by_token(ctx: &Context, cache: &Cache, headers: &HeaderMap) -> Option<Identity> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let token = value.strip_prefix("Bearer ")?.trim().to_owned();
    let digest = Sha256::digest(token.as_bytes()).into();
    if let Some(known) = cache.tokens.get(&digest) {
        return known;
    }
    let review = TokenReview { spec: TokenReviewSpec { token, audiences: None }, ..TokenReview::default() };
    let api: Api<TokenReview> = Api::all(ctx.api()?.clone());
    let _turn = cache.questions.acquire().await.ok()?;
    let answer = api.create(&PostParams::default(), &review).await;
    let status = answer.inspect_err(|error| tracing::warn!(%error, "TokenReview")).ok()?.status?;
    let identity = status.user.filter(|_| status.authenticated == Some(true)).and_then(|user| {
        Some(Identity {
            user: user.username?,
            uid: user.uid,
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default(),
        })
    });
    cache.tokens.put(digest, identity.clone(), TOKEN_FOR);
    identity
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
    if let Some(allowed) = cache.decisions.get(&key) {
        return allowed;
    }
    let Some(client) = ctx.api() else { return false };
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(who.user.clone()),
            uid: who.uid.clone(),
            groups: Some(who.groups.clone()),
            extra: Some(who.extra.clone()).filter(|e| !e.is_empty()),
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
    let Ok(_turn) = cache.questions.acquire().await else { return false };
    let answer = match api.create(&PostParams::default(), &review).await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::warn!(%error, "SubjectAccessReview");
            return false;
        }
    };
    let allowed = answer.status.is_some_and(|s| s.allowed);
    cache.decisions.put(key, allowed, if allowed { ALLOWED_FOR } else { DENIED_FOR });
    allowed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_their_time_and_their_number() {
        let answers = Answers(Mutex::default());
        answers.put(0, "old", Duration::ZERO);
        answers.put(1, "new", Duration::from_mins(1));
        assert_eq!((answers.get(&0), answers.get(&1), answers.get(&2)), (None, Some("new"), None));
        for question in 0..5000 {
            answers.put(question, "x", Duration::from_mins(1));
        }
        assert!(lock(&answers.0).len() <= REMEMBERED);
    }

    #[test]
    fn paths_have_their_subresources() {
        assert_eq!(subresources("/stats/summary"), ["stats"]);
        assert_eq!(subresources("/pods"), ["pods", "proxy"]);
        assert_eq!(subresources("/exec/a/b/c"), ["proxy"]);
        assert_eq!(verb(&Method::POST), "create");
    }
}
