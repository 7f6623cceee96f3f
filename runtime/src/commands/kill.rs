//! kill

use std::process::ExitCode;

use orlop_runtime::{Error, Signal, Status};

use super::{Context, Failure};

#[derive(Debug, clap::Args)]
pub(super) struct Kill {
    /// Signal every process of the container, if any is left
    #[arg(short, long)]
    all: bool,
    /// The name of the container
    id: String,
    /// The signal, as in TERM, SIGTERM, 15 or SIGRTMIN+3; 0 only asks whether there is a process
    #[arg(default_value = "SIGTERM", value_parser = signal, allow_negative_numbers = true)]
    signal: Signal,
}

impl Kill {
    pub(super) fn run(self, cli: &Context) -> Result<ExitCode, Failure> {
        match cli.runtime.kill(&self.id, self.signal, self.all) {
            // All of none are signalled.
            Err(Error::NotRunning(_)) if self.all && cli.runtime.state(&self.id)?.status == Status::Stopped => {
                Ok(ExitCode::SUCCESS)
            }
            result => Ok(result.map(|()| ExitCode::SUCCESS)?),
        }
    }
}

fn signal(text: &str) -> Result<Signal, String> {
    if text.is_empty() {
        return Ok(Signal::TERM);
    }
    if text == "0" {
        Ok(Signal::NONE)
    } else {
        text.parse().map_err(|error: orlop_runtime::ParseSignalError| error.to_string())
    }
}
