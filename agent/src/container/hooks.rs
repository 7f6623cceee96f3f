//! Lifecycle hooks: postStart and preStop.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use crate::cri::Cri;
use crate::http;

const USER_AGENT: &str = "kube-lifecycle/1.36";
/// A hook has the container's grace or life; this only bounds a server that never answers.
const HTTP_PATIENCE: Duration = Duration::from_hours(1);

/// Runs a hook to its end.
///
/// # Errors
/// What went wrong, for an event and the waiting state.
pub(crate) async fn run(
    cri: &Cri,
    handler: &LifecycleHandler,
    container: &Container,
    container_id: &str,
    pod_ip: &str,
) -> Result<(), String> {
    if let Some(exec) = &handler.exec {
        let command = exec.command.as_deref().unwrap_or_default();
        let answer = cri.exec_sync(container_id, command, Duration::ZERO).await.map_err(|e| e.to_string())?;
        if answer.exit_code == 0 {
            return Ok(());
        }
        let output = [answer.stdout, answer.stderr].concat();
        return Err(format!(
            "command '{}' exited with {}: {}",
            command.join(" "),
            answer.exit_code,
            String::from_utf8_lossy(&output)
        ));
    }
    if let Some(get) = &handler.http_get {
        let (uri, headers) = http::request_of(get, container, pod_ip)?;
        return match http::get(uri, headers, USER_AGENT, HTTP_PATIENCE).await? {
            http::Answer::Done { status, .. } if status.as_u16() >= 400 => {
                Err(format!("HTTP hook failed with statuscode: {}", status.as_u16()))
            }
            _ => Ok(()),
        };
    }
    if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(sleep.seconds.max(0) as u64)).await;
        return Ok(());
    }
    Err("invalid handler: none of exec, httpGet and sleep is set".to_owned())
}
