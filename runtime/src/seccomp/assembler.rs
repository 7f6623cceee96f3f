//! Instructions of classic BPF, as many as seccomp(2) takes, with labels to jump to.

use super::rules::Verdict;
use crate::sys::FilterInsn;

pub(super) const LOAD: u16 = 0x20;
pub(super) const AND: u16 = 0x54;
pub(super) const RETURN: u16 = 0x06;
pub(super) const JUMP: u16 = 0x05;
pub(super) const JUMP_EQUAL: u16 = 0x15;
pub(super) const JUMP_GREATER: u16 = 0x25;
pub(super) const JUMP_GREATER_EQUAL: u16 = 0x35;

/// How many instructions a conditional jump can pass over, less the one that may be put between it and its targets.
const REACH: usize = u8::MAX as usize - 1;

/// An instruction that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label(usize);

/// A program that is made from its end, since BPF jumps only forwards: whoever jumps has then seen how far.
#[derive(Default)]
pub(super) struct Assembler {
    /// The last first.
    code: Vec<FilterInsn>,
    /// Of each verdict the return that was made last: one serves all who reach it.
    returns: Vec<(Verdict, Label)>,
}

impl Assembler {
    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Label {
        self.code.push(FilterInsn { code, jt, jf, k });
        Label(self.code.len() - 1)
    }

    /// How many instructions the next one would have to pass over.
    fn distance(&self, to: Label) -> usize {
        self.code.len() - 1 - to.0
    }

    /// A return with the verdict that the next instruction can reach.
    pub(super) fn give(&mut self, verdict: Verdict) -> Label {
        let known = self.returns.iter().position(|(other, _)| *other == verdict);
        match known.map(|at| (at, self.returns[at].1)) {
            Some((_, label)) if self.distance(label) <= REACH => label,
            Some((at, _)) => {
                let label = self.push(RETURN, 0, 0, verdict);
                self.returns[at].1 = label;
                label
            }
            None => {
                let label = self.push(RETURN, 0, 0, verdict);
                self.returns.push((verdict, label));
                label
            }
        }
    }

    /// The same place, or one that leads to it, within reach of a conditional jump.
    fn within_reach(&mut self, label: Label) -> Label {
        let distance = self.distance(label);
        match self.code[label.0] {
            _ if distance <= REACH => label,
            FilterInsn { code: RETURN, k, .. } => self.give(k),
            _ => self.push(JUMP, 0, 0, distance as u32),
        }
    }

    /// Compares what is loaded with `k`.
    pub(super) fn jump(&mut self, code: u16, k: u32, then: Label, otherwise: Label) -> Label {
        let then = self.within_reach(then);
        let otherwise = self.within_reach(otherwise);
        // Both fit: `REACH` leaves room for what bringing the second within reach has put before the first.
        let (jt, jf) = (self.distance(then) as u8, self.distance(otherwise) as u8);
        self.push(code, jt, jf, k)
    }

    /// Loads from `struct seccomp_data`, or changes what is loaded, and goes on at `next`.
    pub(super) fn then(&mut self, code: u16, k: u32, next: Label) -> Label {
        if self.distance(next) > 0 {
            match self.code[next.0] {
                FilterInsn { code: RETURN, k, .. } => self.push(RETURN, 0, 0, k),
                _ => self.push(JUMP, 0, 0, self.distance(next) as u32),
            };
        }
        self.push(code, 0, 0, k)
    }

    pub(super) fn finish(mut self) -> Vec<FilterInsn> {
        self.code.reverse();
        self.code
    }
}
