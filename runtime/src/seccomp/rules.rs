//! What a profile means: for each architecture a decision for every system call number.
//!
//! Profiles are written for libseccomp as runc calls it, so they mean here what they mean there: rules that ask
//! for the default action count for nothing; a rule without conditions is stronger than all with conditions for
//! the same call, and the first of several such; conditions for one call that overlap are tried in libseccomp's
//! order ([`conditions::order`]), not in that of the profile.

use fnv::{FnvBuildHasher, FnvHashMap};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction};

use super::arch::{Architecture, NATIVE, X32_BIT};
use super::conditions::{self, Condition};
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

/// What is done about a call of an architecture that the profile does not know: nobody looked at its numbers. runc
/// leaves it at libseccomp's default, which ends the thread only, and its neighbours wait for it for ever.
pub(super) const UNKNOWN_ARCHITECTURE: Verdict = RET_KILL_PROCESS;

/// What is done about a call that is newer than the profile.
const TOO_NEW: Verdict = RET_ERRNO | libc::ENOSYS as u32;

/// What is done about one system call: the first branch whose conditions all hold, or else `otherwise`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) branches: Vec<(Vec<Condition>, Verdict)>,
    pub(super) otherwise: Verdict,
}

impl Decision {
    pub(super) fn plain(verdict: Verdict) -> Decision {
        Decision { branches: Vec::new(), otherwise: verdict }
    }
}

/// System calls by number, with what is decided about each.
type Calls = Vec<(u32, Decision)>;

/// The decisions about one kind of `seccomp_data.arch`: each is for the numbers from its own to before the next.
/// The first is 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) audit: u32,
    pub(super) ranges: Vec<(u32, Decision)>,
}

/// A rule of the profile, understood.
#[derive(Debug)]
struct Rule {
    verdict: Verdict,
    /// One of these must hold, with all its conditions; none means that there are no conditions.
    alternatives: Vec<Vec<Condition>>,
}

/// A system call of an architecture that a rule names.
struct Match {
    number: u32,
    /// Its index.
    rule: usize,
    name: &'static str,
    /// The first argument, by which `number` is this call.
    first: Option<u64>,
}

/// The rules, and those of them that name a system call.
struct Profile<'a> {
    rules: Vec<Rule>,
    /// By name. Names that collide cost whoever chose them no more than as many other rules would, so the hash needs
    /// no secret.
    named: FnvHashMap<&'a str, usize>,
    /// For each time that a rule names a call, the rule and the time before in this list: one list in place of one for
    /// each name, which would be as many allocations.
    mentions: Vec<(usize, Option<usize>)>,
    default: Verdict,
    hides_new_calls: bool,
}

/// Understands a profile. OCI runtime specification, "Seccomp".
pub(super) fn tables(profile: &LinuxSeccomp) -> Result<Vec<Table>, Error> {
    let mut architectures = vec![NATIVE];
    for arch in profile.architectures().iter().flatten() {
        match Architecture::from_spec(*arch) {
            Some(known) if !architectures.contains(&known) => architectures.push(known),
            _ => (),
        }
    }
    let profile = Profile::new(profile)?;
    let has_x32 = architectures.contains(&Architecture::X32);
    let tables = architectures.into_iter().filter(|architecture| *architecture != Architecture::X32);
    tables.map(|architecture| profile.table(architecture, has_x32)).collect()
}

