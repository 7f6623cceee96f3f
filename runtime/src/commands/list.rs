//! list

use std::process::ExitCode;

use super::{Context, Failure, say};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    Table,
    Json,
}

#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// The format of the list
    #[arg(short, long, value_enum, default_value = "table")]
    format: Format,
    /// Names only
    #[arg(short, long)]
    quiet: bool,
}

impl List {
    pub(super) fn run(self, cli: &Context) -> Result<ExitCode, Failure> {
        let states = cli.runtime.list()?;
        match self.format {
            _ if self.quiet && states.is_empty() => (),
            _ if self.quiet => say(&states.iter().map(|state| state.id.as_str()).collect::<Vec<_>>().join("\n"))?,
            Format::Json => say(&serde_json::to_string(&states)?)?,
            Format::Table => {
                let heading = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
                let line = |state: orlop_runtime::State| {
                    let bundle = state.bundle.display().to_string();
                    [state.id, state.pid.to_string(), state.status.to_string(), bundle, state.created, state.owner]
                };
                let lines = std::iter::once(heading).chain(states.into_iter().map(line));
                say(table(lines.collect()).trim_end_matches('\n'))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The lines with their columns below each other, as runc sets them: at least 12 wide, and 3 apart.
fn table<const N: usize>(lines: Vec<[String; N]>) -> String {
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count() + 3).max().unwrap_or(0).max(12);
    let widths: Vec<usize> = (0..N - 1).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        for (cell, width) in line.iter().zip(&widths) {
            text = format!("{text}{cell:width$}");
        }
        text += &line[N - 1];
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns() {
        let lines = [["ID", "PID", "OWNER"], ["a-long-container", "7", "root"]].map(|line| line.map(str::to_owned));
        assert_eq!(table(lines.into()), "ID                 PID         OWNER\na-long-container   7           root\n");
    }
}
