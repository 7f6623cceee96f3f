//! `orlop-runtime`: the OCI runtime with runc's command line.

mod commands;
mod log;

use std::process::ExitCode;

use clap::Parser;

/// musl's allocator maps and unmaps memory for each size anew: a hundred system calls before anything is done.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    commands::Cli::parse().run()
}