impl Profile<'_> {
    fn new(profile: &LinuxSeccomp) -> Result<Profile<'_>, Error> {
        let names = profile.syscalls().iter().flatten().map(|syscall| syscall.names().len()).sum();
        let mut understood = Profile {
            rules: Vec::new(),
            named: FnvHashMap::with_capacity_and_hasher(names, FnvBuildHasher::default()),
            mentions: Vec::with_capacity(names),
            default: verdict(profile.default_action(), profile.default_errno_ret())?,
            hides_new_calls: hides_new_calls(profile),
        };
        for syscall in profile.syscalls().iter().flatten() {
            for name in syscall.names() {
                let before = understood.named.insert(name, understood.mentions.len());
                understood.mentions.push((understood.rules.len(), before));
            }
            let verdict = verdict(syscall.action(), syscall.errno_ret())?;
            understood.rules.push(Rule { verdict, alternatives: conditions::alternatives(syscall)? });
        }
        Ok(understood)
    }

    /// The rules that name a call, the last first.
    fn rules_of(&self, name: &str) -> impl Iterator<Item = usize> {
        let mentions = std::iter::successors(self.named.get(name), |at| self.mentions[**at].1.as_ref());
        mentions.map(|at| self.mentions[*at].0)
    }

    fn table(&self, architecture: Architecture, has_x32: bool) -> Result<Table, Error> {
        let (calls, newest) = self.calls(architecture)?;
        let mut ranges = Ranges::default();
        if architecture == Architecture::X86_64 {
            self.fill(&mut ranges, 0, calls, newest, 0..X32_BIT);
            self.fill_x32(&mut ranges, has_x32, newest)?;
        } else {
            self.fill(&mut ranges, 0, calls, newest, 0..u32::MAX);
        }
        Ok(Table { audit: architecture.audit(), ranges: ranges.0 })
    }

    /// The numbers of x86_64 from [`X32_BIT`] on. Those without the bit are of no call at all, and -1 is what a
    /// tracer makes of a call that it skips: then it is not of x32.
    fn fill_x32(&self, ranges: &mut Ranges, has_x32: bool, newest_64: Option<u32>) -> Result<(), Error> {
        let unknown = Decision::plain(if has_x32 { self.default } else { UNKNOWN_ARCHITECTURE });
        let without_bit = if self.hides_beyond(newest_64) { Decision::plain(TOO_NEW) } else { unknown.clone() };
        let newest = if has_x32 {
            let (calls, newest) = self.calls(Architecture::X32)?;
            self.fill(ranges, X32_BIT, calls, newest, X32_BIT..X32_BIT << 1);
            newest
        } else {
            ranges.push(X32_BIT, unknown);
            None
        };
        ranges.push(X32_BIT << 1, without_bit);
        let with_bit = if has_x32 { self.beyond(newest) } else { UNKNOWN_ARCHITECTURE };
        ranges.push(X32_BIT * 3, Decision::plain(with_bit));
        ranges.push(u32::MAX, Decision::plain(if has_x32 { with_bit } else { self.default }));
        Ok(())
    }

    /// Whether calls after the newest that the profile names look as if the kernel did not have them. As in runc, a
    /// profile that names number 0 at most names no newest.
    fn hides_beyond(&self, newest: Option<u32>) -> bool {
        self.hides_new_calls && newest.is_some_and(|newest| newest > 0)
    }

    fn beyond(&self, newest: Option<u32>) -> Verdict {
        if self.hides_beyond(newest) { TOO_NEW } else { self.default }
    }

    fn fill(&self, ranges: &mut Ranges, start: u32, calls: Calls, newest: Option<u32>, numbers: std::ops::Range<u32>) {
        let mut next = start;
        for (number, decision) in calls {
            if number > next {
                self.fill_gap(ranges, next, number, newest);
            }
            ranges.push(number, decision);
            next = number + 1;
        }
        if next < numbers.end {
            self.fill_gap(ranges, next, numbers.end, newest);
        }
    }

    /// Numbers without a rule, some of which may be newer than the newest with one.
    fn fill_gap(&self, ranges: &mut Ranges, from: u32, to: u32, newest: Option<u32>) {
        let last = newest.unwrap_or(0);
        if from <= last {
            ranges.push(from, Decision::plain(self.default));
        }
        if to - 1 > last {
            ranges.push(from.max(last.saturating_add(1)), Decision::plain(self.beyond(newest)));
        }
    }

    /// The calls of an architecture that rules decide about, by number, and the newest that is named: that one may
    /// have a rule that counts for nothing.
    fn calls(&self, architecture: Architecture) -> Result<(Calls, Option<u32>), Error> {
        let mut matches: Vec<Match> = Vec::with_capacity(self.named.len() + self.rules.len());
        let multiplexed = architecture.multiplexed();
        architecture.each(&mut |name, number| {
            matches.extend(self.rules_of(name).map(|rule| Match { number, rule, name, first: None }));
        });
        for (name, number, first) in multiplexed {
            let rules = self.rules_of(name);
            matches.extend(rules.map(|rule| Match { number: *number, rule, name, first: Some(*first) }));
        }
        matches.sort_unstable_by_key(|found| (found.number, found.rule, found.first));
        let is_multiplexed = |found: &Match| multiplexed.iter().any(|(name, ..)| *name == found.name);
        let newest = matches.iter().rev().find(|found| !is_multiplexed(found)).map(|found| found.number);
        matches.retain(|found| self.rules[found.rule].verdict != self.default);
        if self.hides_beyond(newest) {
            // As in runc the direct numbers of multiplexed calls do not make a profile newer: programs that miss
            // them go on with the others.
            matches.retain(|found| Some(found.number) <= newest);
        }
        let mut calls = Calls::with_capacity(matches.len());
        for matches in matches.chunk_by(|one, other| one.number == other.number) {
            calls.push((matches[0].number, self.decision(matches, architecture)?));
        }
        Ok((calls, newest))
    }

    fn decision(&self, matches: &[Match], architecture: Architecture) -> Result<Decision, Error> {
        let mut decision = Decision::plain(self.default);
        'matches: for Match { rule, first, .. } in matches {
            let rule = &self.rules[*rule];
            let bare = [Vec::new()];
            let alternatives = if rule.alternatives.is_empty() { &bare } else { rule.alternatives.as_slice() };
            for alternative in alternatives {
                let checked = conditions::on(alternative, architecture, *first);
                if checked.is_empty() {
                    decision = Decision::plain(rule.verdict);
                    break 'matches;
                }
                match decision.branches.iter().find(|(known, _)| *known == checked) {
                    None => decision.branches.push((checked, rule.verdict)),
                    Some((_, verdict)) if *verdict == rule.verdict => (),
                    Some(_) => {
                        let why = "two rules want different actions for one call with the same arguments";
                        return Err(Error::invalid("linux.seccomp.syscalls", why));
                    }
                }
            }
        }
        decision.branches.sort_by(|(one, _), (other, _)| conditions::order(one, other));
        Ok(decision)
    }
}

