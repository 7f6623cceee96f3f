//! A process that goes ahead into namespaces which nobody comes back from.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::unistd::Pid;

use crate::child::Child;
use crate::error::{Context, Error, Failure};
use crate::handshake::{self, Patience, Report};
use crate::sys;

/// Clones a process from inside namespaces that the caller must stay out of, so that its own new namespaces belong
/// to the user namespace among them. A first clone, made by `fork`, goes ahead by `enter`, and the process that is
/// wanted, whose work is `run`, is its sibling: the caller's child, with new namespaces `flags`.
///
/// Only the outer error is one of the first clone.
pub(crate) fn clone_ahead<P>(
    plan: &mut P,
    fork: impl FnOnce(&P) -> nix::Result<Option<(Pid, OwnedFd)>>,
    flags: u64,
    enter: impl FnOnce(&mut P) -> Result<(), Failure>,
    run: fn(&mut P) -> !,
) -> nix::Result<Result<(Pid, OwnedFd), Error>> {
    let (caller, process) = match handshake::pair() {
        Ok(pair) => pair,
        Err(failure) => return Ok(Err(failure.into())),
    };
    let Some((pid, pidfd)) = fork(plan)? else {
        drop(caller);
        let cloned = enter(plan)
            .and_then(|()| sys::clone_sibling(flags).at("clone", "the container's process in its user namespace"));
        let _ = match cloned {
            Ok(None) => run(plan),
            Ok(Some((_, pidfd))) => process.report(&Report::Ready, Some(pidfd.as_fd())),
            Err(failure) => process.report(&Report::Failed(failure), None),
        };
        sys::exit_now(0)
    };
    let mut ahead = Child::new(pid, pidfd);
    drop(process);
    Ok(match caller.report(&mut Patience::new(pid.as_raw(), Some(Duration::ZERO))) {
        Ok(Some((Report::Ready, Some(pidfd)))) => match process_of(&pidfd) {
            Ok(pid) => Ok((pid, pidfd)),
            Err(failure) => Err(failure.into()),
        },
        Ok(Some((Report::Failed(failure), _))) | Err(failure) => Err(failure.into()),
        Ok(_) => Err(Error::InitDied(ahead.fate())),
    })
}

/// The process that a pidfd is of, as the caller sees it.
fn process_of(pidfd: &OwnedFd) -> Result<Pid, Failure> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let info = std::fs::read_to_string(&path).at("read", &path)?;
    let number = info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok()).filter(|pid| *pid > 0);
    number.map(Pid::from_raw).ok_or_else(|| Failure::refused("read", path, "the container's process has ended"))
}
