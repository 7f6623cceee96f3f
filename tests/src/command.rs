//! Run a program to its end and get its output, or an error that tells all of it.

use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// What a program said and how it ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Its exit code; -1 when a signal ended it.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Outcome {
    /// The outcome of a finished program.
    #[must_use]
    pub fn of(output: &Output) -> Outcome {
        Outcome {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs `command` with no input; any exit code is an outcome.
pub fn outcome(command: &mut Command) -> Result<Outcome> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("run {command:?}"))?;
    Ok(Outcome::of(&output))
}

/// Runs `command` with no input and returns its standard output; an exit code but 0 is an error.
pub fn stdout(command: &mut Command) -> Result<String> {
    let outcome = outcome(command)?;
    if outcome.code != 0 {
        bail!("{command:?} ended with {}:\n{}{}", outcome.code, outcome.stdout, outcome.stderr);
    }
    Ok(outcome.stdout)
}

/// [`stdout`] of a program and its arguments.
pub fn run<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> Result<String> {
    stdout(Command::new(program).args(args))
}

/// Whether a program of that name is on the PATH.
#[must_use]
pub fn have(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}
