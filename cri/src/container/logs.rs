//! ReopenContainerLog, after the log file was rotated.

use super::{refused, running, shim_of};
use crate::engine::Shared;
use crate::error::Result;

pub(crate) async fn reopen_log(engine: &Shared, id: &str) -> Result<()> {
    let container = running(engine, id)?;
    let reopened = shim_of(engine, &container)?.reopen_log(&container.id).await;
    reopened.map_err(|error| refused(format!("reopen the log of container {}", container.id), error))
}
