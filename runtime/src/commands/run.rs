//! run

use std::process::ExitCode;

use super::wait::{Terminal, wait_for};
use super::{BundleArgs, Context, Failure};
use crate::log;

#[derive(Debug, clap::Args)]
pub(super) struct Run {
    /// Come back as soon as the program runs
    #[arg(short, long)]
    detach: bool,
    /// Do not remove the container when it ends
    #[arg(long)]
    keep: bool,
    /// Accepted for compatibility: it makes no difference
    #[arg(long, hide = true)]
    no_subreaper: bool,
    #[command(flatten)]
    bundle: BundleArgs,
}

impl Run {
    pub(super) fn run(self, cli: &Context) -> Result<ExitCode, Failure> {
        let id = self.bundle.id.clone();
        let options = self.bundle.options(cli)?;
        let created = cli.runtime.create(options)?;
        let code = self.detach.then_some(ExitCode::SUCCESS);
        let ran = match (created.terminal, self.detach) {
            (Some(_), true) => Err("a detached process with a terminal needs --console-socket".into()),
            (master, _) => {
                let terminal = master.map(Terminal::connect).transpose();
                let started = terminal.and_then(|terminal| {
                    cli.runtime.start(&id)?;
                    Ok(terminal)
                });
                match (started, code) {
                    (Ok(_), Some(code)) => return Ok(code),
                    (Ok(terminal), None) => wait_for(created.pid, &created.pidfd, terminal),
                    (Err(failure), _) => Err(failure),
                }
            }
        };
        if self.keep && ran.is_ok() {
            return ran;
        }
        match cli.runtime.delete(&id, true) {
            Err(error) if ran.is_ok() => Err(error.into()),
            Err(error) => {
                log::warning(&format!("container {id:?} could not be removed: {error}"));
                ran
            }
            Ok(()) => ran,
        }
    }
}
