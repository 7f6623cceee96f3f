//! state

use std::process::ExitCode;

use super::{Context, Failure, say};

#[derive(Debug, clap::Args)]
pub(super) struct State {
    /// The name of the container
    id: String,
}

impl State {
    pub(super) fn run(self, cli: &Context) -> Result<ExitCode, Failure> {
        say(&serde_json::to_string_pretty(&cli.runtime.state(&self.id)?)?)?;
        Ok(ExitCode::SUCCESS)
    }
}
