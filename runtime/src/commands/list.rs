//! list

use std::process::ExitCode;

use super::{Context, Failure};

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
            _ if self.quiet => states.iter().for_each(|state| println!("{}", state.id)),
            Format::Json => println!("{}", serde_json::to_string(&states)?),
            Format::Table => {
                let width = states.iter().map(|state| state.id.len()).max().unwrap_or(0).max(2);
                println!("{:width$}  {:>7}  {:8}  {:30}  OWNER  BUNDLE", "ID", "PID", "STATUS", "CREATED");
                for state in states {
                    let (id, pid, status) = (&state.id, state.pid, state.status.to_string());
                    let bundle = state.bundle.display();
                    println!("{id:width$}  {pid:>7}  {status:8}  {:30}  {:5}  {bundle}", state.created, state.owner);
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
