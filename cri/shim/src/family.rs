//! A process and all that it started.
//!
//! Without a cgroup of its own a process's children are known by two marks: the parent and the session. One
//! that made a session of its own and whose parent has ended has neither, and is not found; it ends with
//! the container.

use std::collections::BTreeSet;
use std::os::fd::AsFd;

use nix::errno::Errno;
use orlop_shim::protocol::Failure;

use crate::failure::Step;
use crate::proc::Proc;
use crate::sys;

/// Rounds of looking for what was started while the last one was killed.
const ROUNDS: usize = 16;

/// Who begins a family: a number that is used again once nobody of the family is left, so its start belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leader {
    pub(crate) pid: i32,
    /// None of one that had been reaped before it could be looked at.
    start: Option<u64>,
}

impl Leader {
    pub(crate) fn of(proc: &Proc, pid: i32) -> Leader {
        Leader { pid, start: kin(proc, pid).map(|kin| kin.start) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kin {
    pid: i32,
    parent: i32,
    session: i32,
    /// Clock ticks since the host came up.
    start: u64,
}

/// Signals `leader` and its family, of whom all are among `candidates()`.
pub(crate) fn signal(
    proc: &Proc,
    leader: Leader,
    signal: i32,
    candidates: impl Fn() -> Result<Vec<i32>, Failure>,
) -> Result<(), Failure> {
    if signal == libc::SIGKILL {
        // Whoever dies takes both marks from the children that it had since they were listed. Nobody of the
        // stopped ones forks, and all are still parents. Where this fails, the kill below says so as well.
        let _ = send_to_all(proc, leader, libc::SIGSTOP, &candidates);
    }
    send_to_all(proc, leader, signal, &candidates)
}

fn send_to_all(
    proc: &Proc,
    leader: Leader,
    signal: i32,
    candidates: impl Fn() -> Result<Vec<i32>, Failure>,
) -> Result<(), Failure> {
    let mut signalled = BTreeSet::new();
    for _ in 0..ROUNDS {
        let all: Vec<Kin> = candidates()?.into_iter().filter_map(|pid| kin(proc, pid)).collect();
        let new: Vec<Kin> = family(leader, &all).into_iter().filter(|kin| signalled.insert(kin.pid)).collect();
        if new.is_empty() {
            break;
        }
        new.into_iter().try_for_each(|kin| send(proc, kin, signal))?;
    }
    Ok(())
}

fn send(proc: &Proc, to: Kin, signal: i32) -> Result<(), Failure> {
    let sent = sys::open_pidfd(to.pid).and_then(|pidfd| {
        // Asked again with the handle held: the number may have become somebody else's before. The session
        // is no sign of that, it may be a new one of the same process.
        let same = kin(proc, to.pid).is_some_and(|now| now.start == to.start);
        if same { sys::signal_by_pidfd(pidfd.as_fd(), signal) } else { Ok(()) }
    });
    match sent {
        Err(Errno::ESRCH) | Ok(()) => Ok(()),
        other => other.step(format_args!("send signal {signal} to process {}", to.pid)),
    }
}

fn kin(proc: &Proc, pid: i32) -> Option<Kin> {
    parse(pid, &proc.read(&format!("{pid}/stat")).ok()?)
}

/// proc_pid_stat(5): the name, field 2, is in parentheses and may hold any character.
fn parse(pid: i32, stat: &str) -> Option<Kin> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(1);
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    let start = fields.nth(15)?.parse().ok()?;
    Some(Kin { pid, parent, session, start })
}

/// The leader, its session, and the descendants of all these; nobody when its number is another's by now.
fn family(leader: Leader, all: &[Kin]) -> Vec<Kin> {
    if all.iter().any(|kin| kin.pid == leader.pid && Some(kin.start) != leader.start) {
        return Vec::new();
    }
    let is_first = |kin: &Kin| kin.pid == leader.pid || kin.session == leader.pid;
    let mut found: Vec<Kin> = all.iter().copied().filter(is_first).collect();
    loop {
        let has = |pid| found.iter().any(|known| known.pid == pid);
        let children: Vec<Kin> = all.iter().copied().filter(|kin| has(kin.parent) && !has(kin.pid)).collect();
        if children.is_empty() {
            return found;
        }
        found.extend(children);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_a_hostile_name() {
        let stat = "12 (a) S 99 (b) R 7 12 5 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 8 9";
        assert_eq!(parse(12, stat), Some(Kin { pid: 12, parent: 7, session: 5, start: 4711 }));
        assert_eq!(parse(12, "12 (a"), None);
    }

    fn pids(found: Vec<Kin>) -> Vec<i32> {
        let sorted: BTreeSet<i32> = found.into_iter().map(|kin| kin.pid).collect();
        sorted.into_iter().collect()
    }

    #[test]
    fn the_family_is_session_and_descendants() {
        let kin = |(pid, parent, session)| Kin { pid, parent, session, start: 100 };
        let leader = |start| Leader { pid: 20, start };
        let all: Vec<Kin> = [
            (10, 1, 10), // the container's first
            (20, 1, 20), // the leader
            (21, 20, 20),
            (22, 21, 22), // a session of its own
            (23, 22, 22),
            (24, 10, 20), // its parent has ended
            (30, 1, 30),  // another
            (31, 10, 10),
        ]
        .map(kin)
        .to_vec();
        assert_eq!(pids(family(leader(Some(100)), &all)), [20, 21, 22, 23, 24]);
        for another in [Some(99), None] {
            assert!(family(leader(another), &all).is_empty());
        }
        let without_leader: Vec<Kin> = all.iter().copied().filter(|kin| kin.pid != 20).collect();
        assert_eq!(pids(family(leader(Some(100)), &without_leader)), [21, 22, 23, 24]);
    }
}
