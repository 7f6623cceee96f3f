//! Images: pull policy, registry credentials, and the texts users know for what goes wrong.

mod credentials;

use std::time::Instant;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use orlop_proto::v1;

use crate::backoff::{Backoff, go_seconds};
use crate::cri::{Cri, CriError};
use crate::events::{Recorder, container_reference};
use crate::objects::Snapshot;

pub(crate) use credentials::pull_secrets_missing;

/// Why a container waits for its image: the reason and message of its waiting state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub(crate) struct ImageError {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// The pull back-off of one pod's images: since when each fails, and how.
#[derive(Debug, Default)]
pub(crate) struct PullBackoff {
    delays: Backoff<String>,
    failures: std::collections::HashMap<String, (Timestamp, String)>,
}

impl PullBackoff {
    fn waiting(&self, image: &str, now: Timestamp) -> Option<(std::time::Duration, String)> {
        let (failed, message) = self.failures.get(image)?;
        let wait = self.delays.waiting(&image.to_owned(), *failed, now)?;
        Some((wait.left, message.clone()))
    }

    fn failed(&mut self, image: &str, message: String, now: Timestamp) {
        self.delays.raise(image.to_owned(), now, now);
        self.failures.insert(image.to_owned(), (now, message));
    }

    /// When the soonest failing image may be tried again.
    pub(crate) fn next_try(&self, now: Timestamp) -> Option<std::time::Duration> {
        let waits = self.failures.keys().filter_map(|image| self.waiting(image, now));
        waits.map(|(left, _)| left).min()
    }
}

/// The policy that applies: the container's own, else by the tag.
pub(crate) fn policy(container: &Container) -> &str {
    match container.image_pull_policy.as_deref() {
        Some(policy) if !policy.is_empty() => policy,
        _ if is_latest(container.image.as_deref().unwrap_or_default()) => "Always",
        _ => "IfNotPresent",
    }
}

fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let name = image.rsplit('/').next().unwrap_or(image);
    name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

/// Whether the text can be an image reference at all (distribution's grammar, in short).
fn is_reference(image: &str) -> bool {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let digest_ok = digest.is_none_or(|d| {
        d.split_once(':').is_some_and(|(_, hex)| hex.len() >= 32 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
    });
    let after_host = name.rfind('/').map_or(0, |i| i + 1);
    let (path, tag) = match name[after_host..].rfind(':') {
        Some(i) => (&name[..after_host + i], Some(&name[after_host + i + 1..])),
        None => (name, None),
    };
    let tag_ok = tag.is_none_or(|t| {
        let mut bytes = t.bytes();
        let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
        first && t.len() <= 128 && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
    });
    let mut parts = path.split('/').collect::<Vec<_>>();
    let is_host = |part: &str| part.contains(['.', ':']) || part == "localhost";
    if parts.len() > 1 && is_host(parts[0]) {
        let host = parts.remove(0);
        if !host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b)) {
            return false;
        }
    }
    let part_ok = |part: &str| {
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        edge(part.bytes().next())
            && edge(part.bytes().last())
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
    };
    digest_ok && tag_ok && parts.iter().all(|p| part_ok(p))
}

/// What a pull needs to know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) container: &'a Container,
    pub(crate) sandbox: &'a v1::PodSandboxConfig,
    pub(crate) objects: &'a Snapshot,
}

/// Makes sure that the container's image is present and returns it.
///
/// # Errors
/// The waiting reason for the container, after the events were recorded.
pub(crate) async fn ensure(
    cri: &Cri,
    events: &Recorder,
    backoff: &mut PullBackoff,
    request: Request<'_>,
) -> Result<v1::Image, ImageError> {
    let image = request.container.image.as_deref().unwrap_or_default();
    let reference = || container_reference(request.pod, &request.container.name);
    let fail = |reason, message: String| ImageError { reason, message };
    if !is_reference(image) {
        let message = format!(
            "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": invalid reference format"
        );
        events.warning(reference(), "InspectFailed", message.clone());
        return Err(fail("InvalidImageName", message));
    }
    let present = match inspect(cri, image).await {
        Ok(present) => present,
        Err(e) => {
            let message = format!("Failed to inspect image \"{image}\": {e}");
            events.warning(reference(), "InspectFailed", message.clone());
            return Err(fail("ImageInspectError", message));
        }
    };
    match (policy(request.container), present) {
        ("Never", None) => {
            let message = format!("Container image \"{image}\" is not present with pull policy of Never");
            events.warning(reference(), "ErrImageNeverPull", message.clone());
            return Err(fail("ErrImageNeverPull", message));
        }
        ("Never" | "IfNotPresent", Some(found)) => {
            let text = format!("Container image \"{image}\" already present on machine and can be accessed by the pod");
            events.normal(reference(), "Pulled", text);
            return Ok(found);
        }
        _ => {}
    }
    if let Some((_, previous)) = backoff.waiting(image, Timestamp::now()) {
        let message = format!("Back-off pulling image \"{image}\"");
        events.normal(reference(), "BackOff", message.clone());
        return Err(fail("ImagePullBackOff", format!("{message}: {previous}")));
    }
    pull(cri, events, backoff, request, image).await
}

