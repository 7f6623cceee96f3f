//! The command line: the global flags, and one file for each verb.

mod arguments;
mod create;
mod delete;
mod events;
mod exec;
mod features;
mod kill;
mod list;
mod pause;
mod ps;
mod run;
mod spec;
mod start;
mod state;
mod update;
mod wait;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use orlop_runtime::Runtime;

use crate::log::{self, Format};

/// What a command can fail with: its message is all there is to do with it.
type Failure = Box<dyn std::error::Error>;

/// Creates and runs containers as the OCI runtime specification says.
///
/// A container is described by a bundle: a folder with config.json (see `orlop-runtime spec`) and usually the
/// root filesystem.
#[derive(Debug, Parser)]
#[command(name = "orlop-runtime", version = VERSION, max_term_width = 100, args_override_self = true)]
#[command(arg_required_else_help = true, disable_version_flag = true)]
pub(crate) struct Cli {
    /// The folder that holds the state of all containers; a tmpfs
    #[arg(long, global = true, default_value = "/run/orlop/runtime", value_name = "FOLDER")]
    root: PathBuf,
    /// A file that gets errors and warnings too
    #[arg(long, global = true, value_name = "FILE")]
    log: Option<PathBuf>,
    /// The format of that file
    #[arg(long, global = true, value_enum, default_value = "text")]
    log_format: Format,
    /// Accepted for compatibility: there are no debug messages
    #[arg(long, global = true, hide = true)]
    debug: bool,
    /// Ask systemd for cgroups; refused, since it is not implemented
    #[arg(long, global = true)]
    systemd_cgroup: bool,
    /// With `spec`: a configuration for an ordinary user. Elsewhere it must not be true
    #[arg(long, global = true, num_args = 0..=1, default_missing_value = "true", default_value = "auto")]
    rootless: String,
    /// Print the version, and that of the specification
    #[arg(short, long, action = ArgAction::Version)]
    version: Option<bool>,
    #[command(subcommand)]
    command: Command,
}

/// The text of `--version` after the name; callers of runc look for the word `version`, and for the line that
/// begins with `spec:`.
const VERSION: &str = concat!("version ", env!("CARGO_PKG_VERSION"), "\nspec: 1.3.0");

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a container; its program waits for `start`
    Create(create::Create),
    /// Let the program of a created container run
    Start(start::Start),
    /// Print the state of a container as JSON
    State(state::State),
    /// Send a signal to a container
    Kill(kill::Kill),
    /// Remove all that a container holds
    Delete(delete::Delete),
    /// Create and start a container, and remove it when it ends
    Run(run::Run),
    /// Run another process in a container
    Exec(exec::Exec),
    /// List the containers
    List(list::List),
    /// List the processes of a container
    Ps(ps::Ps),
    /// Freeze the processes of a container
    Pause(pause::Pause),
    /// Let a paused container go on
    Resume(pause::Resume),
    /// Change the limits of a container
    Update(update::Update),
    /// Print what a container uses as JSON, every few seconds or once
    Events(events::Events),
    /// Write a config.json to begin with
    Spec(spec::Spec),
    /// Print what this runtime can do as JSON
    Features(features::Features),
}

/// What create and run have in common.
#[derive(Debug, Args)]
struct BundleArgs {
    /// The bundle
    #[arg(short, long, default_value = ".", value_name = "FOLDER")]
    bundle: PathBuf,
    /// A listening unix socket that gets the master of the terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// A file that gets the process id
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// A listening unix socket that gets a pidfd of the container's process
    #[arg(long, value_name = "SOCKET")]
    pidfd_socket: Option<PathBuf>,
    /// Use chroot in place of `pivot_root`, for a host that runs from its initial ramfs; less safe, since a
    /// process that may chroot can get out
    #[arg(long)]
    no_pivot: bool,
    /// Keep the session keyring of the caller
    #[arg(long)]
    no_new_keyring: bool,
    /// How many descriptors from 3 on the container gets
    #[arg(long, default_value_t = 0, value_name = "N")]
    preserve_fds: u32,
    /// The name of the container
    id: String,
}

