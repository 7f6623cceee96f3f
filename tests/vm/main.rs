//! orlop in a guest with systemd and cgroup v2 alone, which the machine that runs the tests may not have. On the host
//! this program boots the guest once and judges; in the guest it runs one case, by its name.

mod bundle;
mod node;
mod runtime;
mod suites;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use libtest_mimic::{Arguments, Failed, Trial};
use orlop_tests::command::Outcome;
use orlop_tests::programs;
use orlop_tests::vm::{self, Guest, Hierarchies};

/// One case, run in the guest.
type Case = (&'static str, fn() -> Result<()>);

/// The argument before a case's name, for a run in the guest.
const IN_GUEST: &str = "--in-guest";

/// Where the programs are in the guest: where dist/orlop.service has them.
const BIN: &str = "/usr/local/bin";

fn cases() -> Vec<Case> {
    [runtime::CASES, node::CASES].concat()
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    if let [_, flag, name] = &*words
        && flag == IN_GUEST
    {
        return in_guest(name);
    }
    let arguments = Arguments::from_args();
    if let Some(why) = vm::unavailable() {
        println!("SKIP: {why}");
        return ExitCode::SUCCESS;
    }
    match trials(&arguments) {
        Ok(trials) => libtest_mimic::run(&arguments, trials).exit_code(),
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

/// What is asked for, with its outcomes unless it is only to be listed.
fn trials(arguments: &Arguments) -> Result<Vec<Trial>> {
    let is_chosen = |name: &str| arguments.list || is_chosen(arguments, name);
    // The cases are about version 2 alone.
    let cases = if vm::hierarchies()? == Hierarchies::Unified { cases() } else { Vec::new() };
    let mut chosen: Vec<Chosen> = cases.into_iter().map(|(name, _)| Chosen::Case(name)).collect();
    chosen.extend(suites::wanted()?.into_iter().map(Chosen::Suite));
    chosen.retain(|case| is_chosen(&case.name()));
    let outcomes = if arguments.list || chosen.is_empty() { Ok(Vec::new()) } else { boot(&chosen) };
    let mut outcomes = outcomes.map(Vec::into_iter).map_err(|error| format!("{error:#}"));
    let trial = |case: Chosen| {
        let outcome = match &mut outcomes {
            Ok(outcomes) => outcomes.next().ok_or_else(|| "no outcome".to_owned()),
            Err(error) => Err(error.clone()),
        };
        let name = case.name();
        Trial::test(name, move || case.judge(&outcome?).map_err(|error| Failed::from(format!("{error:#}"))))
    };
    Ok(chosen.into_iter().map(trial).collect())
}

/// One program for the guest, and what to make of its outcome.
#[derive(Clone)]
enum Chosen {
    /// This program with the name of a case.
    Case(&'static str),
    /// A program of the runtime's own tests.
    Suite(suites::Suite),
}

impl Chosen {
    fn name(&self) -> String {
        match self {
            Chosen::Case(name) => (*name).to_owned(),
            Chosen::Suite(suite) => suite.name(),
        }
    }

    fn judge(&self, outcome: &Outcome) -> Result<()> {
        match self {
            Chosen::Case(_) => judge(outcome),
            Chosen::Suite(_) => suites::judge(outcome),
        }
    }
}

/// As libtest-mimic chooses: a guest is not asked for what nobody wants to know.
fn is_chosen(arguments: &Arguments, name: &str) -> bool {
    let fits = |pattern: &str| if arguments.exact { name == pattern } else { name.contains(pattern) };
    arguments.filter.as_deref().is_none_or(fits) && !arguments.skip.iter().any(|pattern| fits(pattern))
}

fn boot(chosen: &[Chosen]) -> Result<Vec<Outcome>> {
    let mut guest = Guest::new()?;
    let test = format!("{BIN}/orlop-vm-test");
    guest.file(&test, 0o755, &std::env::current_exe().context("find the running test")?)?;
    for name in ["orlop", "orlop-runtime", "orlop-shim"] {
        guest.file(&format!("{BIN}/{name}"), 0o755, &programs::path(name)?)?;
    }
    let unit = programs::repository().join("dist/orlop.service");
    guest.file("/etc/systemd/system/orlop.service", 0o644, &unit)?;
    for case in chosen {
        if let Chosen::Case(name) = case {
            guest.program(&[&test, IN_GUEST, name], Duration::from_mins(2))?;
        }
    }
    // After those, as they are in `chosen`.
    let suites = chosen.iter().filter_map(|case| if let Chosen::Suite(suite) = case { Some(suite) } else { None });
    suites::add(&mut guest, &suites.cloned().collect::<Vec<_>>())?;
    guest.run()
}

fn judge(outcome: &Outcome) -> Result<()> {
    if outcome.code != 0 {
        bail!("exit code {}\n{}{}", outcome.code, outcome.stdout, outcome.stderr);
    }
    print!("{}", outcome.stdout);
    Ok(())
}

fn in_guest(name: &str) -> ExitCode {
    let ended = match cases().into_iter().find(|(case, _)| case == &name) {
        Some((_, case)) => case(),
        None => Err(anyhow::anyhow!("there is no case {name:?}")),
    };
    if let Err(error) = &ended {
        eprintln!("{error:?}");
    }
    if ended.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
