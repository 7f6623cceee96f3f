//! create

use std::process::ExitCode;

use super::{BundleArgs, Context, Failure};

#[derive(Debug, clap::Args)]
pub(super) struct Create {
    #[command(flatten)]
    bundle: BundleArgs,
}

impl Create {
    pub(super) fn run(self, cli: &Context) -> Result<ExitCode, Failure> {
        let options = self.bundle.options(cli)?;
        let created = cli.runtime.create(options)?;
        if created.terminal.is_some() {
            // Nobody is left who could hold the other end.
            let _ = nix::sys::signal::kill(created.pid, nix::sys::signal::Signal::SIGKILL);
            return Err("the process wants a terminal: give --console-socket, or use `run`".into());
        }
        Ok(ExitCode::SUCCESS)
    }
}
