//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::commands;

/// The bottom half of a Kubernetes node.
///
/// `orlop up` is the whole: a small control plane, the node agent and the CRI daemon, in one process. The other
/// commands run one part, or look after what runs. Exit codes: 0 done, 1 an error (told on stderr), 2 a wrong
/// command line.
#[derive(Debug, Parser)]
#[command(name = "orlop", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// The configuration file; `orlop config` prints one with every setting and its default
    #[arg(long, global = true, value_name = "FILE", env = "ORLOP_CONFIG")]
    pub(crate) config: Option<PathBuf>,

    /// What to log: error, warn, info, debug, trace, or a filter such as `orlop_cri=debug`
    #[arg(long, global = true, value_name = "FILTER", env = "ORLOP_LOG")]
    pub(crate) log: Option<String>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole node: control plane, agent and CRI daemon
    Up,
    /// Run the node agent alone, for any CRI socket and any Kubernetes API server
    Agent(commands::agent::Args),
    /// Run the control plane alone
    ControlPlane,
    /// Run the CRI daemon alone
    Cri,
    /// Pull, import, list and remove images
    Image(commands::image::Args),
    /// Tell whether the node is ready, or wait until it is
    Status(commands::status::Args),
    /// Check what this host has, and say what is missing and what to do
    Doctor(commands::doctor::Args),
    /// End every pod of this node and remove everything that orlop made for it
    Reset(commands::reset::Args),
    /// Print the configuration in effect, as a file to start from
    Config,
    /// Print a completion script for a shell
    Completion {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
}
