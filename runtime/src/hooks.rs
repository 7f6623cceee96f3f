//! Hooks: programs that the configuration wants run at certain points of the container's life. Each gets the
//! container's state as JSON on its standard input. OCI runtime specification, "POSIX-platform Hooks".

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::unistd::Pid;
use oci_spec::runtime::Hook;

use crate::error::{Context, Error, Failure};
use crate::handshake::wait_readable;
use crate::status::State;
use crate::sys;

/// Checks hooks before anything is done.
pub(crate) fn check(kind: &str, hooks: Option<&Vec<Hook>>) -> Result<(), Error> {
    for hook in hooks.into_iter().flatten() {
        let field = || format!("hooks.{kind}[{}]", hook.path().display());
        if !hook.path().is_absolute() {
            return Err(Error::invalid(field(), "the path must be absolute"));
        }
        if hook.timeout().is_some_and(|seconds| seconds <= 0) {
            return Err(Error::invalid(field(), "the timeout must be greater than zero"));
        }
    }
    Ok(())
}

/// Runs hooks in their order; the first that fails ends it.
pub(crate) fn run(kind: &str, hooks: Option<&Vec<Hook>>, state: &State) -> Result<(), Failure> {
    for hook in hooks.into_iter().flatten() {
        run_one(hook, state).map_err(|why| Failure::refused(format!("run {kind} hook"), hook.path().display(), why))?;
    }
    Ok(())
}

/// Runs all hooks and tells of those that fail.
pub(crate) fn run_all(kind: &str, hooks: Option<&Vec<Hook>>, state: &State, warn: fn(&str)) {
    for hook in hooks.into_iter().flatten() {
        if let Err(why) = run_one(hook, state) {
            warn(&format!("{kind} hook {} failed: {why}", hook.path().display()));
        }
    }
}

fn run_one(hook: &Hook, state: &State) -> Result<(), String> {
    let state = serde_json::to_vec(state).map_err(|error| error.to_string())?;
    let mut command = Command::new(hook.path());
    if let Some((name, args)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(name).args(args);
    }
    command.env_clear();
    for variable in hook.env().iter().flatten() {
        if let Some((key, value)) = variable.split_once('=') {
            command.env(key, value);
        }
    }
    // A hook's output goes where the runtime's complaints go; standard output may be the container's.
    let output =
        std::os::fd::AsFd::as_fd(&std::io::stderr()).try_clone_to_owned().map_err(|error| error.to_string())?;
    let mut child = command.stdin(Stdio::piped()).stdout(output).spawn().map_err(|error| error.to_string())?;
    if let Some(mut input) = child.stdin.take() {
        // A hook need not read its input.
        let _ = input.write_all(&state);
    }
    if let Some(seconds) = hook.timeout() {
        let pidfd = sys::pidfd_open(Pid::from_raw(child.id() as i32)).map_err(|errno| errno.to_string())?;
        let milliseconds = u32::try_from(seconds.saturating_mul(1000)).unwrap_or(u32::MAX);
        if !wait_readable(&pidfd, milliseconds).map_err(|errno| errno.to_string())? {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("not done within {seconds} s"));
        }
    }
    match child.wait().map_err(|error| error.to_string())? {
        status if status.success() => Ok(()),
        status => Err(status.to_string()),
    }
}

/// The state for hooks that run in the container, where its process has another number.
pub(crate) fn inside(state: &State) -> State {
    State { pid: std::process::id() as i32, ..state.clone() }
}

/// Waits for a process to end, at most so long.
pub(crate) fn wait_for_exit(pidfd: &std::os::fd::OwnedFd, milliseconds: u32, pid: i32) -> Result<(), Failure> {
    if wait_readable(pidfd, milliseconds).at("wait for", format!("process {pid}"))? {
        return Ok(());
    }
    Err(Failure::refused("wait for", format!("process {pid}"), "it does not end"))
}
