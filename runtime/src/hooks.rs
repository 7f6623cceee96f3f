//! Hooks: programs that the configuration wants run at certain points of the container's life. Each gets the
//! container's state as JSON on its standard input. OCI runtime specification, "POSIX-platform Hooks".

use std::fs::File;
use std::io::{Seek, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
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

/// How long hooks may take at most; `None` when one of them has no timeout.
pub(crate) fn time(hooks: Option<&Vec<Hook>>) -> Option<Duration> {
    let seconds = |hook: &Hook| hook.timeout().map(|seconds| u64::try_from(seconds).unwrap_or(0));
    let all: Option<Vec<u64>> = hooks.into_iter().flatten().map(seconds).collect();
    all.map(|all| Duration::from_secs(all.into_iter().fold(0, u64::saturating_add)))
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
    let input = input(&state).map_err(|error| format!("make its input: {error}"))?;
    let mut child = command.stdin(input).stdout(output).spawn().map_err(|error| error.to_string())?;
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

/// A hook's input as a file in memory: a hook need not read it, and a pipe would make us wait for it, or end
/// us by SIGPIPE.
fn input(state: &[u8]) -> std::io::Result<File> {
    let make = |flags| memfd_create("hook", MFdFlags::MFD_CLOEXEC | flags);
    // The flag says that it is no program. Kernels before 6.3 do not know it, and a kernel may insist on it.
    let no_program = MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    let made = match make(no_program) {
        Err(Errno::EINVAL) => make(MFdFlags::empty()),
        made => made,
    };
    let mut file = File::from(made?);
    file.write_all(state)?;
    file.rewind()?;
    Ok(file)
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
