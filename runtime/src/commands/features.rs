//! features

use std::process::ExitCode;

use super::{Failure, say};

#[derive(Debug, clap::Args)]
pub(super) struct Features {}

impl Features {
    pub(super) fn run() -> Result<ExitCode, Failure> {
        say(&serde_json::to_string_pretty(&orlop_runtime::features())?)?;
        Ok(ExitCode::SUCCESS)
    }
}
