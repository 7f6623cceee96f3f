//! One run of a probe: exec, HTTP or TCP.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ExecAction, HTTPGetAction, Probe, TCPSocketAction};
use tonic::Code;

use crate::cri::Cri;
use crate::http;

const USER_AGENT: &str = "kube-probe/1.36";
const MAX_OUTPUT: usize = 10 << 10;
/// How often an error that says nothing about the container is tried again.
const TRIES: usize = 3;

/// What is probed.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) cri: Cri,
    pub(super) container: Container,
    pub(super) container_id: String,
    pub(super) pod_ip: String,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Success,
    /// Counts as success.
    Warning(String),
    Failure(String),
    /// The probe itself did not work; counts as failure.
    Error(String),
}

impl Outcome {
    pub(super) fn is_success(&self) -> bool {
        matches!(self, Self::Success | Self::Warning(_))
    }

    pub(super) fn is_failure(&self) -> bool {
        !self.is_success()
    }
}

/// Runs the probe once, within its timeout.
pub(super) async fn once(target: &Target, probe: &Probe) -> Outcome {
    let timeout = Duration::from_secs(probe.timeout_seconds.unwrap_or(1).max(1) as u64);
    let mut last = Outcome::Error("no handler is set".to_owned());
    for _ in 0..TRIES {
        last = if let Some(action) = &probe.exec {
            exec(target, action, timeout).await
        } else if let Some(action) = &probe.http_get {
            http_get(target, action, timeout).await
        } else if let Some(action) = &probe.tcp_socket {
            tcp(target, action, timeout).await
        } else {
            Outcome::Error("missing probe handler, or one that this agent does not support".to_owned())
        };
        if !matches!(last, Outcome::Error(_)) {
            break;
        }
    }
    last
}

async fn exec(target: &Target, action: &ExecAction, timeout: Duration) -> Outcome {
    let command = action.command.as_deref().unwrap_or_default();
    match target.cri.exec_sync(&target.container_id, command, timeout).await {
        Ok(answer) if answer.exit_code == 0 => Outcome::Success,
        Ok(answer) => {
            let mut output = [answer.stdout, answer.stderr].concat();
            output.truncate(MAX_OUTPUT);
            Outcome::Failure(String::from_utf8_lossy(&output).into_owned())
        }
        Err(e) if e.code == Code::DeadlineExceeded => {
            let text = format!("command timed out: {:?} timed out after {}s", command.join(" "), timeout.as_secs());
            Outcome::Failure(text)
        }
        Err(e) => Outcome::Error(e.to_string()),
    }
}

async fn http_get(target: &Target, action: &HTTPGetAction, timeout: Duration) -> Outcome {
    let (uri, headers) = match http::request_of(action, &target.container, &target.pod_ip) {
        Ok(request) => request,
        Err(e) => return Outcome::Error(e),
    };
    match http::get(uri, headers, USER_AGENT, timeout).await {
        Ok(http::Answer::Done { status, .. }) if (200..400).contains(&status.as_u16()) => Outcome::Success,
        Ok(http::Answer::Done { status, .. }) => {
            Outcome::Failure(format!("HTTP probe failed with statuscode: {}", status.as_u16()))
        }
        Ok(http::Answer::Elsewhere { body }) => {
            Outcome::Warning(format!("Probe terminated redirects, Response body: {body}"))
        }
        Err(e) => Outcome::Failure(e),
    }
}

async fn tcp(target: &Target, action: &TCPSocketAction, timeout: Duration) -> Outcome {
    let host = action.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(&target.pod_ip);
    let port = match http::port_number(&action.port, &target.container) {
        Ok(port) => port,
        Err(e) => return Outcome::Error(e),
    };
    match tokio::time::timeout(timeout, http::dial(host, port)).await {
        Ok(Ok(_)) => Outcome::Success,
        Ok(Err(e)) => Outcome::Failure(e),
        Err(_) => Outcome::Failure(format!("dial tcp {}: i/o timeout", http::authority(host, port))),
    }
}
