//! kill

use std::process::ExitCode;

use orlop_runtime::Signal;

use super::{Context, Failure};

#[derive(Debug, clap::Args)]
pub(super) struct Kill {
    /// Signal every process of the container
    #[arg(short, long)]
    all: bool,
    /// The name of the container
    id: String,
    /// The signal, as in TERM, SIGTERM or 15
    #[arg(default_value = "SIGTERM")]
    signal: Signal,
}

impl Kill {
    pub(super) fn run(self, cli: &Context) -> Result<ExitCode, Failure> {
        cli.runtime.kill(&self.id, self.signal, self.all)?;
        Ok(ExitCode::SUCCESS)
    }
}
