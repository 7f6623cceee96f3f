//! The conditions of a rule on the arguments of a system call.

use std::cmp::Ordering;

use oci_spec::runtime::{LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall};

use super::arch::Architecture;
use crate::error::Error;

/// One comparison of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) index: u32,
    pub(super) operator: LinuxSeccompOperator,
    pub(super) value: u64,
    /// The bits that are looked at: all but for `SCMP_CMP_MASKED_EQ`.
    pub(super) mask: u64,
    /// Whether the argument has 64 bits, else 32.
    pub(super) wide: bool,
}

/// The conditions of a rule: all must hold, except that several on one argument are alternatives.
pub(super) fn alternatives(syscall: &LinuxSyscall) -> Result<Vec<Vec<Condition>>, Error> {
    let args = syscall.args().as_deref().unwrap_or_default();
    let mut conditions = args.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
    if conditions.is_empty() {
        return Ok(Vec::new());
    }
    let repeated =
        conditions.iter().enumerate().any(|(at, one)| conditions[..at].iter().any(|other| other.index == one.index));
    if repeated {
        return Ok(conditions.into_iter().map(|condition| vec![condition]).collect());
    }
    conditions.sort_by_key(|condition| condition.index);
    Ok(vec![conditions])
}

fn condition(arg: &LinuxSeccompArg) -> Result<Condition, Error> {
    if arg.index() > 5 {
        return Err(Error::invalid("linux.seccomp.syscalls.args.index", "system calls have arguments 0 to 5"));
    }
    let (value, mask) = match arg.op() {
        LinuxSeccompOperator::ScmpCmpMaskedEq => (arg.value_two().unwrap_or(0), arg.value()),
        _ => (arg.value(), u64::MAX),
    };
    Ok(Condition { index: arg.index() as u32, operator: arg.op(), value, mask, wide: true })
}

/// Conditions as an architecture can check them: of 32-bit arguments only that half, and of a call that is made by
/// another one its number in place of the first argument. One that looks at no bit holds always.
pub(super) fn on(conditions: &[Condition], architecture: Architecture, first: Option<u64>) -> Vec<Condition> {
    let wide = architecture.is_64_bit();
    let bits = if wide { u64::MAX } else { u64::from(u32::MAX) };
    let first = first.map(|value| {
        let operator = LinuxSeccompOperator::ScmpCmpEq;
        Condition { index: 0, operator, value, mask: bits, wide }
    });
    let others = conditions.iter().filter(|condition| first.is_none() || condition.index != 0).map(|condition| {
        let mask = condition.mask & bits;
        Condition { value: condition.value & mask, mask, wide, ..*condition }
    });
    first.into_iter().chain(others.filter(|condition| condition.mask != 0)).collect()
}

/// In which order libseccomp tries conditions that overlap: later arguments first, equality before limits, greater
/// values first, but for upper limits smaller ones; and of two where one begins as the other does the shorter.
pub(super) fn order(one: &[Condition], other: &[Condition]) -> Ordering {
    let different = one.iter().zip(other).map(|(one, other)| one.order(other)).find(|order| order.is_ne());
    different.unwrap_or_else(|| one.len().cmp(&other.len()))
}

impl Condition {
    fn order(&self, other: &Condition) -> Ordering {
        let kind = |condition: &Condition| match condition.operator {
            LinuxSeccompOperator::ScmpCmpEq
            | LinuxSeccompOperator::ScmpCmpNe
            | LinuxSeccompOperator::ScmpCmpMaskedEq => 0,
            LinuxSeccompOperator::ScmpCmpLe | LinuxSeccompOperator::ScmpCmpLt => 1,
            LinuxSeccompOperator::ScmpCmpGe | LinuxSeccompOperator::ScmpCmpGt => 2,
        };
        let values = self.value.cmp(&other.value);
        let values = if kind(self) == 1 { values } else { values.reverse() };
        other.index.cmp(&self.index).then(kind(self).cmp(&kind(other))).then(values)
    }
}
