//! Seccomp: the spec's profile compiled to a classic BPF program (seccomp(2)).
//!
//! ```text
//! profile --rules.rs----> per architecture: ranges of system call numbers, each with a decision
//!         --search.rs---> a tree over the ranges
//!         --compile.rs--> and what to ask about arguments
//!         --assembler.rs--> instructions
//! ```
//! A tree makes a system call cost some ten instructions however long the profile is. That loads fast, too: the
//! kernel translates the filter twice, to its own instructions and those to the machine's in several passes, and
//! runs it once for every system call number.

mod arch;
mod assembler;
mod compile;
mod conditions;
mod notify;
mod rules;
mod search;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompFilterFlag};

use std::os::fd::OwnedFd;

use crate::error::{Context, Error, Failure};
use crate::sys::{self, FilterInsn};

pub(crate) use arch::SUPPORTED as ARCHITECTURES;
pub(crate) use notify::Listener;

/// A profile of `linux.seccomp`, compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    program: Vec<FilterInsn>,
    flags: u32,
}

const SECCOMP_FILTER_FLAG_TSYNC: u32 = 1;
const SECCOMP_FILTER_FLAG_LOG: u32 = 2;
const SECCOMP_FILTER_FLAG_SPEC_ALLOW: u32 = 4;
const SECCOMP_FILTER_FLAG_NEW_LISTENER: u32 = 8;
const SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: u32 = 32;

impl Filter {
    /// Compiles a profile. Fails when it contradicts itself, or needs more instructions than the kernel takes.
    pub fn compile(profile: &LinuxSeccomp) -> Result<Filter, Error> {
        let asks = Listener::plan(profile)?.is_some();
        let tables = rules::tables(profile)?;
        let program = compile::program(&tables);
        if program.len() > compile::MAX_INSTRUCTIONS {
            return Err(Error::invalid(
                "linux.seccomp",
                format!("the profile needs {} instructions, the kernel takes 4096", program.len()),
            ));
        }
        let flags = profile.flags().iter().flatten().map(|flag| match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => SECCOMP_FILTER_FLAG_LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => SECCOMP_FILTER_FLAG_TSYNC,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
        });
        let flags = flags.fold(0, |all, flag| all | flag);
        // The kernel has one result for a listener and for the thread that another filter keeps from taking this
        // one, and knows this kind of waiting with a listener only. There is one thread here.
        let flags = if asks {
            (flags & !SECCOMP_FILTER_FLAG_TSYNC) | SECCOMP_FILTER_FLAG_NEW_LISTENER
        } else {
            flags & !SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
        };
        Ok(Filter { program, flags })
    }

    /// The instructions, as `struct sock_filter` of linux/filter.h has them: code, `jt`, `jf`, `k`.
    pub fn instructions(&self) -> impl ExactSizeIterator<Item = (u16, u8, u8, u32)> {
        self.program.iter().map(|insn| (insn.code, insn.jt, insn.jf, insn.k))
    }

    /// Whether somebody is asked about system calls.
    pub(crate) fn asks(&self) -> bool {
        self.flags & SECCOMP_FILTER_FLAG_NEW_LISTENER != 0
    }

    /// Installs the filter for the calling thread and what it will execute. That needs no_new_privs or
    /// CAP_SYS_ADMIN. The descriptor is for whoever is to be asked about system calls.
    pub fn install(&self) -> Result<Option<OwnedFd>, Failure> {
        sys::install_filter(&self.program, self.flags).at("install seccomp filter", "")
    }
}
