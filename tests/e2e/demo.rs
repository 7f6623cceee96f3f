//! `examples/demo.sh`, which `make demo` runs on a release: here on the programs under test.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use orlop_tests::{command, programs};

use crate::Case;
use crate::stack::{Namespace, Stack};

pub(crate) const CASES: &[Case] = &[("the_demo_shows_its_page_and_leaves_nothing", demo)];

const PAGE: &str = "<h1>Hello from the orlop deck</h1>";

fn demo(_: &Stack, _: &Namespace) -> Result<()> {
    let folder = tempfile::tempdir_in("/var/tmp")?;
    let node = folder.path().join("node");
    let mut once = script(&node)?;
    let outcome = command::outcome(once.env("DEMO_ONCE", "1"))?;
    ensure!(outcome.code == 0 && outcome.stdout.matches(PAGE).count() == 2, "{outcome:?}");
    ensure!(outcome.stdout.ends_with("Nothing is left behind.\n") && !node.exists(), "{outcome:?}");

    // Until Ctrl-C, which the terminal sends to the whole process group.
    let mut child = script(&node)?.process_group(0).stdout(Stdio::piped()).spawn().context("examples/demo.sh")?;
    let mut said = String::new();
    let mut stdout = BufReader::new(child.stdout.take().context("the demo's output")?);
    while !said.contains("make demo-stop, ends it") {
        ensure!(stdout.read_line(&mut said)? > 0, "the demo ended early: {said}");
    }
    ensure!(said.matches(PAGE).count() == 2, "{said}");
    killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT)?;
    std::io::Read::read_to_string(&mut stdout, &mut said)?;
    ensure!(child.wait()?.code() == Some(130), "{said}");
    ensure!(said.ends_with("Nothing is left behind.\n") && !node.exists(), "{said}");
    Ok(())
}

fn script(node: &std::path::Path) -> Result<Command> {
    // A shell that was started with SIGINT ignored, as behind nohup or &, cannot catch it.
    let mut script = Command::new("env");
    script
        .arg("--default-signal=INT")
        .arg(programs::repository().join("examples/demo.sh"))
        .arg("run")
        .env("BIN", programs::folder()?)
        .env("HELLO", programs::path("orlop-hello")?)
        .env("DEMO_DIR", node);
    script.stdin(Stdio::null());
    Ok(script)
}
