//! `orlop doctor`: what this host has of what a node needs. Everything is tried out, in a child process that takes
//! its namespaces and mounts with it; nothing is concluded from a version.

mod attempt;
mod cgroups;
mod host;
mod kernel;
mod netlink;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde::Serialize;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// As JSON, for programs
    #[arg(long)]
    json: bool,
}

/// How a finding is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    /// A node works, with less.
    Warn,
    /// No node works.
    Missing,
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Finding {
    name: String,
    level: Level,
    /// What was found.
    detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Finding {
    fn ok(name: impl Into<String>, detail: impl Into<String>) -> Finding {
        Finding { name: name.into(), level: Level::Ok, detail: detail.into(), advice: None }
    }

    fn warn(name: impl Into<String>, detail: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { name: name.into(), level: Level::Warn, detail: detail.into(), advice: Some(advice.into()) }
    }

    fn missing(name: impl Into<String>, detail: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { name: name.into(), level: Level::Missing, detail: detail.into(), advice: Some(advice.into()) }
    }
}

/// Must be called while the process has one thread: the attempts are made in forked children.
///
/// The exit code is a failure when something is missing that a node needs.
pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let findings: Vec<Finding> =
        [host::privileges(), kernel::findings(), cgroups::findings(), host::findings()].into_iter().flatten().collect();
    let text = if args.json { serde_json::to_string_pretty(&findings)? + "\n" } else { report(&findings) };
    io::stdout().write_all(text.as_bytes()).context("write the report")?;
    let missing = findings.iter().any(|finding| finding.level == Level::Missing);
    Ok(if missing { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn report(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for Finding { name, level, detail, advice } in findings {
        let level = match level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Missing => "missing",
        };
        lines.push(format!("{level:7}  {name:width$}  {detail}\n"));
        if let Some(advice) = advice {
            lines.push(format!("{:7}  {:width$}  -> {advice}\n", "", ""));
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (warnings, missing) = (count(Level::Warn), count(Level::Missing));
    let verdict = if missing > 0 { "this host cannot run a node yet" } else { "this host can run a node" };
    lines.concat() + &format!("\n{verdict}: {missing} missing, {warnings} to know about\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_advice_below_what_is_wrong_and_a_verdict() {
        let findings = [Finding::ok("a", "there"), Finding::missing("longer", "not there", "get it")];
        let text = report(&findings);
        let expected = "ok       a       there\n\
                        missing  longer  not there\n\
                        \u{20}                -> get it\n\
                        \n\
                        this host cannot run a node yet: 1 missing, 0 to know about\n";
        assert_eq!(text, expected);
    }
}
