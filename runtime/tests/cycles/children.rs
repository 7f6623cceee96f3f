//! The children of this test: commands, which their caller waits for, and orphans of commands that were killed.
//! Those are reaped at once, as a container manager does it: a process namespace does not end before the last
//! of its processes is reaped.

use std::collections::HashSet;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use crate::inventory;

/// How long what was left to itself may take to end: a process whose caller was killed before it had joined
/// the container's cgroup ends when it next talks to it.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

static COMMANDS: LazyLock<Mutex<HashSet<i32>>> = LazyLock::new(Mutex::default);

fn commands() -> MutexGuard<'static, HashSet<i32>> {
    COMMANDS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Spawns a command that somebody will wait for.
pub(crate) fn spawn(command: &mut Command) -> Child {
    let mut known = commands();
    let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    known.insert(child.id() as i32);
    child
}

/// How a command ended; `None` when it has not.
pub(crate) fn ended(child: &mut Child) -> Option<ExitStatus> {
    let mut known = commands();
    let status = child.try_wait().expect("wait")?;
    known.remove(&(child.id() as i32));
    Some(status)
}

/// Runs a command to its end; whether it succeeded.
pub(crate) fn run(command: &mut Command) -> bool {
    let mut child = spawn(command);
    loop {
        match ended(&mut child) {
            Some(status) => return status.success(),
            None => std::thread::sleep(Duration::from_micros(200)),
        }
    }
}

/// Reaps orphans until it is told to stop.
pub(crate) fn reap(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        if !reap_one() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn reap_one() -> bool {
    let known = commands();
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT | WaitPidFlag::__WALL;
    match waitid(Id::All, flags).ok().and_then(|status| status.pid()) {
        Some(pid) if !known.contains(&pid.as_raw()) => waitpid(pid, Some(WaitPidFlag::__WALL)).is_ok(),
        _ => false,
    }
}

/// Waits until no child is left, when there are no commands; who is still there after a while is named.
pub(crate) fn left() -> Vec<String> {
    let deadline = Instant::now() + ENDS_WITHIN;
    loop {
        match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
            Err(Errno::ECHILD) => return Vec::new(),
            Ok(WaitStatus::StillAlive) if Instant::now() > deadline => return inventory::processes_below_this(),
            Ok(WaitStatus::StillAlive) => std::thread::sleep(Duration::from_millis(2)),
            Ok(_) | Err(Errno::EINTR) => (),
            Err(errno) => panic!("waitpid: {errno}"),
        }
    }
}
