//! start

use std::process::ExitCode;

use super::{Context, Failure};

#[derive(Debug, clap::Args)]
pub(super) struct Start {
    /// The name of the container
    id: String,
}

impl Start {
    pub(super) fn run(self, cli: &Context) -> Result<ExitCode, Failure> {
        cli.runtime.start(&self.id)?;
        Ok(ExitCode::SUCCESS)
    }
}
