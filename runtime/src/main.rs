//! `orlop-runtime`: the OCI runtime with runc's command line.

mod commands;
mod log;

use std::process::ExitCode;

/// musl's allocator maps and unmaps memory for each size anew: a hundred system calls before anything is done.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// The verbs that bring this program near a container.
const PROTECTED: [&str; 4] = ["create", "run", "exec", "restore"];

fn main() -> ExitCode {
    // Early, for the arguments are taken apart again afterwards. One that only looks like a verb does no harm,
    // and what goes wrong here is told where it can be.
    let words = || std::env::args_os().skip(1);
    let is_protected = words().any(|word| PROTECTED.iter().any(|verb| word == *verb));
    commands::run(is_protected.then(orlop_runtime::run_from_read_only_mount))
}
