//! The client of a registry (OCI distribution spec 1.1, and Docker's v2 before it), as one pull uses it.

mod auth;
mod hosts;
mod tls;
mod transport;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE};
use http::{HeaderName, Method, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::credentials::{Credentials, Secret};
use super::digest::Digest;
use super::error::{Attempt, Error, chain};
use super::feed::Feed;
use super::manifest::{DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, OCI_INDEX, OCI_MANIFEST, media_type};
use super::reference::Reference;
use super::settings::Limits;
pub(crate) use hosts::{Endpoint, endpoints};
pub(crate) use transport::Transport;
use transport::{Call, authorize, secret_header, shown};

const DIGEST_HEADER: &str = "docker-content-digest";
const RESUME_PAUSE: Duration = Duration::from_millis(500);

/// One pull's view of a registry: its endpoints, what proves who we are, and where it worked last.
pub(crate) struct Session<'a> {
    transport: &'a Transport,
    limits: &'a Limits,
    reference: &'a Reference,
    endpoints: Vec<Door>,
    /// The endpoint that answered last is asked first.
    preferred: AtomicUsize,
}

/// An endpoint, with the credentials that are for it and the authorization it accepted.
struct Door {
    endpoint: Endpoint,
    credentials: Option<Credentials>,
    authorization: tokio::sync::Mutex<Option<Secret>>,
}

/// Why a download stopped.
enum Stop {
    /// Nobody reads any more.
    Unwanted,
    Broken(Attempt),
}

