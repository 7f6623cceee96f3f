//! `orlop-runtime`: the OCI runtime with runc's command line.

mod commands;
mod log;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    commands::Cli::parse().run()
}