/// The decisions with their first numbers; neighbours with the same are one.
#[derive(Default)]
struct Ranges(Vec<(u32, Decision)>);

impl Ranges {
    fn push(&mut self, start: u32, decision: Decision) {
        if self.0.last().is_none_or(|(_, last)| *last != decision) {
            self.0.push((start, decision));
        }
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

fn verdict(action: LinuxSeccompAction, errno: Option<u32>) -> Result<Verdict, Error> {
    // The kernel takes no larger error number than MAX_ERRNO; a tracer gets 16 bits.
    let data_up_to = |most: u32| match errno.unwrap_or(libc::EPERM as u32) {
        data if data <= most => Ok(data),
        data => Err(Error::invalid("linux.seccomp.errnoRet", format!("{data} is more than {most}"))),
    };
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => RET_KILL_THREAD,
        LinuxSeccompAction::ScmpActKillProcess => RET_KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => RET_TRAP,
        LinuxSeccompAction::ScmpActErrno => RET_ERRNO | data_up_to(4095)?,
        LinuxSeccompAction::ScmpActTrace => RET_TRACE | data_up_to(0xffff)?,
        LinuxSeccompAction::ScmpActLog => RET_LOG,
        LinuxSeccompAction::ScmpActAllow => RET_ALLOW,
        LinuxSeccompAction::ScmpActNotify => RET_USER_NOTIF,
    })
}
