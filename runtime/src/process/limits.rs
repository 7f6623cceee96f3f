//! Resource limits of a process (setrlimit(2)).

use nix::errno::Errno;
use oci_spec::runtime::{PosixRlimitType, Process};

use crate::error::{Context, Error, Failure};
use crate::sys;

/// Resources with their soft and hard limits.
#[derive(Debug)]
pub(crate) struct Rlimits(Vec<(u32, [u64; 2])>);

impl Rlimits {
    pub(crate) fn plan(process: &Process) -> Result<Rlimits, Error> {
        let mut limits: Vec<(u32, [u64; 2])> = Vec::new();
        for limit in process.rlimits().iter().flatten() {
            let resource = number(limit.typ());
            if limits.iter().any(|(known, _)| *known == resource) {
                return Err(Error::invalid("process.rlimits", format!("{} is there twice", limit.typ())));
            }
            limits.push((resource, [limit.soft(), limit.hard()]));
        }
        Ok(Rlimits(limits))
    }

    /// Sets the limits of the calling process.
    pub(super) fn set(&self) -> Result<(), Failure> {
        self.0.iter().try_for_each(|(resource, limits)| set(0, *resource, *limits).map(drop))
    }

    /// Raises those hard limits of a process, 0 for the calling one, that are to be higher than they are. In a user
    /// namespace it could not do so itself, not even as its root: the kernel asks for `CAP_SYS_RESOURCE` of the
    /// host. The rest is left to [`Rlimits::set`], since it is to hold for the program and not for what makes it ready.
    pub(crate) fn raise(&self, pid: i32) -> Result<(), Failure> {
        for (resource, [_, hard]) in &self.0 {
            let [soft, now] = sys::rlimit(pid, *resource, None).at("read", format!("rlimit {resource}"))?;
            if *hard > now {
                set(pid, *resource, [soft, *hard])?;
            }
        }
        Ok(())
    }
}

fn set(pid: i32, resource: u32, limits: [u64; 2]) -> Result<[u64; 2], Failure> {
    let [soft, hard] = limits;
    let set = sys::rlimit(pid, resource, Some(limits)).at("set", format!("rlimit {resource} to {soft}:{hard}"));
    set.map_err(|failure| match failure.errno {
        errno if errno == Errno::EPERM as i32 => {
            failure.note("process.rlimits: raising a hard limit needs CAP_SYS_RESOURCE on the host")
        }
        _ => failure,
    })
}

fn number(limit: PosixRlimitType) -> u32 {
    let number = match limit {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    };
    number as u32
}