impl<'a> Session<'a> {
    pub(crate) fn new(
        transport: &'a Transport,
        hosts_dir: Option<&Path>,
        limits: &'a Limits,
        reference: &'a Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Session<'a>, Error> {
        let door = |endpoint: Endpoint| {
            let own = credentials.filter(|c| c.are_for(&endpoint.host, reference.registry())).cloned();
            let authorization = tokio::sync::Mutex::new(auth::initial(own.as_ref()));
            Door { endpoint, credentials: own, authorization }
        };
        let endpoints = endpoints(hosts_dir, reference)?.into_iter().map(door).collect();
        Ok(Session { transport, limits, reference, endpoints, preferred: AtomicUsize::new(0) })
    }

    /// Asks which digest a tag or a digest has, without fetching it. None: the registry does not say.
    pub(crate) async fn resolve(&self, selector: &str) -> Result<Option<Digest>, Error> {
        let path = &format!("manifests/{selector}");
        let tag = !selector.contains(':');
        let answered = self.each(path, tag, |door| async move {
            let (_, answer) = self.ask(door, Method::HEAD, path, &manifest_headers()).await?;
            Ok(answer.headers().get(DIGEST_HEADER).and_then(|v| v.to_str().ok()).and_then(|text| text.parse().ok()))
        });
        answered.await
    }

    /// Fetches a manifest or an index by tag or digest, and describes it as what it is.
    pub(crate) async fn manifest(&self, selector: &str) -> Result<(Descriptor, Bytes), Error> {
        let path = &format!("manifests/{selector}");
        let tag = !selector.contains(':');
        let answered = self.each(path, tag, |door| async move {
            let (uri, answer) = self.ask(door, Method::GET, path, &manifest_headers()).await?;
            let said = answer.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
            let content = self.transport.document(&uri, answer).await?;
            let descriptor = Descriptor::new(&media_type(&said, &content), &content);
            if !tag && descriptor.digest.to_string() != selector {
                let reason = format!("the content is corrupt: its digest is {}", descriptor.digest);
                return Err(Attempt { url: shown(&uri), status: None, reason });
            }
            Ok((descriptor, content))
        });
        answered.await
    }

    /// Fetches a small blob whole.
    pub(crate) async fn document(&self, blob: &Descriptor) -> Result<Bytes, Error> {
        let path = &format!("blobs/{}", blob.digest);
        let answered = self.each(path, false, |door| async move {
            let (uri, answer) = self.ask(door, Method::GET, path, &HeaderMap::new()).await?;
            let content = self.transport.document(&uri, answer).await?;
            match blob.verify("the blob", &content) {
                Ok(()) => Ok(content),
                Err(error) => Err(Attempt { url: shown(&uri), status: None, reason: error.to_string() }),
            }
        });
        answered.await
    }

    /// Streams a blob. A broken download goes on from its last byte, at the same endpoint and then at the next.
    pub(crate) async fn blob(&self, blob: &Descriptor, feed: &Feed) -> Result<(), Error> {
        let path = format!("blobs/{}", blob.digest);
        let (mut offset, mut resumes, mut attempts) = (0, 0, Vec::new());
        for at in self.order(false) {
            loop {
                let before = offset;
                match self.stream(&self.endpoints[at], &path, blob.size, &mut offset, feed).await {
                    Ok(()) => return Ok(()),
                    Err(Stop::Unwanted) => return Err(Error::Cancelled),
                    Err(Stop::Broken(attempt)) if offset > before && resumes < self.limits.resumes => {
                        resumes += 1;
                        tracing::info!(%attempt, offset, "a download broke; going on from its last byte");
                        tokio::time::sleep(RESUME_PAUSE).await;
                    }
                    Err(Stop::Broken(attempt)) => {
                        attempts.push(attempt);
                        break;
                    }
                }
            }
        }
        Err(self.failure(&path, attempts))
    }

    async fn stream(&self, door: &Door, path: &str, size: u64, offset: &mut u64, feed: &Feed) -> Result<(), Stop> {
        let mut headers = HeaderMap::new();
        if *offset > 0
            && let Ok(value) = HeaderValue::from_str(&format!("bytes={offset}-"))
        {
            headers.insert(RANGE, value);
        }
        let (uri, answer) = self.ask(door, Method::GET, path, &headers).await.map_err(Stop::Broken)?;
        let broken = |reason: String| Stop::Broken(Attempt { url: shown(&uri), status: None, reason });
        // A registry without ranges begins anew; what is here already is skipped.
        let mut skip = if answer.status() == StatusCode::PARTIAL_CONTENT { 0 } else { *offset };
        if skip == 0 && *offset > 0 && !starts_at(answer.headers(), *offset) {
            return Err(broken("it resumed at another byte than asked".to_owned()));
        }
        let mut body = answer.into_body();
        let mut pace = Pace::new(self.limits);
        loop {
            let frame = match pace.wait(body.frame()).await.map_err(broken)? {
                None if *offset == size && skip == 0 => return Ok(()),
                None => return Err(broken(format!("it ended after {offset} of {size} bytes"))),
                Some(frame) => frame.map_err(|error| broken(chain(&error)))?,
            };
            let Ok(mut data) = frame.into_data() else { continue };
            pace.got(data.len());
            let skipped = data.len().min(usize::try_from(skip).unwrap_or(usize::MAX));
            skip -= skipped as u64;
            let data = data.split_off(skipped);
            *offset += data.len() as u64;
            if *offset > size {
                return Err(broken(format!("it sends more than the {size} bytes of the descriptor")));
            }
            if !feed.push(data).await {
                return Err(Stop::Unwanted);
            }
        }
    }

    /// Asks the endpoints in turn until one succeeds.
    async fn each<'s, T, F>(&'s self, path: &str, resolve: bool, ask: impl Fn(&'s Door) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Attempt>>,
    {
        let mut attempts = Vec::new();
        for at in self.order(resolve) {
            match ask(&self.endpoints[at]).await {
                Ok(value) => {
                    self.preferred.store(at, Ordering::Relaxed);
                    return Ok(value);
                }
                Err(attempt) => {
                    tracing::debug!(%attempt, "a registry endpoint did not serve");
                    attempts.push(attempt);
                }
            }
        }
        Err(self.failure(path, attempts))
    }

    /// The endpoints that may be asked, the one that worked last first.
    fn order(&self, resolve: bool) -> Vec<usize> {
        let preferred = self.preferred.load(Ordering::Relaxed);
        let able = |at: &usize| {
            let endpoint = &self.endpoints[*at].endpoint;
            if resolve { endpoint.resolve } else { endpoint.pull }
        };
        let mut order: Vec<usize> = (0..self.endpoints.len()).filter(able).collect();
        order.sort_by_key(|at| *at != preferred);
        order
    }

    /// One request below the repository, with authentication as the endpoint asks for it. Success is a 2xx status.
    async fn ask(
        &self,
        door: &Door,
        method: Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<(Uri, Response<Incoming>), Attempt> {
        let endpoint = &door.endpoint;
        let repository = self.reference.repository();
        let namespace = if endpoint.mirror { format!("?ns={}", self.reference.registry()) } else { String::new() };
        let url = format!("{}{}/{repository}/{path}{namespace}", endpoint.origin, endpoint.prefix);
        let failed = |reason: String| Attempt { url: url.clone(), status: None, reason };
        let uri: Uri = url.parse().map_err(|error: http::uri::InvalidUri| failed(error.to_string()))?;
        let mut used = door.authorization.lock().await.clone();
        for last in [false, true] {
            let private = private_headers(endpoint, used.as_ref()).map_err(failed)?;
            let call = Call {
                endpoint,
                method: method.clone(),
                uri: uri.clone(),
                headers: headers.clone(),
                private,
                body: Bytes::new(),
            };
            let answer = self.transport.send(call).await?;
            if answer.status().is_success() {
                return Ok((uri, answer));
            }
            match auth::challenge(answer.headers()) {
                Some(challenge) if answer.status() == StatusCode::UNAUTHORIZED && !last => {
                    used = Some(self.authenticate(door, challenge, used).await?);
                }
                _ => return Err(self.transport.refusal(&uri, answer).await),
            }
        }
        Err(failed("401 Unauthorized".to_owned()))
    }

    /// Answers a challenge once for all requests that meet it at the same time.
    async fn authenticate(
        &self,
        door: &Door,
        challenge: auth::Challenge,
        used: Option<Secret>,
    ) -> Result<Secret, Attempt> {
        let mut held = door.authorization.lock().await;
        if let Some(newer) = held.as_ref().filter(|value| Some(*value) != used.as_ref()) {
            return Ok(newer.clone());
        }
        let scope = format!("repository:{}:pull", self.reference.repository());
        let value = auth::answer(self.transport, &door.endpoint, challenge, &scope, door.credentials.as_ref()).await?;
        *held = Some(value.clone());
        Ok(value)
    }

    /// The error of a request that no endpoint served. The last endpoint, the origin, decides what kind it is.
    fn failure(&self, path: &str, attempts: Vec<Attempt>) -> Error {
        let what = format!("{} ({path})", self.reference);
        match attempts.last().and_then(|attempt| attempt.status) {
            Some(404) => Error::RegistryNotFound { what, attempts },
            Some(401 | 403) => Error::Denied { what, attempts },
            _ => Error::Registry { what, attempts },
        }
    }
}

fn manifest_headers() -> HeaderMap {
    let types = [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST];
    types.into_iter().map(|media_type| (ACCEPT, HeaderValue::from_static(media_type))).collect()
}

fn private_headers(endpoint: &Endpoint, authorization: Option<&Secret>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in &endpoint.headers {
        let bad = |reason| format!("the header {name:?} of hosts.toml: {reason}");
        let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad("its name is malformed"))?;
        secret_header(&mut headers, parsed, value.reveal()).map_err(bad)?;
    }
    if let Some(value) = authorization {
        authorize(&mut headers, value.reveal()).map_err(|reason| format!("the authorization: {reason}"))?;
    }
    Ok(headers)
}

/// Whether a partial answer starts at this byte.
fn starts_at(headers: &HeaderMap, offset: u64) -> bool {
    let range = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    range.strip_prefix("bytes ").and_then(|rest| rest.split('-').next()).and_then(|start| start.parse().ok())
        == Some(offset)
}

/// Gives a download up that hardly moves. Only time spent waiting for the network counts.
struct Pace<'a> {
    limits: &'a Limits,
    waited: Duration,
    bytes: u64,
}

impl<'a> Pace<'a> {
    fn new(limits: &'a Limits) -> Pace<'a> {
        Pace { limits, waited: Duration::ZERO, bytes: 0 }
    }

    fn got(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    async fn wait<T>(&mut self, next: impl Future<Output = T>) -> Result<T, String> {
        let window = self.limits.stall_window;
        let mut next = std::pin::pin!(next);
        loop {
            let started = Instant::now();
            let result = tokio::time::timeout(window.saturating_sub(self.waited), &mut next).await;
            self.waited += started.elapsed();
            if self.waited >= window {
                if self.bytes < self.limits.stall_bytes {
                    return Err(format!("it stalled: {} bytes in {} s", self.bytes, window.as_secs()));
                }
                (self.waited, self.bytes) = (Duration::ZERO, 0);
            }
            if let Ok(value) = result {
                return Ok(value);
            }
        }
    }
}
