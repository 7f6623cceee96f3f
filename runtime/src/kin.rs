//! The processes of a container that has no cgroup to list them, as an ordinary user's may be.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::identity::{ProcessStat, open_process};
use crate::store::Record;
use crate::sys;

/// Rounds of looking for what was started while the last ones were killed.
const ROUNDS: usize = 16;

/// A process as it was listed. The number may be another's by the time it is used; the start tells.
type Listed = (i32, ProcessStat);

/// The processes of its process namespace; without one of its own, its first process and what descends from it.
pub(crate) fn pids(record: &Record) -> Vec<Pid> {
    members(record).into_iter().map(|(pid, _)| Pid::from_raw(pid)).collect()
}

fn members(record: &Record) -> Vec<Listed> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let all = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut all: Vec<Listed> = all.filter_map(|pid| Some((pid, ProcessStat::read(pid)?))).collect();
    all.sort_unstable_by_key(|(pid, _)| *pid);
    // Once the first has ended its number may be anybody's, and so would all that is found by it.
    let is_first = |stat: &ProcessStat| stat.start_time == record.start_time;
    if !all.iter().any(|(pid, stat)| *pid == record.pid && is_first(stat)) {
        return Vec::new();
    }
    if !record.own_pid_namespace {
        return family(record.pid, &all);
    }
    let found = neighbours(record.pid, all);
    if ProcessStat::read(record.pid).is_some_and(|stat| is_first(&stat)) { found } else { Vec::new() }
}

fn neighbours(first: i32, mut all: Vec<Listed>) -> Vec<Listed> {
    let namespace = |pid: i32| {
        let meta = std::fs::metadata(format!("/proc/{pid}/ns/pid")).ok()?;
        Some((meta.dev(), meta.ino()))
    };
    let own = namespace(first);
    all.retain(|(pid, _)| own.is_some() && namespace(*pid) == own);
    all
}

fn family(first: i32, all: &[Listed]) -> Vec<Listed> {
    let mut family: Vec<Listed> = all.iter().filter(|(pid, _)| *pid == first).copied().collect();
    let mut seen = 0;
    while let Some((member, _)) = family.get(seen).copied() {
        seen += 1;
        family.extend(all.iter().filter(|(pid, stat)| stat.parent == member && *pid != first));
    }
    family
}

/// Sends a signal to all of them, and says to how many. Those that have ended are passed over, and one that the caller
/// may not send to does not keep it from the rest.
pub(crate) fn signal(record: &Record, signal: i32) -> nix::Result<usize> {
    if signal != libc::SIGKILL || record.own_pid_namespace {
        // With the first process of its namespace the kernel kills the others.
        return send_to_all(record, signal, 1);
    }
    // A child whose parent has died is found no more. Of those that are stopped nobody dies, and nobody forks.
    let _ = send_to_all(record, libc::SIGSTOP, ROUNDS);
    send_to_all(record, signal, ROUNDS)
}

fn send_to_all(record: &Record, signal: i32, rounds: usize) -> nix::Result<usize> {
    let (mut reached, mut failed, mut known) = (0, None, BTreeSet::new());
    let own_number = std::process::id() as i32;
    for _ in 0..rounds {
        let mut new = members(record);
        new.retain(|(pid, stat)| known.insert((*pid, stat.start_time)));
        if new.is_empty() {
            break;
        }
        // A caller that is one of them comes last, and must not stop itself before that.
        let (own, others): (Vec<Listed>, Vec<Listed>) = new.into_iter().partition(|(pid, _)| *pid == own_number);
        for (pid, stat) in others.into_iter().chain(own.into_iter().filter(|_| signal != libc::SIGSTOP)) {
            // Looks at the start again, with the process in hand.
            let Some(process) = open_process(pid, stat.start_time) else { continue };
            match sys::pidfd_send_signal(&process, signal) {
                Ok(()) => reached += 1,
                Err(Errno::ESRCH) => (),
                Err(errno) => failed = failed.or(Some(errno)),
            }
        }
    }
    failed.map_or(Ok(reached), Err)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use oci_spec::runtime::Spec;

    use super::*;

    /// Ends with the test.
    struct Sleeper(Child);

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// The number of a dead first process may be anybody's.
    #[test]
    fn a_stranger_with_the_number_is_not_kin() {
        let sleeper = Sleeper(Command::new("sleep").arg("1000").spawn().unwrap());
        let pid = sleeper.0.id() as i32;
        let started = ProcessStat::read(pid).unwrap().start_time;
        for own_pid_namespace in [false, true] {
            let mut record = Record::new("a", "/".into(), "/".into(), &Spec::default());
            (record.pid, record.own_pid_namespace) = (pid, own_pid_namespace);
            record.start_time = started + 1;
            assert_eq!(pids(&record), []);
            record.start_time = started;
            assert!(pids(&record).contains(&Pid::from_raw(pid)));
        }
        // Not with a namespace: it is the host's here.
        let mut record = Record::new("a", "/".into(), "/".into(), &Spec::default());
        (record.pid, record.start_time) = (pid, started + 1);
        assert_eq!(signal(&record, libc::SIGKILL), Ok(0));
        assert!(ProcessStat::read(pid).is_some_and(|stat| !stat.has_ended()));
    }
}
