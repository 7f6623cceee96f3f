//! Debian's containerd, podman and Docker with orlop-runtime as their runtime. Each does the same with runc, in the same run:
//! every step must have the same outcome, and with orlop-runtime nothing may be left afterwards.

mod containerd;
mod docker;
mod left;
mod podman;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::{Arguments, Trial};
use orlop_tests::command::{self, Outcome};
use orlop_tests::programs;

/// How many containers are started at once.
const AT_ONCE: usize = 50;

/// What was done, and what came of it.
type Steps = Vec<(&'static str, String)>;

/// Takes an engine's steps below a folder, with the program that is its runtime.
type Take = fn(&Path, &Path) -> Result<Steps>;

/// The engines, the programs that each needs, and its steps.
const ENGINES: [(&str, &[&str], Take); 3] = [
    ("podman", &["podman", "conmon", "runc", "script"], podman::steps),
    ("containerd", &["containerd", "ctr", "podman", "runc", "script"], containerd::steps),
    ("docker", &["dockerd", "docker", "runc", "script"], docker::steps),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = ENGINES.into_iter().map(|(name, needs, steps)| {
        Trial::test(name, move || {
            if let Some(missing) = needs.iter().find(|program| !command::have(program)) {
                println!("SKIP: {missing} is missing; `make deps-peers` installs it");
                return Ok(());
            }
            compare(steps).map_err(|error| format!("{error:?}").into())
        })
    });
    // One by one: fifty containers are started at once by each.
    let arguments = Arguments { test_threads: Some(1), ..arguments };
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// Takes the steps with both runtimes.
fn compare(steps: Take) -> Result<()> {
    let folder = tempfile::TempDir::with_prefix_in("orlop-peers-", "/var/tmp")?;
    let mut outcomes = Vec::new();
    // podman takes no path of more than 50 letters.
    for (at, name, program) in
        [("0", "runc", on_path("runc")?), ("1", "orlop-runtime", programs::path("orlop-runtime")?)]
    {
        let own = folder.path().join(at);
        std::fs::create_dir(&own)?;
        let taken = steps(&own, &program).with_context(|| format!("with {name}"))?;
        let left = left::below(&own)?;
        ensure!(name == "runc" || left.is_empty(), "left by {name}: {left:#?}");
        outcomes.push(taken);
    }
    for ((step, theirs), (_, ours)) in outcomes[0].iter().zip(&outcomes[1]) {
        println!("{step}: {ours:?}");
        ensure!(theirs == ours, "{step}: {ours:?} with orlop-runtime, {theirs:?} with runc");
    }
    ensure!(outcomes[0].len() == outcomes[1].len());
    Ok(())
}

fn on_path(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
        .context("not on the PATH")
}

/// Exit code and standard output.
fn told(command: &mut Command) -> Result<String> {
    let outcome = command::outcome(command)?;
    let complaint = if outcome.code == 0 { "" } else { outcome.stderr.as_str() };
    eprint!("{complaint}");
    Ok(format!("{} {}", outcome.code, outcome.stdout.trim()))
}

/// The same on a terminal of its own, where both outputs are one.
fn told_on_terminal(command: &Command) -> Result<String> {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let line: Vec<String> = words.map(|word| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"))).collect();
    let Outcome { code, stdout, .. } =
        command::outcome(Command::new("script").args(["-qec", &line.join(" "), "/dev/null"]))?;
    // The terminal echoes the end of `script`'s empty input, and ctr complains that what has ended has no size.
    let text = stdout.replace('\r', "").replace("^@", "");
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty() && !line.contains("resize pty")).collect();
    Ok(format!("{code} {}", lines.join("\n")))
}

/// The memory limit of a group, where the kernel has it.
fn memory_limit_of(group: &str) -> Result<String> {
    let files = [format!("memory/{group}/memory.limit_in_bytes"), format!("{group}/memory.max")];
    let mut limits =
        files.iter().filter_map(|file| std::fs::read_to_string(Path::new("/sys/fs/cgroup").join(file)).ok());
    limits.next().with_context(|| format!("no memory limit of {group}"))
}

/// A daemon that is told to end when the test is killed.
fn daemon(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--", program]).stdin(Stdio::null());
    command
}

/// Waits for something that comes.
fn wait_for(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !condition()? {
        if Instant::now() > deadline {
            bail!("{what} did not come");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Starts one command for each number at the same time; how many succeeded.
fn at_once(command: impl Fn(usize) -> Command) -> Result<usize> {
    let spawn = |number| command(number).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let children = (0..AT_ONCE).map(spawn).collect::<std::io::Result<Vec<_>>>()?;
    let mut succeeded = 0;
    for mut child in children {
        succeeded += usize::from(child.wait()?.success());
    }
    Ok(succeeded)
}
