//! update

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use orlop_runtime::LinuxResources;

use super::{Context, Failure};

#[derive(Debug, clap::Args)]
pub(super) struct Update {
    /// A file with the limits as JSON, as in linux.resources of config.json; - is standard input
    #[arg(short, long, value_name = "FILE")]
    resources: PathBuf,
    /// The name of the container
    id: String,
}

impl Update {
    pub(super) fn run(self, cli: &Context) -> Result<ExitCode, Failure> {
        let mut text = Vec::new();
        if self.resources.as_os_str() == "-" {
            std::io::stdin().read_to_end(&mut text)?;
        } else {
            let shown = self.resources.display();
            text = std::fs::read(&self.resources).map_err(|error| format!("read {shown}: {error}"))?;
        }
        let resources: LinuxResources = serde_json::from_slice(&text)?;
        cli.runtime.update(&self.id, &resources)?;
        Ok(ExitCode::SUCCESS)
    }
}
