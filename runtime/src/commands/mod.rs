//! The command line: the global flags, and one file for each verb.

mod arguments;
mod checkpoint;
mod create;
mod delete;
mod events;
mod exec;
mod features;
mod help;
mod kill;
mod list;
mod pause;
mod ps;
mod relay;
mod restore;
mod root;
mod run;
mod spec;
mod start;
mod state;
mod update;
mod wait;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use orlop_runtime::Runtime;

use crate::log::{self, Format};

/// Whether this program was brought out of the reach of containers, if that was tried.
type Protected = Option<Result<(), orlop_runtime::Failure>>;

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
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

/// The flags of all verbs.
#[derive(Debug, Args)]
struct Globals {
    /// The folder that holds the state of all containers, a tmpfs [default: /run/orlop/runtime, and for ordinary
    /// users `orlop/runtime` below `XDG_RUNTIME_DIR`]
    #[arg(long, global = true, value_name = "FOLDER")]
    root: Option<PathBuf>,
    /// A file that gets errors too, and all other messages in place of standard error
    #[arg(long, global = true, value_name = "FILE")]
    log: Option<PathBuf>,
    /// The format of that file
    #[arg(long, global = true, value_enum, default_value = "text")]
    log_format: Format,
    /// Say what is done: in the file of `--log`, or else on standard error
    #[arg(long, global = true)]
    debug: bool,
    /// Have systemd make the cgroup, as a scope; linux.cgroupsPath is slice:prefix:name then
    #[arg(long, global = true)]
    systemd_cgroup: bool,
    /// Whether a container whose configuration names no cgroup goes without those that cannot be made: true, false
    /// or auto. With `spec`: a configuration for an ordinary user
    #[arg(long, global = true, num_args = 0..=1, default_missing_value = "true", default_value = "auto")]
    rootless: String,
    /// The program that `checkpoint` and `restore` use
    #[arg(long, global = true, default_value = "criu", value_name = "PROGRAM")]
    criu: PathBuf,
    /// Print the version, and that of the specification
    #[arg(short, long, action = ArgAction::Version)]
    version: Option<bool>,
}

/// The text of `--version` after the name; callers of runc look for the word `version`, and for the line that
/// begins with `spec:`.
const VERSION: &str = concat!("version ", env!("CARGO_PKG_VERSION"), "\nspec: 1.3.0");

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a container; its program waits for `start`
    #[command(after_long_help = help::CREATE)]
    Create(create::Create),
    /// Let the program of a created container run
    #[command(after_long_help = help::START)]
    Start(start::Start),
    /// Print the state of a container as JSON
    #[command(after_long_help = help::STATE)]
    State(state::State),
    /// Send a signal to a container
    #[command(after_long_help = help::KILL)]
    Kill(kill::Kill),
    /// Remove all that a container holds
    #[command(after_long_help = help::DELETE)]
    Delete(delete::Delete),
    /// Create and start a container, and remove it when it ends
    #[command(after_long_help = help::RUN)]
    Run(run::Run),
    /// Run another process in a container
    #[command(after_long_help = help::EXEC)]
    Exec(exec::Exec),
    /// List the containers
    #[command(after_long_help = help::LIST)]
    List(list::List),
    /// List the processes of a container
    #[command(after_long_help = help::PS)]
    Ps(ps::Ps),
    /// Freeze the processes of a container
    #[command(after_long_help = help::PAUSE)]
    Pause(pause::Pause),
    /// Let a paused container go on
    #[command(after_long_help = help::RESUME)]
    Resume(pause::Resume),
    /// Change the limits of a container
    #[command(after_long_help = help::UPDATE)]
    Update(update::Update),
    /// Write the processes of a container to files
    #[command(after_long_help = help::CHECKPOINT)]
    Checkpoint(checkpoint::Checkpoint),
    /// Make a container from the files of a checkpoint
    #[command(after_long_help = help::RESTORE)]
    Restore(restore::Restore),
    /// Print what a container uses as JSON, every few seconds or once
    #[command(after_long_help = help::EVENTS)]
    Events(events::Events),
    /// Write a config.json to begin with
    #[command(after_long_help = help::SPEC)]
    Spec(spec::Spec),
    /// Print what this runtime can do as JSON
    #[command(after_long_help = help::FEATURES)]
    Features(features::Features),
}

