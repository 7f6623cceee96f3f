//! Service-account tokens for projected volumes, requested for the pod and renewed in time.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection};
use kube::api::PostParams;
use kube::{Api, Client};

const DEFAULT_EXPIRATION: i64 = 3600;
/// A token older than this is renewed whatever its life.
const MAX_AGE: i64 = 24 * 3600;

/// How long the API server may take: containers wait for the answer to be started again.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause after a renewal that failed; it doubles up to the last one.
const FIRST_RETRY: Duration = Duration::from_secs(5);
const LAST_RETRY: Duration = Duration::from_mins(2);

/// What tells two tokens of a pod apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct TokenKey {
    audience: Option<String>,
    expiration: i64,
}

impl TokenKey {
    pub(super) fn of(source: &ServiceAccountTokenProjection) -> Self {
        Self {
            audience: source.audience.clone().filter(|a| !a.is_empty()),
            expiration: source.expiration_seconds.unwrap_or(DEFAULT_EXPIRATION),
        }
    }
}

#[derive(Clone)]
struct Token {
    text: String,
    renew_at: Timestamp,
    expires: Timestamp,
    /// Before the next try, should a renewal fail.
    pause: Duration,
}

impl Token {
    /// All pods fail together when the API server is away: they must not come back together.
    fn postpone(&mut self, now: Timestamp) {
        let pause = self.pause.mul_f64(rand::random_range(0.75..1.25));
        self.renew_at = now.checked_add(pause).unwrap_or(now);
        self.pause = (self.pause * 2).min(LAST_RETRY);
    }
}

/// The tokens of one pod, in memory only.
#[derive(Clone, Default)]
pub(crate) struct Tokens {
    held: HashMap<TokenKey, Token>,
    failed: HashMap<TokenKey, String>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.held.keys()).finish()
    }
}

impl Tokens {
    pub(super) fn get(&self, key: &TokenKey) -> Result<&str, String> {
        // An old token is good until it expires.
        if let Some(token) = self.held.get(key).filter(|t| Timestamp::now() < t.expires) {
            return Ok(&token.text);
        }
        Err(match self.failed.get(key) {
            Some(reason) => format!("failed to fetch token: {reason}"),
            None => "failed to fetch token: there is no API server to ask".to_owned(),
        })
    }

    /// Asks for the tokens that the pod's volumes want and that are absent or due.
    /// True when there are new ones.
    pub(crate) async fn refresh(&mut self, client: Option<&Client>, pod: &Pod) -> bool {
        let Some(client) = client else { return false };
        let now = Timestamp::now();
        let mut renewed = false;
        for key in wanted(pod) {
            if self.held.get(&key).is_some_and(|t| now < t.renew_at) {
                continue;
            }
            let answer = tokio::time::timeout(PATIENCE, request(client, pod, &key)).await;
            let answer = match answer {
                Ok(answer) => answer.map_err(|e| e.to_string()),
                Err(_) => Err(format!("the API server did not answer within {} s", PATIENCE.as_secs())),
            };
            match answer {
                Ok((text, expires)) => {
                    self.failed.remove(&key);
                    let renew_at = renewal(now, expires);
                    self.held.insert(key, Token { text, renew_at, expires, pause: FIRST_RETRY });
                    renewed = true;
                }
                Err(error) => {
                    // Without a token the volume is not made, and that is tried again at the worker's own pace.
                    if let Some(token) = self.held.get_mut(&key) {
                        let name = pod.metadata.name.as_deref().unwrap_or_default();
                        tracing::warn!(pod = name, error, "cannot renew a service account token yet");
                        token.postpone(Timestamp::now());
                    }
                    self.failed.insert(key, error);
                }
            }
        }
        renewed
    }

    /// How long until a token is due.
    pub(crate) fn next_renewal(&self, now: Timestamp) -> Option<Duration> {
        let soonest = self.held.values().map(|t| t.renew_at).min()?;
        Some(soonest.duration_since(now).max(jiff::SignedDuration::ZERO).unsigned_abs())
    }
}

/// At 80% of its life, and after a day at the latest.
fn renewal(now: Timestamp, expires: Timestamp) -> Timestamp {
    let life = expires.duration_since(now).as_secs();
    let after = (life * 4 / 5).clamp(1, MAX_AGE);
    now.saturating_add(jiff::SignedDuration::from_secs(after)).unwrap_or(expires)
}

fn wanted(pod: &Pod) -> Vec<TokenKey> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    let sources = volumes.filter_map(|v| v.projected.as_ref()?.sources.as_ref()).flatten();
    let tokens = sources.filter_map(|s| s.service_account_token.as_ref());
    tokens.map(TokenKey::of).collect()
}

async fn request(client: &Client, pod: &Pod, key: &TokenKey) -> Result<(String, Timestamp), kube::Error> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let account = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref());
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let body = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: Some(key.audience.iter().cloned().collect()),
            expiration_seconds: Some(key.expiration),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
        }),
        ..TokenRequest::default()
    };
    let account = account.filter(|a| !a.is_empty()).unwrap_or("default");
    let answer = api.create_token_request(account, &PostParams::default(), &body).await?;
    let status = answer.status.unwrap_or_default();
    let expires = status.expiration_timestamp.map_or_else(Timestamp::now, |t| t.0);
    Ok((status.token.unwrap_or_default(), expires))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewed_at_four_fifths_or_a_day() {
        let at = |s| Timestamp::from_second(s).expect("a time");
        assert_eq!(renewal(at(0), at(3600)), at(2880));
        assert_eq!(renewal(at(0), at(400_000)), at(MAX_AGE));
    }

    #[tokio::test]
    async fn a_renewal_that_fails_is_put_off_and_the_old_token_stays() {
        // Nobody listens on a port that was just given back.
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
        let _ = rustls::crypto::ring::default_provider().install_default();
        let server = format!("http://{free}").parse().expect("a URI");
        let client = Client::try_from(kube::Config::new(server)).expect("a client");
        let pod: Pod = serde_json::from_value(serde_json::json!({"metadata": {"name": "p", "namespace": "n"},
            "spec": {"containers": [], "volumes": [{"name": "t", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token"}}]}}]}}))
        .expect("a pod");
        let key = wanted(&pod).remove(0);
        let now = Timestamp::now();
        let expires = now + jiff::SignedDuration::from_hours(1);
        let due = Token { text: "old".to_owned(), renew_at: now, expires, pause: FIRST_RETRY };
        let mut tokens = Tokens::default();
        tokens.held.insert(key.clone(), due);
        assert!(!tokens.refresh(Some(&client), &pod).await);
        assert_eq!(tokens.get(&key), Ok("old"));
        assert!(tokens.next_renewal(now) > Some(FIRST_RETRY / 2));
        assert_eq!(tokens.held[&key].pause, FIRST_RETRY * 2);
    }
}
