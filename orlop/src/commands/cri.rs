//! `orlop cri`: the CRI daemon alone.

use anyhow::Result;

use crate::commands::up::pod_network;
use crate::commands::{asked_to_end, ready};
use crate::config::Config;

pub(crate) async fn run(config: Config) -> Result<()> {
    pod_network(&config)?;
    let daemon = orlop_cri::Daemon::start(config.for_cri()).await?;
    tracing::info!(socket = %daemon.socket().display(), "CRI daemon serves");
    ready();
    asked_to_end().await?;
    Ok(daemon.shutdown().await?)
}
