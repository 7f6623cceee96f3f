//! The life of a container: create, start, stop, remove; and what is done while it runs.

mod bundle;
mod create;
mod exec;
mod exit;
mod logs;
mod remove;
mod start;
mod stop;
mod update;

pub(crate) use create::create;
pub(crate) use exec::{Exec, ExecIo, copy_output, exec_sync};
pub(crate) use exit::{ended, lost};
pub(crate) use logs::reopen_log;
pub(crate) use remove::{kill_and_delete, remove, remove_in_sandbox};
pub(crate) use start::start;
pub(crate) use stop::{kill, kill_processes, stop};
pub(crate) use update::update;

use std::sync::Arc;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::shim::{self, FailureKind, ShimClient};
use crate::store::{Container, Sandbox};

/// The sandbox of a container.
pub(crate) fn sandbox_of(engine: &Engine, container: &Container) -> Result<Arc<Sandbox>> {
    engine.store.sandboxes.find(&container.sandbox)
}

/// The shim of a container, if there is one.
fn living_shim(engine: &Engine, container: &Container) -> Option<ShimClient> {
    sandbox_of(engine, container).ok()?.shim()
}

/// The shim of a container; a container without one has ended.
pub(crate) fn shim_of(engine: &Engine, container: &Container) -> Result<ShimClient> {
    living_shim(engine, container)
        .ok_or_else(|| Error::precondition(format!("sandbox {} is not ready: its shim has ended", container.sandbox)))
}

/// A container that runs, for calls that need one.
pub(crate) fn running(engine: &Engine, id: &str) -> Result<Arc<Container>> {
    let container = engine.store.containers.find(id)?;
    if container.is_running() {
        return Ok(container);
    }
    Err(Error::precondition(format!("container {} does not run", container.id)))
}

/// An error of the shim, with the meaning that it has for the caller of the daemon.
pub(crate) fn refused(step: impl Into<String>, error: shim::Error) -> Error {
    use crate::error::Kind;
    let kind = match error.kind() {
        Some(FailureKind::Invalid) => Kind::InvalidArgument,
        Some(FailureKind::NotFound) => Kind::NotFound,
        Some(FailureKind::AlreadyExists) => Kind::AlreadyExists,
        Some(FailureKind::WrongState) => Kind::FailedPrecondition,
        Some(FailureKind::Timeout) => Kind::DeadlineExceeded,
        Some(FailureKind::Limit) => Kind::Unavailable,
        Some(FailureKind::Unsupported) => Kind::Unimplemented,
        _ if matches!(error, shim::Error::Timeout { .. }) => Kind::DeadlineExceeded,
        _ if matches!(error, shim::Error::TooLong { .. }) => Kind::InvalidArgument,
        _ if error.is_gone() => Kind::FailedPrecondition,
        _ => Kind::Internal,
    };
    Error::because(kind, step, error)
}
