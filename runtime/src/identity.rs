//! Whether a process is still the one that was recorded, and what it does (proc_pid_stat(5)).

use std::os::fd::OwnedFd;

use nix::unistd::Pid;

use crate::procfs;
use crate::sys::{self, MemoryMap};

/// What /proc/PID/stat says about a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessStat {
    /// `Z` and `X` are processes that ended.
    state: char,
    /// The number of its parent; 0 when that is in another process namespace.
    pub(crate) parent: i32,
    /// Whether it was cloned and has executed nothing since: a container that waits for `start`.
    pub(crate) not_executed: bool,
    /// In clock ticks after boot.
    pub(crate) start_time: u64,
}

/// `PF_FORKNOEXEC` of the kernel's linux/sched.h.
const FORKED_WITHOUT_EXEC: u64 = 0x40;

impl ProcessStat {
    /// `None` when there is no such process.
    pub(crate) fn read(pid: i32) -> Option<ProcessStat> {
        ProcessStat::parse(&procfs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(stat: &[u8]) -> Option<ProcessStat> {
        let fields = after_name(stat)?;
        let flags: u64 = fields.get(6)?.parse().ok()?;
        Some(ProcessStat {
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            not_executed: flags & FORKED_WITHOUT_EXEC != 0,
            start_time: fields.get(19)?.parse().ok()?,
        })
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    /// Whether a signal stopped it, as SIGSTOP does.
    pub(crate) fn is_stopped(&self) -> bool {
        self.state == 'T'
    }
}

/// The fields of a line from the third on: `[n - 3]` is what proc_pid_stat(5) numbers n.
fn after_name(stat: &[u8]) -> Option<Vec<&str>> {
    // The second is the name in parentheses, and a name may hold anything: also what is not UTF-8, as when the kernel
    // cuts a longer one inside of a letter.
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    Some(std::str::from_utf8(stat.get(name_end + 2..)?).ok()?.trim_end().split(' ').collect())
}

/// Where in memory the calling process has its program, its arguments and its environment, if it has one thread and
/// nobody changes any of it meanwhile.
pub(crate) fn own_memory() -> Option<MemoryMap> {
    let stat = procfs::read("/proc/self/stat").ok()?;
    let fields = after_name(&stat)?;
    let field = |number: usize| fields.get(number - 3)?.parse().ok();
    (field(20)? == 1).then_some(())?;
    Some(MemoryMap {
        start_code: field(26)?,
        end_code: field(27)?,
        start_stack: field(28)?,
        start_data: field(45)?,
        end_data: field(46)?,
        start_brk: field(47)?,
        arg_start: field(48)?,
        arg_end: field(49)?,
        env_start: field(50)?,
        env_end: field(51)?,
        ..MemoryMap::default()
    })
}

/// A pidfd for the process that had this number and began at this time, if it lives.
pub(crate) fn open_process(pid: i32, start_time: u64) -> Option<OwnedFd> {
    if pid <= 0 {
        return None;
    }
    // The descriptor first: what is read after it is about the process that it holds, or about nothing.
    let pidfd = sys::pidfd_open(Pid::from_raw(pid)).ok()?;
    let stat = ProcessStat::read(pid)?;
    (stat.start_time == start_time && !stat.has_ended()).then_some(pidfd)
}

/// The name of a user in /etc/passwd.
pub(crate) fn user_name(uid: u32) -> Option<String> {
    let passwd = std::fs::read("/etc/passwd").ok()?;
    let named = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    };
    String::from_utf8_lossy(&passwd).lines().find_map(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_a_hostile_name() {
        let stat = ProcessStat { state: 'S', parent: 1, not_executed: true, start_time: 98_765 };
        for name in [b"a) Z (b".as_slice(), b"\xff\xfe) (\xd0"] {
            let rest = b") S 1 42 42 0 -1 4194624 1 0 0 0 0 0 0 0 20 0 1 0 98765 0 0";
            assert_eq!(ProcessStat::parse(&[b"42 (", name, rest].concat()), Some(stat));
        }
        assert_eq!(ProcessStat::parse(b"42 (a"), None);
        assert_eq!(ProcessStat::parse(b"42 (a)"), None);
        assert_eq!(ProcessStat::parse(b""), None);
    }

    #[test]
    fn this_process() {
        let pid = std::process::id() as i32;
        let stat = ProcessStat::read(pid).expect("stat");
        assert!(!stat.not_executed && !stat.has_ended());
        assert!(open_process(pid, stat.start_time).is_some());
        assert!(open_process(pid, stat.start_time + 1).is_none());
    }
}
