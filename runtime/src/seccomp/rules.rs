//! What a profile means: for each architecture a decision for every system call number.

use std::collections::BTreeMap;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall};

use super::arch::{Architecture, NATIVE};
use crate::error::Error;

/// `SECCOMP_RET_*` with its data: what the filter returns.
pub(super) type Verdict = u32;

const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_KILL_THREAD: u32 = 0;
const RET_TRAP: u32 = 0x0003_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_USER_NOTIF: u32 = 0x7fc0_0000;
const RET_TRACE: u32 = 0x7ff0_0000;
const RET_LOG: u32 = 0x7ffc_0000;
const RET_ALLOW: u32 = 0x7fff_0000;

/// What is done about a call of an architecture that the profile does not know: nobody looked at its numbers.
pub(super) const UNKNOWN_ARCHITECTURE: Verdict = RET_KILL_PROCESS;

/// One comparison of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) index: u32,
    pub(super) operator: LinuxSeccompOperator,
    pub(super) value: u64,
    /// The value that the masked argument must have, for `SCMP_CMP_MASKED_EQ`.
    pub(super) value_two: u64,
}

/// What is done about one system call: the first branch whose conditions all hold, or else `otherwise`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) branches: Vec<(Vec<Condition>, Verdict)>,
    pub(super) otherwise: Verdict,
}

impl Decision {
    fn plain(verdict: Verdict) -> Decision {
        Decision { branches: Vec::new(), otherwise: verdict }
    }
}

/// The decisions of one architecture: each is for the numbers from its own to before the next. The first is 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) architecture: Architecture,
    pub(super) ranges: Vec<(u32, Decision)>,
}

/// Understands a profile. OCI runtime specification, "Seccomp".
pub(super) fn tables(profile: &LinuxSeccomp) -> Result<Vec<Table>, Error> {
    let default = verdict(profile.default_action(), profile.default_errno_ret())?;
    let mut architectures = vec![NATIVE];
    for arch in profile.architectures().iter().flatten() {
        match Architecture::from_spec(*arch) {
            Some(known) if !architectures.contains(&known) => architectures.push(known),
            _ => (),
        }
    }
    architectures.into_iter().map(|architecture| table(architecture, profile, default)).collect()
}

fn table(architecture: Architecture, profile: &LinuxSeccomp, default: Verdict) -> Result<Table, Error> {
    let mut decisions: BTreeMap<u32, Decision> = BTreeMap::new();
    let mut newest = None;
    for syscall in profile.syscalls().iter().flatten() {
        let verdict = verdict(syscall.action(), syscall.errno_ret())?;
        let branches = branches(syscall)?;
        for number in syscall.names().iter().filter_map(|name| architecture.number(name)) {
            newest = newest.max(Some(number));
            add(decisions.entry(number).or_insert_with(|| Decision::plain(default)), &branches, verdict, default);
        }
    }
    let beyond = match newest {
        Some(_) if hides_new_calls(profile) => RET_ERRNO | libc::ENOSYS as u32,
        _ => default,
    };
    Ok(Table { architecture, ranges: ranges(decisions, newest, default, beyond) })
}

/// Adds a rule to what is decided about a call: conditions are tried in the order of the profile, and a rule
/// without conditions is for what none of them caught. Of several of the latter the first counts.
fn add(decision: &mut Decision, branches: &[Vec<Condition>], verdict: Verdict, default: Verdict) {
    if branches.is_empty() {
        if decision.otherwise == default {
            decision.otherwise = verdict;
        }
    } else {
        decision.branches.extend(branches.iter().map(|conditions| (conditions.clone(), verdict)));
    }
}

/// A profile is older than the newest kernel's system calls. Programs fall back when a call is missing
/// (`ENOSYS`), but take `EPERM` or death as final; so what is newer than all that the profile names is missing.
/// Not when the profile lets unnamed calls happen, or already says what it wants.
fn hides_new_calls(profile: &LinuxSeccomp) -> bool {
    !matches!(
        profile.default_action(),
        LinuxSeccompAction::ScmpActAllow
            | LinuxSeccompAction::ScmpActLog
            | LinuxSeccompAction::ScmpActTrace
            | LinuxSeccompAction::ScmpActNotify
    )
}

/// Neighbours with the same decision become one range.
fn ranges(
    decisions: BTreeMap<u32, Decision>,
    newest: Option<u32>,
    default: Verdict,
    beyond: Verdict,
) -> Vec<(u32, Decision)> {
    let mut ranges: Vec<(u32, Decision)> = Vec::new();
    let mut push = |start: u32, decision: Decision| {
        if ranges.last().is_none_or(|(_, last)| *last != decision) {
            ranges.push((start, decision));
        }
    };
    let mut next = 0;
    for (number, decision) in decisions {
        if number > next {
            push(next, Decision::plain(default));
        }
        push(number, decision);
        next = number + 1;
    }
    push(next, Decision::plain(if newest.is_some() { beyond } else { default }));
    ranges
}

fn verdict(action: LinuxSeccompAction, errno: Option<u32>) -> Result<Verdict, Error> {
    // The kernel takes no larger error number (MAX_ERRNO), and 16 bits of data.
    let errno_or = |default: i32| match errno.unwrap_or(default as u32) {
        errno if errno <= 4095 => Ok(errno),
        errno => Err(Error::invalid("linux.seccomp.errnoRet", format!("{errno} is no error number"))),
    };
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => RET_KILL_THREAD,
        LinuxSeccompAction::ScmpActKillProcess => RET_KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => RET_TRAP,
        LinuxSeccompAction::ScmpActErrno => RET_ERRNO | errno_or(libc::EPERM)?,
        LinuxSeccompAction::ScmpActTrace => RET_TRACE | errno_or(libc::EPERM)?,
        LinuxSeccompAction::ScmpActLog => RET_LOG,
        LinuxSeccompAction::ScmpActAllow => RET_ALLOW,
        LinuxSeccompAction::ScmpActNotify => RET_USER_NOTIF,
    })
}

/// The conditions of a rule: all must hold, except that several on one argument are alternatives.
fn branches(syscall: &LinuxSyscall) -> Result<Vec<Vec<Condition>>, Error> {
    let args = syscall.args().as_deref().unwrap_or_default();
    let conditions = args.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
    if conditions.is_empty() {
        return Ok(Vec::new());
    }
    let repeated =
        conditions.iter().enumerate().any(|(at, one)| conditions[..at].iter().any(|other| other.index == one.index));
    Ok(if repeated { conditions.into_iter().map(|condition| vec![condition]).collect() } else { vec![conditions] })
}

fn condition(arg: &LinuxSeccompArg) -> Result<Condition, Error> {
    if arg.index() > 5 {
        return Err(Error::invalid("linux.seccomp.syscalls.args.index", "system calls have arguments 0 to 5"));
    }
    Ok(Condition {
        index: arg.index() as u32,
        operator: arg.op(),
        value: arg.value(),
        value_two: arg.value_two().unwrap_or(0),
    })
}
