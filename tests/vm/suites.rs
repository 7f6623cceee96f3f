//! The runtime's own tests, which its crate runs on the host, in the guest: each program of them is one case.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use orlop_tests::command::{self, Outcome};
use orlop_tests::programs;
use orlop_tests::vm::Guest;
use serde_json::Value;

/// Generous: it ends a program that hangs. Emulated, the longest takes five minutes, on a busy machine twice that.
const LIMIT: Duration = Duration::from_mins(30);

/// Loops that wait until chance has it; what they try does not depend on the version of cgroups.
const RACES: [&str; 2] =
    ["a_process_that_is_stopped_during_its_setup_is_given_up", "an_exec_that_dies_in_its_setup_is_not_started"];

/// Calls the library in its own process, whose caller may have no other thread at work: a lock that one holds at the
/// clone, such as the allocator's, is held in the new process for ever.
const IN_PROCESS: &str = "library";

/// Those that are about cgroups most of all, and short. The others run too when `ORLOP_VM=all`, as `make vm` has it:
/// emulated, they take minutes.
const USUAL: [&str; 4] = ["commands", "library", "resources", ONLY_BY_SYSTEMD];

/// For which it matters nowhere who makes the groups: with one driver. All others are run with both, but for that of
/// the systemd driver itself.
const WITHOUT_GROUPS: [&str; 1] = ["fields"];
const ONLY_BY_SYSTEMD: &str = "systemd";

/// What of the runtime needs no kernel of its own: texts for people, and programs of seccomp beside those of the host's
/// libseccomp (2.6, which the guest would have, counts 335 and 453 among the calls of x32, which Linux does not).
const ELSEWHERE: [&str; 2] = ["help", "seccomp_oracle"];

/// What may be said to the tests, and what is said if the caller says nothing: emulated, what is done again and again takes
/// ten times as long.
const SETTINGS: [(&str, Option<&str>); 4] =
    [("ORLOP_CYCLES", Some("40")), ("ORLOP_SEED", None), ("ORLOP_RACES", Some("15")), ("RUST_BACKTRACE", None)];

/// A program of tests, to be run in the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Suite {
    /// The name of the test target.
    target: String,
    /// Who makes the cgroups: `cgroupfs` or `systemd`.
    driver: &'static str,
}

impl Suite {
    /// The name of the case.
    pub(crate) fn name(&self) -> String {
        format!("runtime_{}_by_{}", self.target, self.driver)
    }
}

/// Fails with the names of the tests that failed. Otherwise says how many there were, and which were skipped.
pub(crate) fn judge(outcome: &Outcome) -> Result<()> {
    if outcome.code == 0 {
        let mut test = "";
        for line in outcome.stdout.lines() {
            if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
                test = name;
            } else if line.starts_with("SKIP") {
                println!("  {test}: {line}");
            } else if line.starts_with("test result: ") {
                println!("  {line}");
            }
        }
        return Ok(());
    }
    let failed = outcome.stdout.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
    let failed: Vec<&str> = failed.collect();
    let what = if failed.is_empty() { "no test was said to fail".to_owned() } else { failed.join(", ") };
    let details = outcome.stdout.split_once("\nfailures:\n").map_or(outcome.stdout.as_str(), |(_, rest)| rest);
    bail!("{what} (exit code {})\n{details}\n{}", outcome.code, outcome.stderr)
}

/// The programs of the runtime's integration tests, by name.
pub(crate) fn wanted() -> Result<Vec<Suite>> {
    let all = match std::env::var("ORLOP_VM").as_deref() {
        Ok("all") => true,
        Err(_) | Ok("") => false,
        Ok(other) => bail!("ORLOP_VM is {other:?}; it may be \"all\""),
    };
    let folder = programs::repository().join("runtime/tests");
    let mut suites = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        let is_target = path.extension().is_some_and(|extension| extension == "rs") || path.join("main.rs").is_file();
        let target = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let is = |names: &[&str]| names.contains(&target.as_str());
        if !is_target || is(&ELSEWHERE) || !(all || is(&USUAL)) {
            continue;
        }
        if !is(&WITHOUT_GROUPS) {
            suites.push(Suite { target: target.clone(), driver: "systemd" });
        }
        if !is(&[ONLY_BY_SYSTEMD]) {
            suites.push(Suite { target, driver: "cgroupfs" });
        }
    }
    suites.sort_by_key(Suite::name);
    Ok(suites)
}

/// Puts the programs on the guest's disk, where their tests expect the runtime, and has them run.
pub(crate) fn add(guest: &mut Guest, suites: &[Suite]) -> Result<()> {
    if suites.is_empty() {
        return Ok(());
    }
    let built = build()?;
    let find = |kind: &str, name: &str| {
        let program = built.get(&(kind.to_owned(), name.to_owned()));
        program.with_context(|| format!("cargo has built no {kind} {name} of orlop-runtime"))
    };
    let tests = std::env::var("ORLOP_VM_TESTS").ok().filter(|name| !name.is_empty());
    let runtime = find("bin", "orlop-runtime")?;
    guest.file(&runtime.to_string_lossy(), 0o755, runtime)?;
    for suite in suites {
        let path = format!("/usr/local/lib/orlop-tests/{}", suite.name());
        guest.file(&path, 0o755, find("test", &suite.target)?)?;
        let driver = format!("ORLOP_TEST_CGROUPS={}", suite.driver);
        let settings = SETTINGS.iter().filter_map(|(name, usual)| {
            let value = std::env::var(name).ok().or(usual.map(str::to_owned))?;
            Some(format!("{name}={value}"))
        });
        let settings: Vec<String> = settings.collect();
        let mut arguments = vec!["/usr/bin/env", &driver];
        arguments.extend(settings.iter().map(String::as_str));
        arguments.extend([path.as_str(), "--show-output"]);
        arguments.extend(tests.as_deref());
        arguments.extend(RACES.iter().flat_map(|name| ["--skip", name]));
        if suite.target == IN_PROCESS {
            arguments.push("--test-threads=1");
        }
        guest.program(&arguments, LIMIT)?;
    }
    Ok(())
}

/// Builds the runtime and its tests for the target of this program: kind and name of each to its file.
fn build() -> Result<HashMap<(String, String), PathBuf>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["test", "--package", "orlop-runtime", "--no-run", "--message-format", "json"];
    let told = command::stdout(Command::new(cargo).args(arguments).current_dir(programs::repository()))?;
    let mut built = HashMap::new();
    for line in told.lines() {
        let message: Value = serde_json::from_str(line).context("understand cargo")?;
        let (target, file) = (&message["target"], message["executable"].as_str());
        let (kind, name) = (target["kind"][0].as_str(), target["name"].as_str());
        if let (Some(file), Some(kind), Some(name)) = (file, kind, name)
            // The unit tests of a program have its kind and name.
            && (kind != "bin" || message["profile"]["test"] == false)
        {
            built.insert((kind.to_owned(), name.to_owned()), PathBuf::from(file));
        }
    }
    Ok(built)
}
