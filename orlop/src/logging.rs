//! Logs go to stderr: one line each, with colours only on a terminal; without the time under systemd, which has it.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::SubscriberBuilder;

/// Starts logging by `filter` (the syntax of tracing's `EnvFilter`).
pub(crate) fn start(filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)?;
    let logs: SubscriberBuilder<_, _, _> =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    let started = if std::env::var_os("JOURNAL_STREAM").is_some() {
        logs.without_time().try_init()
    } else {
        logs.try_init()
    };
    started.map_err(|error| anyhow::anyhow!("start logging: {error}"))
}
