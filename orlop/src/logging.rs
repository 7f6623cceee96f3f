//! Logs go to stderr: one line each, with colours only on a terminal; without the time under systemd, which has it.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// Starts logging by `filter` (the syntax of tracing's `EnvFilter`).
pub(crate) fn start(filter: &str) -> anyhow::Result<()> {
    // The client's own errors come back to its callers, who tell them. A filter that names it has the last word.
    let filter = EnvFilter::try_new(format!("kube_client=off,{filter}"))?;
    let logs =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    // The journal has the time already.
    let started = match std::env::var_os("JOURNAL_STREAM") {
        Some(_) => logs.without_time().try_init(),
        None => logs.try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("start logging: {error}"))
}
