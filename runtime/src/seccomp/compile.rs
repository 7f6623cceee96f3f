//! From ranges to instructions.

use oci_spec::runtime::LinuxSeccompOperator as Operator;

use super::assembler::{AND, Assembler, JUMP_EQUAL, JUMP_GREATER, JUMP_GREATER_EQUAL, LOAD, Label};
use super::conditions::Condition;
use super::rules::{Decision, Table, UNKNOWN_ARCHITECTURE, Verdict};
use super::search::search;
use crate::sys::FilterInsn;

/// `BPF_MAXINSNS`.
pub(super) const MAX_INSTRUCTIONS: usize = 4096;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// The whole program: find the architecture, then the number among its calls.
pub(super) fn program(tables: &[Table]) -> Vec<FilterInsn> {
    let mut code = Assembler::default();
    let mut next = code.give(UNKNOWN_ARCHITECTURE);
    for table in tables.iter().rev() {
        let found = search(&table.ranges, &mut code);
        let number = code.then(LOAD, NUMBER, found);
        next = code.jump(JUMP_EQUAL, table.audit, number, next);
    }
    code.then(LOAD, ARCHITECTURE, next);
    code.finish()
}

/// The verdict of the first branch whose conditions hold.
pub(super) fn decide(decision: &Decision, code: &mut Assembler) -> Label {
    let mut next = code.give(decision.otherwise);
    for (conditions, verdict) in decision.branches.iter().rev() {
        next = branch(conditions, *verdict, next, code);
    }
    next
}

/// Where a comparison goes next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Goto {
    /// The comparison holds: on to the next condition, or to the verdict.
    Holds,
    /// It does not: on to the next branch.
    Fails,
    /// Undecided by this half: the instruction after.
    Next,
}

/// An instruction of a comparison.
enum Step {
    /// A load, or a mask on what is loaded.
    Value {
        code: u16,
        k: u32,
    },
    Jump {
        code: u16,
        k: u32,
        then: Goto,
        otherwise: Goto,
    },
}

/// The verdict if all conditions hold, else on to `fails`.
fn branch(conditions: &[Condition], verdict: Verdict, fails: Label, code: &mut Assembler) -> Label {
    let mut holds = code.give(verdict);
    for condition in conditions.iter().rev() {
        let mut next = holds;
        for step in comparison(condition).into_iter().rev() {
            let label = |goto| match goto {
                Goto::Holds => holds,
                Goto::Fails => fails,
                Goto::Next => next,
            };
            next = match step {
                Step::Value { code: of, k } => code.then(of, k, next),
                Step::Jump { code: of, k, then, otherwise } => code.jump(of, k, label(then), label(otherwise)),
            };
        }
        holds = next;
    }
    holds
}

/// Compares an argument, which BPF loads in halves of 32 bits. Machines here are little-endian.
fn comparison(condition: &Condition) -> Vec<Step> {
    use Goto::{Fails, Holds, Next};
    let load = |offset| Step::Value { code: LOAD, k: ARGUMENTS + condition.index * 8 + offset };
    let mask = |bits| Step::Value { code: AND, k: bits };
    let jump = |code, k, then, otherwise| Step::Jump { code, k, then, otherwise };
    let halves = |value: u64| ((value >> 32) as u32, value as u32);

    let masked = (condition.operator == Operator::ScmpCmpMaskedEq).then(|| halves(condition.mask));
    let (high, low) = halves(condition.value);
    let mut steps = Vec::new();
    if condition.wide {
        steps.push(load(4));
        match condition.operator {
            Operator::ScmpCmpNe => steps.push(jump(JUMP_EQUAL, high, Next, Holds)),
            Operator::ScmpCmpEq => steps.push(jump(JUMP_EQUAL, high, Next, Fails)),
            Operator::ScmpCmpMaskedEq => {
                steps.extend(masked.map(|(bits, _)| mask(bits)));
                steps.push(jump(JUMP_EQUAL, high, Next, Fails));
            }
            Operator::ScmpCmpGt | Operator::ScmpCmpGe => {
                steps.push(jump(JUMP_GREATER, high, Holds, Next));
                steps.push(jump(JUMP_EQUAL, high, Next, Fails));
            }
            Operator::ScmpCmpLt | Operator::ScmpCmpLe => {
                steps.push(jump(JUMP_GREATER, high, Fails, Next));
                steps.push(jump(JUMP_EQUAL, high, Next, Holds));
            }
        }
    }
    steps.push(load(0));
    steps.extend(masked.map(|(_, bits)| mask(bits)));
    steps.push(match condition.operator {
        Operator::ScmpCmpNe => jump(JUMP_EQUAL, low, Fails, Holds),
        Operator::ScmpCmpEq | Operator::ScmpCmpMaskedEq => jump(JUMP_EQUAL, low, Holds, Fails),
        Operator::ScmpCmpGt => jump(JUMP_GREATER, low, Holds, Fails),
        Operator::ScmpCmpGe => jump(JUMP_GREATER_EQUAL, low, Holds, Fails),
        Operator::ScmpCmpLt => jump(JUMP_GREATER_EQUAL, low, Fails, Holds),
        Operator::ScmpCmpLe => jump(JUMP_GREATER, low, Fails, Holds),
    });
    steps
}

#[cfg(test)]
#[path = "compile_tests.rs"]
mod tests;
