//! delete

use std::process::ExitCode;

use super::{Context, Failure};

#[derive(Debug, clap::Args)]
pub(super) struct Delete {
    /// Kill the container if it runs, and do not mind if there is none
    #[arg(short, long)]
    force: bool,
    /// The name of the container
    id: String,
}

impl Delete {
    pub(super) fn run(self, cli: &Context) -> Result<ExitCode, Failure> {
        cli.runtime.delete(&self.id, self.force)?;
        Ok(ExitCode::SUCCESS)
    }
}
