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
        cli.runtime.create(self.bundle.options(cli, true)?)?;
        Ok(ExitCode::SUCCESS)
    }
}
