//! exec

use std::path::PathBuf;
use std::process::ExitCode;

use oci_spec::runtime::BoxBuilder;
use orlop_runtime::{ExecOptions, Process};

use super::wait::{Terminal, wait_for};
use super::{Context, Failure, check_console};

#[derive(Debug, clap::Args)]
pub(super) struct Exec {
    /// A file with the process as JSON, as in config.json; it replaces all flags about the process
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,
    /// Give the process a terminal
    #[arg(short, long)]
    tty: bool,
    /// Come back as soon as the program runs
    #[arg(short, long)]
    detach: bool,
    /// The working directory in the container
    #[arg(long, value_name = "FOLDER")]
    cwd: Option<PathBuf>,
    /// Another environment variable
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// The user, as in 1000 or 1000:1000
    #[arg(short, long, value_name = "UID[:GID]")]
    user: Option<String>,
    /// Another supplementary group
    #[arg(short = 'g', long, value_name = "GID")]
    additional_gids: Vec<u32>,
    /// Another capability, as in `CAP_NET_ADMIN`
    #[arg(short, long, value_name = "NAME")]
    cap: Vec<String>,
    /// The SELinux label of the process
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
    /// The AppArmor profile of the process
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    /// Set `no_new_privs`
    #[arg(long)]
    no_new_privs: bool,
    /// A cgroup below the container's, which must exist; / is the container's own, and no other is tried then.
    /// On cgroup v1 also CONTROLLER[,CONTROLLER...]:FOLDER, any number of times
    #[arg(long, value_name = "FOLDER")]
    cgroup: Vec<String>,
    /// A listening unix socket that gets the master of the terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// A file that gets the process id
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// How many descriptors from 3 on the process gets
    #[arg(long, default_value_t = 0, value_name = "N")]
    preserve_fds: u32,
    /// A listening unix socket that gets a pidfd of the process
    #[arg(long, value_name = "SOCKET")]
    pidfd_socket: Option<PathBuf>,
    /// Go into a paused container too; the program runs when it is resumed
    #[arg(long)]
    ignore_paused: bool,
    /// The name of the container
    id: String,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl Exec {
    pub(super) fn run(self, cli: &Context) -> Result<ExitCode, Failure> {
        let mut process = match &self.process {
            Some(path) => cli.runtime.read_process(path)?,
            None => self.process_from_flags(cli)?,
        };
        if self.detach && process.terminal() == Some(true) && self.console_socket.is_none() {
            return Err("a detached process with a terminal needs --console-socket".into());
        }
        check_console(self.console_socket.is_some(), self.detach)?;
        let in_front = process.terminal() == Some(true) && self.console_socket.is_none();
        if in_front && let Some((columns, rows)) = orlop_runtime::terminal_size(std::io::stdin()) {
            // Before the program asks; later changes are passed on.
            process.set_console_size(Some(BoxBuilder::default().width(columns).height(rows).build()?));
        }
        let mut options = ExecOptions::new(process);
        options.raw_output = in_front;
        options.console_socket = self.console_socket;
        options.pid_file = self.pid_file;
        let cgroups = Cgroups::parse(&self.cgroup)?;
        options.cgroup = cgroups.folder;
        options.controller_cgroups = cgroups.by_controller;
        options.preserve_fds = self.preserve_fds;
        options.pidfd_socket = self.pidfd_socket;
        options.ignore_paused = self.ignore_paused;
        let started = cli.runtime.exec(&self.id, options)?;
        if self.detach {
            return Ok(ExitCode::SUCCESS);
        }
        let terminal = started.terminal.map(Terminal::connect).transpose()?;
        wait_for(started.pid, &started.pidfd, terminal, false)
    }

    /// The container's own process with what the flags change.
    fn process_from_flags(&self, cli: &Context) -> Result<Process, Failure> {
        if self.command.is_empty() {
            return Err("give the program to run, or --process".into());
        }
        let mut process = cli.runtime.config(&self.id)?.process().clone().unwrap_or_default();
        process.set_args(Some(self.command.clone()));
        process.set_terminal(Some(self.tty));
        if let Some(cwd) = &self.cwd {
            process.set_cwd(cwd.clone());
        }
        if let Some(label) = &self.process_label {
            process.set_selinux_label(Some(label.clone()));
        }
        if let Some(profile) = &self.apparmor {
            process.set_apparmor_profile(Some(profile.clone()));
        }
        let mut env = process.env().clone().unwrap_or_default();
        env.extend(self.env.iter().cloned());
        process.set_env(Some(env));
        if self.no_new_privs {
            process.set_no_new_privileges(Some(true));
        }
        if let Some(user) = &self.user {
            let (uid, gid) = parse_user(user)?;
            let of = process.user().clone();
            let mut changed = of;
            changed.set_uid(uid);
            changed.set_gid(gid.unwrap_or(changed.gid()));
            process.set_user(changed);
        }
        let mut user = process.user().clone();
        let mut groups = user.additional_gids().clone().unwrap_or_default();
        groups.extend(&self.additional_gids);
        user.set_additional_gids(Some(groups));
        process.set_user(user);
        self.add_capabilities(cli, &mut process);
        Ok(process)
    }

    fn add_capabilities(&self, cli: &Context, process: &mut Process) {
        if self.cap.is_empty() {
            return;
        }
        let more = cli.runtime.capabilities(&self.cap);
        let mut sets = process.capabilities().clone().unwrap_or_default();
        let with = |set: &Option<oci_spec::runtime::Capabilities>| {
            let mut set = set.clone().unwrap_or_default();
            set.extend(more.iter().copied());
            Some(set)
        };
        let (bounding, effective, permitted) = (with(sets.bounding()), with(sets.effective()), with(sets.permitted()));
        sets.set_bounding(bounding);
        sets.set_effective(effective);
        sets.set_permitted(permitted);
        // The kernel makes only those ambient that are inheritable, which this flag makes none.
        let inheritable = sets.inheritable().clone().unwrap_or_default();
        let mut ambient = sets.ambient().clone().unwrap_or_default();
        ambient.extend(more.iter().filter(|capability| inheritable.contains(capability)));
        if !ambient.is_empty() {
            sets.set_ambient(Some(ambient));
        }
        process.set_capabilities(Some(sets));
    }
}

/// Where below the container's groups the process goes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Cgroups {
    folder: Option<PathBuf>,
    by_controller: Vec<(String, PathBuf)>,
}

