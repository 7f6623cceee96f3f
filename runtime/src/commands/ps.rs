//! ps

use std::process::{Command, ExitCode};

use super::list::Format;
use super::{Context, Failure, say};

#[derive(Debug, clap::Args)]
pub(super) struct Ps {
    /// The format of the list
    #[arg(short, long, value_enum, default_value = "table")]
    format: Format,
    /// The name of the container
    id: String,
    /// Options of ps(1) for the table; its output must have a column PID
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, default_value = "-ef")]
    options: Vec<String>,
}

impl Ps {
    pub(super) fn run(self, cli: &Context) -> Result<ExitCode, Failure> {
        let pids: Vec<i32> = cli.runtime.pids(&self.id)?.into_iter().map(nix::unistd::Pid::as_raw).collect();
        if self.format == Format::Json {
            say(&serde_json::to_string(&pids)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        let output = Command::new("ps").args(&self.options).output().map_err(|error| format!("run ps: {error}"))?;
        if !output.status.success() {
            return Err(format!("ps: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
        }
        say(&select(&String::from_utf8_lossy(&output.stdout), &pids)?.join("\n"))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The heading and the lines of these processes.
fn select<'a>(table: &'a str, pids: &[i32]) -> Result<Vec<&'a str>, Failure> {
    let mut lines = table.lines();
    let heading = lines.next().unwrap_or_default();
    let column =
        heading.split_whitespace().position(|name| name == "PID").ok_or("the output of ps has no column PID")?;
    let ours = |line: &&str| {
        let pid = line.split_whitespace().nth(column).and_then(|pid| pid.parse().ok());
        pid.is_some_and(|pid| pids.contains(&pid))
    };
    Ok(std::iter::once(heading).chain(lines.filter(ours)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_containers_processes() {
        let table = "UID PID CMD\nroot 1 init\nroot 12 sh 7\nroot 7 sleep";
        assert_eq!(select(table, &[7]).ok(), Some(vec!["UID PID CMD", "root 7 sleep"]));
        assert!(select("A B\n1 2", &[1]).is_err());
    }
}