impl BundleArgs {
    /// What create and run, which is `detached` or not, make of this.
    fn options(self, cli: &Context, detached: bool) -> Result<orlop_runtime::CreateOptions, Failure> {
        check_console(self.console_socket.is_some(), detached)?;
        let mut options = orlop_runtime::CreateOptions::new(self.id, self.bundle);
        options.detached = detached;
        options.console_socket = self.console_socket;
        options.pid_file = self.pid_file;
        options.pidfd_socket = self.pidfd_socket;
        options.no_pivot = self.no_pivot;
        options.listen_fds = listen_fds();
        options.preserve_fds = self.preserve_fds;
        options.no_new_keyring = self.no_new_keyring;
        options.systemd_cgroup = cli.systemd_cgroup;
        Ok(options)
    }
}

/// In the foreground it is this program that holds the terminal.
fn check_console(socket: bool, detached: bool) -> Result<(), Failure> {
    match (socket, detached) {
        (true, false) => Err("--console-socket is for a process in the background: give --detach too".into()),
        _ => Ok(()),
    }
}

/// How many descriptors, from 3 on, this process was given by socket activation (sd_listen_fds(3)): those that
/// were meant for another process are not.
fn listen_fds() -> u32 {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    number("LISTEN_FDS").filter(|_| number("LISTEN_PID") == Some(std::process::id())).unwrap_or(0)
}

fn too_large(path: &std::path::Path) -> Failure {
    format!("read {}: it has more than {} MiB", path.display(), orlop_runtime::MAX_DOCUMENT >> 20).into()
}

/// What the verbs need of the global flags.
struct Context {
    runtime: Runtime,
    systemd_cgroup: bool,
}

/// Does what the arguments ask for; the exit code is 1 for an error, and 255 for one of `exec`, whose other codes
/// are those of the program.
pub(crate) fn run() -> ExitCode {
    let mut command = Cli::command();
    let arguments = arguments::rewrite(&command, std::env::args_os());
    let parsed = command.try_get_matches_from_mut(&arguments);
    match parsed.and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches)) {
        Ok(cli) => cli.run(),
        Err(error) if error.kind() == clap::error::ErrorKind::MissingSubcommand => {
            let _ = command.print_help();
            ExitCode::SUCCESS
        }
        Err(error) => ExitCode::from(arguments::complain(&error, &arguments)),
    }
}

impl Cli {
    fn run(self) -> ExitCode {
        if let Err(why) = log::open(self.log.as_deref(), self.log_format) {
            log::error(&why);
            return ExitCode::FAILURE;
        }
        let error_code = if matches!(self.command, Command::Exec(_)) { 255 } else { 1 };
        self.run_command().unwrap_or_else(|failure| {
            log::error(&failure.to_string());
            ExitCode::from(error_code)
        })
    }

    fn run_command(self) -> Result<ExitCode, Failure> {
        let rootless = self.rootless == "true";
        if rootless && !matches!(self.command, Command::Spec(_)) {
            return Err("--rootless is not supported: run as root".into());
        }
        if matches!(self.command, Command::Create(_) | Command::Run(_) | Command::Exec(_)) {
            orlop_runtime::run_from_read_only_mount()?;
        }
        let runtime = Runtime::new(self.root).on_warning(log::warning);
        let cli = Context { runtime, systemd_cgroup: self.systemd_cgroup };
        match self.command {
            Command::Create(verb) => verb.run(&cli),
            Command::Start(verb) => verb.run(&cli),
            Command::State(verb) => verb.run(&cli),
            Command::Kill(verb) => verb.run(&cli),
            Command::Delete(verb) => verb.run(&cli),
            Command::Run(verb) => verb.run(&cli),
            Command::Exec(verb) => verb.run(&cli),
            Command::List(verb) => verb.run(&cli),
            Command::Ps(verb) => verb.run(&cli),
            Command::Pause(verb) => verb.run(&cli),
            Command::Resume(verb) => verb.run(&cli),
            Command::Update(verb) => verb.run(&cli),
            Command::Events(verb) => verb.run(&cli),
            Command::Spec(verb) => verb.run(rootless),
            Command::Features(_) => features::Features::run(),
        }
    }
}
