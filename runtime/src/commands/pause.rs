//! pause and resume

use std::process::ExitCode;

use super::{Context, Failure};

#[derive(Debug, clap::Args)]
pub(super) struct Pause {
    /// The name of the container
    id: String,
}

impl Pause {
    pub(super) fn run(self, cli: &Context) -> Result<ExitCode, Failure> {
        cli.runtime.pause(&self.id)?;
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Resume {
    /// The name of the container
    id: String,
}

impl Resume {
    pub(super) fn run(self, cli: &Context) -> Result<ExitCode, Failure> {
        cli.runtime.resume(&self.id)?;
        Ok(ExitCode::SUCCESS)
    }
}
