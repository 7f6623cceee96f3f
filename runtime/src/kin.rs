//! The processes of a container that has no cgroup to list them, as an ordinary user's may be.

use std::os::unix::fs::MetadataExt;

use nix::unistd::Pid;

use crate::procfs;
use crate::store::Record;
use crate::sys;

/// The processes of its process namespace; without one of its own, its first process and what descends from it.
pub(crate) fn pids(record: &Record) -> Vec<Pid> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut all: Vec<i32> = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    all.sort_unstable();
    let kin: Vec<i32> = if record.own_pid_namespace { neighbours(record.pid, &all) } else { family(record.pid, &all) };
    kin.into_iter().map(Pid::from_raw).collect()
}

fn neighbours(first: i32, all: &[i32]) -> Vec<i32> {
    let namespace = |pid: i32| {
        let meta = std::fs::metadata(format!("/proc/{pid}/ns/pid")).ok()?;
        Some((meta.dev(), meta.ino()))
    };
    match namespace(first) {
        Some(own) => all.iter().copied().filter(|pid| namespace(*pid) == Some(own)).collect(),
        None => Vec::new(),
    }
}

fn family(first: i32, all: &[i32]) -> Vec<i32> {
    let parents: Vec<(i32, i32)> = all.iter().filter_map(|pid| Some((*pid, parent(*pid)?))).collect();
    let mut family = vec![first];
    let mut seen = 0;
    while let Some(member) = family.get(seen).copied() {
        seen += 1;
        let children = parents.iter().filter(|(_, parent)| *parent == member).map(|(pid, _)| *pid);
        let children: Vec<i32> = children.filter(|pid| !family.contains(pid)).collect();
        family.extend(children);
    }
    family.retain(|pid| all.contains(pid));
    family
}

/// The fourth field of proc_pid_stat(5); the second, a name in parentheses, may hold anything.
fn parent(pid: i32) -> Option<i32> {
    let stat = procfs::read_text(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Sends a signal to all of them; those that have ended are passed over.
pub(crate) fn signal(record: &Record, signal: i32) -> nix::Result<usize> {
    let mut reached = 0;
    for pid in pids(record) {
        match sys::pidfd_open(pid).and_then(|pidfd| sys::pidfd_send_signal(pidfd, signal)) {
            Ok(()) => reached += 1,
            Err(nix::errno::Errno::ESRCH) => (),
            Err(errno) => return Err(errno),
        }
    }
    Ok(reached)
}
