//! ExecSync, and the calls that answer with the URL of a stream.

use orlop_proto::v1;

use crate::container;
use crate::engine::Shared;
use crate::error::{Error, Kind, Result};
use crate::store::SandboxState;
use crate::streaming::{self, AttachStream, ExecStream, PortForwardStream};

pub(super) async fn exec_sync(engine: Shared, request: v1::ExecSyncRequest) -> Result<v1::ExecSyncResponse> {
    container::exec_sync(&engine, request).await
}

pub(super) async fn exec(engine: Shared, request: v1::ExecRequest) -> Result<v1::ExecResponse> {
    let container = container::running(&engine, &request.container_id)?;
    let url = engine.streams()?.exec_url(ExecStream {
        container_id: container.id.clone(),
        command: request.cmd,
        tty: request.tty,
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
    });
    Ok(v1::ExecResponse { url: url.map_err(refused)? })
}

pub(super) async fn attach(engine: Shared, request: v1::AttachRequest) -> Result<v1::AttachResponse> {
    let container = container::running(&engine, &request.container_id)?;
    let url = engine.streams()?.attach_url(AttachStream {
        container_id: container.id.clone(),
        tty: request.tty,
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
    });
    Ok(v1::AttachResponse { url: url.map_err(refused)? })
}

pub(super) async fn port_forward(engine: Shared, request: v1::PortForwardRequest) -> Result<v1::PortForwardResponse> {
    let sandbox = engine.store.sandboxes.find(&request.pod_sandbox_id)?;
    if sandbox.state() != SandboxState::Ready {
        return Err(Error::precondition(format!("sandbox {} is not ready", sandbox.id)));
    }
    let port = |port: &i32| {
        u16::try_from(*port)
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| Error::invalid(format!("port {port} is not in 1..=65535")))
    };
    let ports = request.port.iter().map(port).collect::<Result<Vec<_>>>()?;
    let url = engine.streams()?.port_forward_url(PortForwardStream { sandbox_id: sandbox.id.clone(), ports });
    Ok(v1::PortForwardResponse { url: url.map_err(refused)? })
}

fn refused(error: streaming::Error) -> Error {
    let kind = match error {
        streaming::Error::TooManyPending { .. } => Kind::Exhausted,
        streaming::Error::Listen { .. } => Kind::Internal,
        _ => Kind::InvalidArgument,
    };
    Error::because(kind, "make the URL of a stream", error)
}
