//! `make bench`: what orlop costs, beside a peer where there is one, all in one run. With the argument `runtime` it
//! measures the OCI runtime alone, with `seccomp` the compiler of seccomp profiles alone.

mod figures;
mod guest;
mod memory;
mod peak;
mod pods;
mod runtime;
mod scale;
mod seccomp;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use orlop_tests::node::Node;
use orlop_tests::registry::Registry;
use orlop_tests::{images, programs};

fn main() -> ExitCode {
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the bench runs containers: run it as root");
    }
    let argument = std::env::args().nth(1);
    if argument.as_deref() == Some(guest::IN_GUEST) {
        return runtime::compare(&runtime::CRUN);
    }
    if argument.as_deref() == Some("seccomp") {
        return seccomp::compare();
    }
    println!("programs: {}", programs::folder()?.display());
    runtime::compare(&runtime::RUNC)?;
    seccomp::compare()?;
    guest::compare()?;
    if argument.as_deref() == Some("runtime") {
        return Ok(());
    }

    let registry = Registry::start()?;
    let image = registry.push(&images::image(&images::busybox())?)?;
    let mut node = Node::start()?;
    pods::measure(&node, &image)?;
    scale::measure(&node, &image)?;
    memory::measure()?;
    node.reset()
}

/// A folder for the bench's files: not below /tmp, where new files are slow on a file system without a journal.
fn scratch() -> Result<tempfile::TempDir> {
    tempfile::TempDir::with_prefix_in("orlop-bench-", PathBuf::from("/var/tmp")).context("make a folder in /var/tmp")
}