async fn pull(
    cri: &Cri,
    events: &Recorder,
    backoff: &mut PullBackoff,
    request: Request<'_>,
    image: &str,
) -> Result<v1::Image, ImageError> {
    let reference = || container_reference(request.pod, &request.container.name);
    events.normal(reference(), "Pulling", format!("Pulling image \"{image}\""));
    let began = Instant::now();
    match pull_and_inspect(cri, request, image).await {
        Ok(found) => {
            let took = go_fraction(began.elapsed());
            let text = format!(
                "Successfully pulled image \"{image}\" in {took} ({took} including waiting). Image size: {} bytes.",
                found.size
            );
            events.normal(reference(), "Pulled", text);
            Ok(found)
        }
        Err(message) => {
            let text = format!("Failed to pull image \"{image}\": {message}");
            events.warning(reference(), "Failed", text);
            events.warning(reference(), "Failed", "Error: ErrImagePull");
            let failure = format!("ErrImagePull: {message}");
            backoff.failed(image, failure, Timestamp::now());
            Err(ImageError { reason: "ErrImagePull", message })
        }
    }
}

async fn pull_and_inspect(cri: &Cri, request: Request<'_>, image: &str) -> Result<v1::Image, String> {
    let mut attempts = credentials::for_image(request.pod, request.objects, image);
    if attempts.is_empty() {
        attempts.push(v1::AuthConfig::default());
    }
    let mut last = String::new();
    for auth in attempts {
        let anonymous = auth == v1::AuthConfig::default();
        let pulled = cri
            .pull_image(v1::PullImageRequest {
                image: Some(spec(image)),
                auth: (!anonymous).then_some(auth),
                sandbox_config: Some(request.sandbox.clone()),
            })
            .await;
        match pulled {
            Ok(_) => {
                let found = inspect(cri, image).await.map_err(|e| e.to_string())?;
                return found.ok_or_else(|| format!("image \"{image}\" is absent after its pull"));
            }
            Err(e) => last = e.to_string(),
        }
    }
    Err(last)
}

fn spec(image: &str) -> v1::ImageSpec {
    v1::ImageSpec { image: image.to_owned(), ..v1::ImageSpec::default() }
}

async fn inspect(cri: &Cri, image: &str) -> Result<Option<v1::Image>, CriError> {
    let request = v1::ImageStatusRequest { image: Some(spec(image)), verbose: false };
    Ok(cri.image_status(request).await?.image)
}

/// A duration as Go prints it, to milliseconds.
fn go_fraction(duration: std::time::Duration) -> String {
    let millis = duration.as_millis();
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let seconds = duration.as_secs();
    let minutes = go_seconds(std::time::Duration::from_secs(seconds));
    let fraction = format!("{:03}", millis % 1000);
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() {
        return minutes;
    }
    format!("{}.{fraction}s", minutes.trim_end_matches('s'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_policy_follows_the_tag() {
        let policy_of = |image: &str| {
            let container = Container { image: Some(image.to_owned()), ..Container::default() };
            policy(&container).to_owned()
        };
        assert_eq!(policy_of("busybox"), "Always");
        assert_eq!(policy_of("host:5000/busybox"), "Always");
        assert_eq!(policy_of("busybox:latest"), "Always");
        assert_eq!(policy_of("host:5000/busybox:1"), "IfNotPresent");
        assert_eq!(policy_of("busybox@sha256:00"), "IfNotPresent");
    }

    #[test]
    fn references() {
        let digest = format!("a@sha256:{}", "0".repeat(64));
        for good in ["busybox", "a/b_c:1.2-x", "localhost:5000/x/y", "127.0.0.1:5000/x:tag", &digest] {
            assert!(is_reference(good), "{good}");
        }
        for bad in ["", "UPPER", "a b", "a:", "a//b", "-a", "a@sha256:0", "host.io/", "x:-t"] {
            assert!(!is_reference(bad), "{bad}");
        }
    }

    #[test]
    fn pull_backoff_tells_the_last_failure() {
        let mut backoff = PullBackoff::default();
        let at = |s| Timestamp::from_second(s).expect("a time");
        assert_eq!(backoff.waiting("x", at(0)), None);
        backoff.failed("x", "ErrImagePull: no".to_owned(), at(0));
        let (left, message) = backoff.waiting("x", at(4)).expect("a wait");
        assert_eq!((left.as_secs(), message.as_str()), (6, "ErrImagePull: no"));
        assert_eq!(backoff.next_try(at(4)).map(|d| d.as_secs()), Some(6));
        assert_eq!(backoff.waiting("x", at(10)), None);
    }

    #[test]
    fn durations() {
        let text = |ms| go_fraction(std::time::Duration::from_millis(ms));
        assert_eq!([text(12), text(1200), text(61_030)], ["12ms", "1.2s", "1m1.03s"]);
    }
}
