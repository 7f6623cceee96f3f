//! Hooks: programs that the configuration wants run at certain points of the container's life. Each gets the
//! container's state as JSON on its standard input. OCI runtime specification, "POSIX-platform Hooks".

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::Pid;
use oci_spec::runtime::Hook;

use crate::error::{Context, Error, Failure};
use crate::handshake::wait_readable;
use crate::status::State;
use crate::sys;

/// How much of what a hook has said is told, in bytes; its end.
const MOST_OF_OUTPUT: u64 = 4096;

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

/// Runs hooks in their order; the first that fails ends it. A hook without an environment of its own has `env`, or
/// where there is none, as on the host, the caller's.
pub(crate) fn run(
    kind: &str,
    hooks: Option<&Vec<Hook>>,
    state: &State,
    env: Option<&[CString]>,
) -> Result<(), Failure> {
    for (at, hook) in hooks.into_iter().flatten().enumerate() {
        run_one(hook, state, env)
            .map_err(|why| Failure::refused(format!("run {kind} hook #{at}"), hook.path().display(), why))?;
    }
    Ok(())
}

/// Runs all hooks and tells of those that fail.
pub(crate) fn run_all(kind: &str, hooks: Option<&Vec<Hook>>, state: &State, warn: fn(&str)) {
    for hook in hooks.into_iter().flatten() {
        if let Err(why) = run_one(hook, state, None) {
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

fn run_one(hook: &Hook, state: &State, env: Option<&[CString]>) -> Result<(), String> {
    let state = serde_json::to_vec(state).map_err(|error| error.to_string())?;
    let mut command = Command::new(hook.path());
    if let Some((name, args)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(name).args(args);
    }
    let own: Option<Vec<&[u8]>> = hook.env().as_ref().map(|list| list.iter().map(String::as_bytes).collect());
    let given = env.map(|list| list.iter().map(CString::as_bytes).collect());
    if let Some(env) = own.filter(|own| !own.is_empty() || given.is_none()).or(given) {
        command.env_clear();
        for variable in env {
            let mut halves = variable.splitn(2, |byte| *byte == b'=').map(OsStr::from_bytes);
            if let (Some(name), Some(value)) = (halves.next(), halves.next()) {
                command.env(name, value);
            }
        }
    }
    // Standard output and error may be the container's: what a hook says is part of the error if it fails, as in runc.
    let mut said = file_in_memory(b"").map_err(|error| format!("make a file for its output: {error}"))?;
    let copy = || said.try_clone().map_err(|error| format!("copy a descriptor: {error}"));
    command.stdout(copy()?).stderr(copy()?);
    let input = file_in_memory(&state).map_err(|error| format!("make its input: {error}"))?;
    let child = command.stdin(input).spawn().map_err(|error| error.to_string())?;
    let ended = wait(child, hook.timeout()).map_err(|why| format!("{why}{}", output(&mut said)));
    // What the hook left running must not fill the host's memory with what it says from now on.
    let _ = said.set_len(0).map(|()| fcntl(&said, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW)));
    ended
}

/// Waits for a hook's end, and kills one that takes longer than its timeout, in seconds.
fn wait(mut child: Child, timeout: Option<i64>) -> Result<(), String> {
    if let Some(seconds) = timeout {
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

/// The end of what a hook has said, as part of an error.
fn output(said: &mut File) -> String {
    let length = said.metadata().map_or(0, |meta| meta.len());
    let mut end = Vec::new();
    let read = said
        .seek(SeekFrom::Start(length.saturating_sub(MOST_OF_OUTPUT)))
        .and_then(|_| said.take(MOST_OF_OUTPUT).read_to_end(&mut end));
    // It may be a program of the image that speaks, and an administrator's terminal that it comes to.
    let plain = |letter: char| if letter.is_control() && letter != '\n' && letter != '\t' { '?' } else { letter };
    match String::from_utf8_lossy(&end).trim() {
        text if read.is_ok() && !text.is_empty() => format!(": {}", text.chars().map(plain).collect::<String>()),
        _ => String::new(),
    }
}

/// A hook's input or output as a file in memory: a hook need not read its input, and a pipe would make us wait for it,
/// or end us by SIGPIPE.
fn file_in_memory(state: &[u8]) -> std::io::Result<File> {
    let make = |flags| memfd_create("hook", MFdFlags::MFD_CLOEXEC | flags);
    // The flag says that it is no program. Kernels before 6.3 do not know it, and a kernel may insist on it.
    let no_program = MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    let made = match make(no_program) {
        Err(Errno::EINVAL) => make(MFdFlags::MFD_ALLOW_SEALING),
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
