//! Resource limits of a process (setrlimit(2)).

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
        self.0.iter().try_for_each(|(resource, limits)| change(*resource, *limits))
    }
}

fn change(resource: u32, [soft, hard]: [u64; 2]) -> Result<(), Failure> {
    sys::set_rlimit(resource, soft, hard).at("set", format!("rlimit {resource} to {soft}:{hard}"))
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
