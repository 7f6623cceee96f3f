//! `/containerLogs`: a container's log, as `kubectl logs` asks for it.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use jiff::{SignedDuration, Timestamp};
use orlop_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Body, State, routes, text};
use crate::cri::Cri;
use crate::logs::follow::{self, Options};
use crate::pods::registry::Entry;
use crate::resources::all_containers;

/// Parts of a log on their way; a slow reader holds the reading back.
const QUEUE: usize = 64;
/// How long the state of a followed container is believed.
const RECHECK: Duration = Duration::from_secs(1);

/// Whether a followed container runs, asked at most once in [`RECHECK`].
struct Liveness {
    cri: Cri,
    id: String,
    last: tokio::sync::Mutex<(tokio::time::Instant, bool)>,
}

impl Liveness {
    async fn running(self: Arc<Self>) -> bool {
        let mut last = self.last.lock().await;
        if last.0.elapsed() < RECHECK {
            return last.1;
        }
        let request = v1::ContainerStatusRequest { container_id: self.id.clone(), verbose: false };
        let running = match self.cri.container_status(request).await {
            Ok(answer) => answer.status.is_some_and(|s| s.state() == v1::ContainerState::ContainerRunning),
            // A runtime that restarts says nothing about its containers.
            Err(e) => !e.is_not_found(),
        };
        *last = (tokio::time::Instant::now(), running);
        running
    }
}

fn options(query: &[(String, String)]) -> Result<(Options, bool), String> {
    let get = |key: &str| query.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty());
    let flag = |key: &str| matches!(get(key), Some("1" | "true"));
    let number = |key: &str| get(key).map(|v| v.parse::<usize>().map_err(|e| format!("{key}: {e}"))).transpose();
    let tail = match get("tailLines").or(get("tail")) {
        None | Some("-1" | "all") => None,
        Some(text) => Some(text.parse().map_err(|e| format!("tailLines: {e}"))?),
    };
    let ago = number("sinceSeconds")?.map(|seconds| {
        // Before all time is all of the log.
        let ago = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
        Timestamp::now().checked_sub(ago).unwrap_or(Timestamp::MIN)
    });
    let at = get("sinceTime").map(|t| t.parse().map_err(|e| format!("sinceTime: {e}"))).transpose()?;
    let options = Options {
        follow: flag("follow"),
        timestamps: flag("timestamps"),
        tail_lines: tail,
        since: ago.or(at),
        limit_bytes: number("limitBytes")?,
    };
    Ok((options, flag("previous")))
}

/// Answers with the log.
pub(super) async fn answer(state: &State, entry: &Entry, name: &str, request: &Request<Incoming>) -> Response<Body> {
    let pod = entry.current();
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    let bad = |message: String| text(StatusCode::BAD_REQUEST, message);
    let (options, previous) = match options(&routes::query(request)) {
        Ok(options) => options,
        Err(message) => return bad(message),
    };
    if !pod.spec.as_ref().is_some_and(|s| all_containers(s).any(|c| c.name == name)) {
        return bad(format!("container {name} is not valid for pod {pod_name}"));
    }
    let found = match routes::containers(state, &pod, name).await {
        Ok(found) => found,
        Err(e) => return text(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
    };
    let exited = |c: &v1::Container| c.state() == v1::ContainerState::ContainerExited;
    let chosen = if previous {
        // The last that ended, unless it is the present one itself and waits for nothing.
        let waiting = found.first().is_some_and(exited) && is_waiting(&pod, name);
        found.iter().skip(usize::from(!waiting)).find(|c| exited(c))
    } else {
        found.iter().find(|c| c.state() != v1::ContainerState::ContainerCreated)
    };
    let Some(container) = chosen else {
        return bad(if previous {
            format!("previous terminated container \"{name}\" in pod \"{pod_name}\" not found")
        } else {
            let reason = waiting_reason(&pod, name);
            format!("container \"{name}\" in pod \"{pod_name}\" is waiting to start: {reason}")
        });
    };
    let Some(path) = follow::log_path(&state.ctx, container) else {
        return bad(format!("container \"{name}\" in pod \"{pod_name}\" is not available"));
    };
    let (out, parts) = mpsc::channel(QUEUE);
    let liveness = Arc::new(Liveness {
        cri: state.ctx.cri.clone(),
        id: container.id.clone(),
        last: tokio::sync::Mutex::new((tokio::time::Instant::now(), true)),
    });
    tokio::spawn(async move {
        let running = || Arc::clone(&liveness).running();
        if let Err(error) = follow::send(&path, &options, &out, running).await {
            // The reader may be gone as well.
            let _ = out.send(Err(error)).await;
        }
    });
    let frames = ReceiverStream::new(parts).map(|part| part.map(Frame::data));
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
    let kind = http::HeaderValue::from_static("text/plain");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

fn state_of<'a>(pod: &'a k8s_openapi::api::core::v1::Pod, name: &str) -> Option<&'a str> {
    let status = pod.status.as_ref()?;
    let lists = [&status.init_container_statuses, &status.container_statuses];
    let found = lists.into_iter().flatten().flatten().find(|s| s.name == name)?;
    found.state.as_ref()?.waiting.as_ref()?.reason.as_deref()
}

fn is_waiting(pod: &k8s_openapi::api::core::v1::Pod, name: &str) -> bool {
    state_of(pod, name).is_some()
}

fn waiting_reason(pod: &k8s_openapi::api::core::v1::Pod, name: &str) -> String {
    state_of(pod, name).unwrap_or("ContainerCreating").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_seconds_is_a_time() {
        for seconds in ["99999999999999", "18446744073709551615"] {
            let (options, _) = options(&[("sinceSeconds".to_owned(), seconds.to_owned())]).expect("options");
            assert_eq!(options.since, Some(Timestamp::MIN));
        }
        assert!(options(&[("sinceSeconds".to_owned(), "-1".to_owned())]).is_err());
    }
}
