//! run

use std::process::ExitCode;

use orlop_runtime::Created;

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
    /// Leave processes that lost their parent to the host's init, where the container has no process namespace
    /// of its own
    #[arg(long)]
    no_subreaper: bool,
    #[command(flatten)]
    bundle: BundleArgs,
}

impl Run {
    pub(super) fn run(self, cli: &Context) -> Result<ExitCode, Failure> {
        let id = self.bundle.id.clone();
        let options = self.bundle.options(cli, self.detach)?;
        let (created, held) = cli.runtime.create_held(options)?;
        let stay = Stay { detach: self.detach, subreaper: !self.no_subreaper, keep: self.keep };
        stay.with(cli, &id, created, || Ok(cli.runtime.start_held(held)?))
    }
}

/// How long this program stays with a container, and what it does then.
pub(super) struct Stay {
    pub(super) detach: bool,
    pub(super) subreaper: bool,
    pub(super) keep: bool,
}

impl Stay {
    /// Lets a container that was made run, waits for its end, and deletes it.
    pub(super) fn with(
        &self,
        cli: &Context,
        id: &str,
        created: Created,
        start: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<ExitCode, Failure> {
        // With a process namespace orphans become children of the container's first process.
        let orphans = !self.detach && self.subreaper && !created.own_pid_namespace;
        if orphans {
            nix::sys::prctl::set_child_subreaper(true)?;
        }
        let terminal = created.terminal.map(Terminal::connect).transpose();
        let started = terminal.and_then(|terminal| start().map(|()| terminal));
        let ran = match started {
            Ok(_) if self.detach => return Ok(ExitCode::SUCCESS),
            Ok(terminal) => wait_for(created.pid, &created.pidfd, terminal, orphans),
            Err(failure) => Err(failure),
        };
        if self.keep && ran.is_ok() {
            return ran;
        }
        match cli.runtime.delete(id, true) {
            Err(error) if ran.is_ok() => Err(error.into()),
            Err(error) => {
                log::warning(&format!("container {id:?} could not be removed: {error}"));
                ran
            }
            Ok(()) => ran,
        }
    }
}