/// The definition of one verb, without what its help would say.
fn verb(name: &str) -> Option<clap::Command> {
    let empty = |name: &'static str| clap::Command::new(name);
    Some(match name {
        "create" => create::Create::augment_args(empty("create")),
        "start" => start::Start::augment_args(empty("start")),
        "state" => state::State::augment_args(empty("state")),
        "kill" => kill::Kill::augment_args(empty("kill")),
        "delete" => delete::Delete::augment_args(empty("delete")),
        "run" => run::Run::augment_args(empty("run")),
        "exec" => exec::Exec::augment_args(empty("exec")),
        _ => return None,
    })
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
        options.rootless = cli.rootless;
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

/// Prints lines. That nobody takes them is an error, and not the panic of `println!`.
fn say(text: &str) -> Result<(), Failure> {
    let mut output = std::io::stdout().lock();
    let written =
        output.write_all(text.as_bytes()).and_then(|()| output.write_all(b"\n")).and_then(|()| output.flush());
    written.map_err(|error| format!("write to standard output: {error}").into())
}

fn too_large(path: &std::path::Path) -> Failure {
    format!("read {}: it has more than {} MiB", path.display(), orlop_runtime::MAX_DOCUMENT >> 20).into()
}

/// What the verbs need of the global flags.
struct Context {
    runtime: Runtime,
    systemd_cgroup: bool,
    rootless: Option<bool>,
    criu: PathBuf,
}

/// Does what the arguments ask for; the exit code is 1 for an error, and 255 for one of `exec`, whose other codes
/// are those of the program.
///
/// `protected` is what came of [`orlop_runtime::run_from_read_only_mount`], if that was called.
pub(crate) fn run(protected: Protected) -> ExitCode {
    let given: Vec<OsString> = std::env::args_os().collect();
    if let Some(cli) = of_one_verb(&given) {
        return cli.run(protected);
    }
    let mut command = Cli::command();
    let arguments = arguments::rewrite(&command, given.into_iter());
    let parsed = command.try_get_matches_from_mut(&arguments);
    match parsed.and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches)) {
        Ok(cli) => cli.run(protected),
        Err(error) if error.kind() == clap::error::ErrorKind::MissingSubcommand => {
            let _ = command.print_help();
            ExitCode::SUCCESS
        }
        Err(error) => ExitCode::from(arguments::complain(&error, &arguments)),
    }
}

/// Understands arguments that are right and use one of the verbs that are called for each container. The
/// definition of all verbs takes a third of a megabyte, which is most of what such a call would touch. `None` is
/// for everything else: help, mistakes, and the rest of the verbs.
fn of_one_verb(given: &[OsString]) -> Option<Cli> {
    // A value that looks like a verb comes to nothing: the true one is unknown then.
    let verb = given.iter().skip(1).find_map(|word| verb(word.to_str()?))?;
    let mut command = clap::Command::new(env!("CARGO_PKG_NAME")).version(VERSION);
    command = command.args_override_self(true).disable_version_flag(true);
    command = Globals::augment_args(command).subcommand_required(true).subcommand(verb);
    let arguments = arguments::rewrite(&command, given.iter().cloned());
    let mut matches = command.try_get_matches_from_mut(&arguments).ok()?;
    Cli::from_arg_matches_mut(&mut matches).ok()
}

impl Cli {
    fn run(self, protected: Protected) -> ExitCode {
        if let Err(why) = log::open(self.globals.log.as_deref(), self.globals.log_format) {
            log::error(&why);
            return ExitCode::FAILURE;
        }
        let error_code = if matches!(self.command, Command::Exec(_)) { 255 } else { 1 };
        self.run_command(protected).unwrap_or_else(|failure| {
            log::error(&failure.to_string());
            ExitCode::from(error_code)
        })
    }

    fn run_command(self, protected: Protected) -> Result<ExitCode, Failure> {
        let rootless = root::parse_rootless(&self.globals.rootless)?;
        if matches!(self.command, Command::Create(_) | Command::Run(_) | Command::Exec(_) | Command::Restore(_)) {
            protected.unwrap_or_else(orlop_runtime::run_from_read_only_mount)?;
        }
        let root = self.globals.root.map_or_else(root::default, Ok)?;
        let mut runtime = Runtime::new(root).on_warning(log::warning);
        if self.globals.debug {
            // Not the arguments: among them may be secrets for the environment.
            log::debug(&format!("{} as process {}", VERSION.lines().next().unwrap_or_default(), std::process::id()));
            runtime = runtime.on_step(log::debug);
        }
        let (systemd_cgroup, criu) = (self.globals.systemd_cgroup, self.globals.criu);
        let cli = Context { runtime, systemd_cgroup, rootless, criu };
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
            Command::Checkpoint(verb) => verb.run(&cli),
            Command::Restore(verb) => verb.run(&cli),
            Command::Spec(verb) => verb.run(rootless == Some(true)),
            Command::Features(_) => features::Features::run(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is understood by one verb's definition is what all of them together make of it.
    #[test]
    fn one_verb_is_as_good_as_all() {
        let understood = |line: &str| {
            let given: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let full = {
                let mut command = Cli::command();
                let arguments = arguments::rewrite(&command, given.iter().cloned());
                let matches = command.try_get_matches_from_mut(&arguments);
                matches.and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches)).ok()
            };
            (of_one_verb(&given).map(|cli| format!("{cli:?}")), full.map(|cli| format!("{cli:?}")))
        };
        for line in [
            "r create -b /b a",
            "r --root run --log-format json start a",
            "r -root /x state a",
            "r kill -a a KILL",
            "r delete --force a",
            "r run --detach=true --preserve-fds 2 a",
            "r --systemd-cgroup exec -t -e A=b a sh -c true",
        ] {
            let (one, full) = understood(line);
            assert!(full.is_some(), "{line}");
            // A folder called like a verb is left to the definition of all.
            assert!(one == full || (line.contains("--root run") && one.is_none()), "{line}: {one:?}");
        }
        for line in ["r run", "r run --nosuch a", "r create --help", "r list", "r --root run list", "r", "r nosuch"] {
            assert_eq!(understood(line).0, None, "{line}");
        }
    }
}