impl Cgroups {
    /// Understands one folder, or those of controllers.
    fn parse(given: &[String]) -> Result<Cgroups, Failure> {
        let mut cgroups = Cgroups::default();
        for text in given {
            match text.split_once(':') {
                Some((controllers, path)) if !path.contains(':') && !controllers.split(',').any(str::is_empty) => {
                    let each = controllers.split(',').map(|name| (name.to_owned(), PathBuf::from(path)));
                    cgroups.by_controller.extend(each);
                }
                None if given.len() == 1 => cgroups.folder = Some(PathBuf::from(text)),
                None => return Err(format!("--cgroup {text:?}: several need the form CONTROLLER:FOLDER").into()),
                Some(_) => {
                    return Err(format!("--cgroup {text:?}: use FOLDER or CONTROLLER[,CONTROLLER...]:FOLDER").into());
                }
            }
        }
        Ok(cgroups)
    }
}

/// Decimal numbers only: what looks like another number must not end up as root (CVE-2026-30892).
fn parse_user(text: &str) -> Result<(u32, Option<u32>), Failure> {
    let number = |part: &str| -> Result<u32, Failure> {
        let plain = !part.is_empty() && part.bytes().all(|letter| letter.is_ascii_digit());
        // The highest number means "leave as it is" to the kernel.
        match part.parse() {
            Ok(number) if plain && number != u32::MAX => Ok(number),
            _ => Err(format!("user {text:?}: use numbers from 0 to 4294967294, as in 1000 or 1000:1000").into()),
        }
    };
    match text.split_once(':') {
        Some((uid, gid)) => Ok((number(uid)?, Some(number(gid)?))),
        None => Ok((number(text)?, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups() {
        let parse = |given: &[&str]| Cgroups::parse(&given.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert_eq!(parse(&["/a"]).ok(), Some(Cgroups { folder: Some("/a".into()), by_controller: vec![] }));
        let both = [("cpu", "a"), ("memory", "a"), ("pids", "")].map(|(name, path)| (name.to_owned(), path.into()));
        let found = Cgroups { folder: None, by_controller: both.into() };
        assert_eq!(parse(&["cpu,memory:a", "pids:"]).ok(), Some(found));
        for odd in [&["a", "b"][..], &["a", "cpu:b"], &[":a"], &["cpu,:a"], &["cpu:a:b"]] {
            assert!(parse(odd).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn users() {
        assert_eq!(parse_user("1000").ok(), Some((1000, None)));
        assert_eq!(parse_user("1000:50").ok(), Some((1000, Some(50))));
        for odd in
            ["", ":", "1:", "-1", "+1", "0x0", "1000x", " 0", "4294967295", "4294967296", "1000:4294967296", "root"]
        {
            assert!(parse_user(odd).is_err(), "{odd}");
        }
    }
}
