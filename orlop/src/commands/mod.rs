//! One module for each command.

pub(crate) mod agent;
mod control_plane;
mod cri;
pub(crate) mod doctor;
pub(crate) mod image;
pub(crate) mod reset;
mod socket;
pub(crate) mod status;
mod up;

use std::future::Future;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::CommandFactory;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Cli, Command};
use crate::config::Config;
use crate::logging;

/// How long a daemon's end waits for file work.
const SHUTDOWN: Duration = Duration::from_secs(10);

/// Runs the command that was typed.
pub(crate) fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "orlop", &mut io::stdout());
            return Ok(ExitCode::SUCCESS);
        }
        Command::Doctor(args) => return doctor::run(args),
        _ => {}
    }
    let config = Config::load(cli.config.as_deref())?;
    // The configuration's filter is for daemons. A command says itself what matters, and what went wrong.
    let daemon_log = matches!(cli.command, Command::Up | Command::Agent(_) | Command::ControlPlane | Command::Cri)
        .then_some(&*config.log);
    logging::start(cli.log.as_deref().or(daemon_log).unwrap_or("error"))?;
    match cli.command {
        Command::Up => daemon(up::run(config)),
        Command::Agent(args) => daemon(agent::run(config, args)),
        Command::ControlPlane => daemon(control_plane::run(config)),
        Command::Cri => daemon(cri::run(config)),
        Command::Image(args) => block_on(image::run(args, config.cri_socket())),
        Command::Status(args) => block_on(status::run(config, args)),
        Command::Reset(args) => block_on(reset::run(config, args)),
        Command::Config => {
            print!("{}", toml::to_string(&config).context("write the configuration as TOML")?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Completion { .. } | Command::Doctor(_) => unreachable!("returned above"),
    }
}

/// Runs a daemon on as many threads as help on a small node; unpacking and file work have threads of their own.
fn daemon(work: impl Future<Output = Result<()>>) -> Result<ExitCode> {
    provider();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the asynchronous runtime")?;
    let done = runtime.block_on(work);
    // A thread may hang in the kernel, on a network file system that is gone.
    runtime.shutdown_timeout(SHUTDOWN);
    done.map(|()| ExitCode::SUCCESS)
}

fn block_on(work: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    provider();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the asynchronous runtime")?;
    runtime.block_on(work)
}

/// Every TLS connection of the program uses ring. It is an error only to choose twice, which changes nothing.
fn provider() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Resolves when the process is asked to end.
async fn asked_to_end() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("asked to end; pods go on");
    Ok(())
}

/// Tells systemd, if it started us, that the daemon serves.
fn ready() {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "systemd was not told that we are ready");
    }
}
