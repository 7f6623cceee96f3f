//! From ranges to instructions.

use oci_spec::runtime::LinuxSeccompOperator as Operator;

use super::conditions::Condition;
use super::rules::{Decision, Table, UNKNOWN_ARCHITECTURE, Verdict};
use crate::sys::FilterInsn;

/// `BPF_MAXINSNS`.
pub(super) const MAX_INSTRUCTIONS: usize = 4096;

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

type Code = Vec<FilterInsn>;

fn insn(code: u16, k: u32) -> FilterInsn {
    FilterInsn { code, jt: 0, jf: 0, k }
}

fn give(verdict: Verdict) -> FilterInsn {
    insn(RETURN, verdict)
}

/// The whole program: find the architecture, then the number in its tree.
///
/// It is made from its end: whoever jumps has then seen how far.
pub(super) fn program(tables: &[Table]) -> Code {
    let mut code = vec![give(UNKNOWN_ARCHITECTURE)];
    for table in tables.iter().rev() {
        let after = code.len();
        tree(&table.ranges, &mut code);
        code.push(insn(LOAD, NUMBER));
        let length = code.len() - after;
        if let Ok(length) = u8::try_from(length) {
            code.push(FilterInsn { code: JUMP_EQUAL, jt: 0, jf: length, k: table.audit });
        } else {
            // Conditional jumps reach 255 instructions, plain ones any number.
            code.push(insn(JUMP, length as u32));
            code.push(FilterInsn { code: JUMP_EQUAL, jt: 1, jf: 0, k: table.audit });
        }
    }
    code.push(insn(LOAD, ARCHITECTURE));
    code.reverse();
    code
}

/// A search in ranges, backwards.
fn tree(ranges: &[(u32, Decision)], code: &mut Code) {
    match ranges {
        [] => code.push(give(UNKNOWN_ARCHITECTURE)),
        [(_, decision)] => leaf(decision, code),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            tree(high, code);
            let after = code.len();
            tree(low, code);
            let length = code.len() - after;
            if let Ok(length) = u8::try_from(length) {
                code.push(FilterInsn { code: JUMP_GREATER_EQUAL, jt: length, jf: 0, k: high[0].0 });
            } else {
                code.push(insn(JUMP, length as u32));
                code.push(FilterInsn { code: JUMP_GREATER_EQUAL, jt: 0, jf: 1, k: high[0].0 });
            }
        }
    }
}

/// One decision, backwards.
fn leaf(decision: &Decision, code: &mut Code) {
    code.push(give(decision.otherwise));
    for (conditions, verdict) in decision.branches.iter().rev() {
        code.extend(branch(conditions, *verdict).into_iter().rev());
    }
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

struct Step {
    code: u16,
    k: u32,
    then: Goto,
    otherwise: Goto,
}

/// The verdict if all conditions hold, else on to what comes after.
fn branch(conditions: &[Condition], verdict: Verdict) -> Code {
    let steps: Vec<Vec<Step>> = conditions.iter().map(comparison).collect();
    let total: usize = steps.iter().map(Vec::len).sum();
    let mut code = Code::new();
    for condition in steps {
        let end = code.len() + condition.len();
        for step in condition {
            let here = code.len() + 1;
            // At most six arguments of six instructions each: every distance fits.
            let distance = |goto| match goto {
                Goto::Next => 0,
                Goto::Holds => (end - here) as u8,
                Goto::Fails => (total + 1 - here) as u8,
            };
            let (jt, jf) = (distance(step.then), distance(step.otherwise));
            code.push(FilterInsn { code: step.code, jt, jf, k: step.k });
        }
    }
    code.push(give(verdict));
    code
}

/// Compares an argument, which BPF loads in halves of 32 bits. Machines here are little-endian.
fn comparison(condition: &Condition) -> Vec<Step> {
    use Goto::{Fails, Holds, Next};
    let load = |offset| Step { code: LOAD, k: ARGUMENTS + condition.index * 8 + offset, then: Next, otherwise: Next };
    let mask = |bits| Step { code: AND, k: bits, then: Next, otherwise: Next };
    let jump = |code, k, then, otherwise| Step { code, k, then, otherwise };
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
