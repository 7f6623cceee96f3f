//! Seccomp profiles: as JSON, and made of the bytes, so that they are understood and what they decide can be
//! compared with a plain reading of the profile.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary, Unstructured};
use serde_json::json;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if bytes.first() == Some(&b'{') {
        let _ = orlop_runtime::fuzzing::seccomp(bytes);
    } else if let Ok(case) = Case::arbitrary(&mut Unstructured::new(bytes)) {
        case.check();
    }
});

#[derive(Arbitrary, Debug)]
struct Case {
    default: Action,
    rules: Vec<Rule>,
    probes: Vec<(u16, [u64; 6])>,
}

#[derive(Arbitrary, Debug)]
struct Rule {
    calls: Vec<u16>,
    action: Action,
    conditions: Vec<Condition>,
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq)]
enum Action {
    Allow,
    Log,
    KillProcess,
    KillThread,
    Trap,
    Errno(u8),
    Trace(u8),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Operator {
    Ne,
    Lt,
    Le,
    Eq,
    Ge,
    Gt,
    MaskedEq,
}

#[derive(Arbitrary, Debug)]
struct Condition {
    index: u8,
    value: u64,
    value_two: u64,
    operator: Operator,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Action::Allow => "SCMP_ACT_ALLOW",
            Action::Log => "SCMP_ACT_LOG",
            Action::KillProcess => "SCMP_ACT_KILL_PROCESS",
            Action::KillThread => "SCMP_ACT_KILL_THREAD",
            Action::Trap => "SCMP_ACT_TRAP",
            Action::Errno(_) => "SCMP_ACT_ERRNO",
            Action::Trace(_) => "SCMP_ACT_TRACE",
        }
    }

    fn data(self) -> Option<u8> {
        match self {
            Action::Errno(data) | Action::Trace(data) => Some(data),
            _ => None,
        }
    }

    /// `SECCOMP_RET_*` of linux/seccomp.h.
    fn verdict(self) -> u32 {
        match self {
            Action::Allow => 0x7fff_0000,
            Action::Log => 0x7ffc_0000,
            Action::KillProcess => 0x8000_0000,
            Action::KillThread => 0,
            Action::Trap => 0x0003_0000,
            Action::Errno(errno) => 0x0005_0000 | u32::from(errno),
            Action::Trace(data) => 0x7ff0_0000 | u32::from(data),
        }
    }
}

impl Condition {
    fn index(&self) -> usize {
        usize::from(self.index % 6)
    }

    fn holds(&self, args: &[u64; 6]) -> bool {
        let arg = args[self.index()];
        match self.operator {
            Operator::Ne => arg != self.value,
            Operator::Lt => arg < self.value,
            Operator::Le => arg <= self.value,
            Operator::Eq => arg == self.value,
            Operator::Ge => arg >= self.value,
            Operator::Gt => arg > self.value,
            Operator::MaskedEq => arg & self.value == self.value_two & self.value,
        }
    }

    fn json(&self) -> serde_json::Value {
        let operator = match self.operator {
            Operator::Ne => "SCMP_CMP_NE",
            Operator::Lt => "SCMP_CMP_LT",
            Operator::Le => "SCMP_CMP_LE",
            Operator::Eq => "SCMP_CMP_EQ",
            Operator::Ge => "SCMP_CMP_GE",
            Operator::Gt => "SCMP_CMP_GT",
            Operator::MaskedEq => "SCMP_CMP_MASKED_EQ",
        };
        json!({"index": self.index(), "value": self.value, "valueTwo": self.value_two, "op": operator})
    }
}

impl Rule {
    fn names(&self) -> Vec<(&'static str, u32)> {
        let known: Vec<_> = syscalls::x86_64::Sysno::iter().collect();
        let pick = |call: &u16| known[usize::from(*call) % known.len()];
        self.calls.iter().take(16).map(pick).map(|call| (call.name(), call.id() as u32)).collect()
    }

    fn conditions(&self) -> &[Condition] {
        &self.conditions[..self.conditions.len().min(6)]
    }

    /// Whether its conditions hold: all, or any where two are about one argument. As libseccomp's users have it.
    fn holds(&self, args: &[u64; 6]) -> bool {
        let conditions = self.conditions();
        let twice = conditions
            .iter()
            .enumerate()
            .any(|(at, one)| conditions[..at].iter().any(|other| other.index() == one.index()));
        match twice {
            true => conditions.iter().any(|condition| condition.holds(args)),
            false => conditions.iter().all(|condition| condition.holds(args)),
        }
    }
}

impl Case {
    fn check(&self) {
        const X86_64: u32 = 0xc000_003e;
        let rules = &self.rules[..self.rules.len().min(12)];
        let list = |rule: &Rule| {
            let names: Vec<&str> = rule.names().into_iter().map(|(name, _)| name).collect();
            let args: Vec<_> = rule.conditions().iter().map(Condition::json).collect();
            json!({"names": names, "action": rule.action.name(), "errnoRet": rule.action.data(), "args": args})
        };
        let profile = json!({
            "defaultAction": self.default.name(),
            "defaultErrnoRet": self.default.data(),
            "syscalls": rules.iter().map(list).collect::<Vec<_>>(),
        });
        // One that needs more instructions than the kernel takes is refused.
        let Some(program) = orlop_runtime::fuzzing::seccomp(profile.to_string().as_bytes()) else { return };
        let named: Vec<u32> = rules.iter().flat_map(Rule::names).map(|(_, number)| number).collect();
        let around = named.iter().flat_map(|number| [number.saturating_sub(1), *number, number + 1]);
        let given = self.probes.iter().map(|(number, args)| (u32::from(*number), *args));
        let values = rules.iter().flat_map(Rule::conditions).flat_map(|condition| {
            [condition.value, condition.value.wrapping_add(1), condition.value.wrapping_sub(1), condition.value_two]
        });
        let mut probes: Vec<(u32, [u64; 6])> = given.collect();
        for number in around {
            probes.push((number, [0; 6]));
            probes.extend(values.clone().map(|value| (number, [value; 6])));
            probes.extend(self.probes.iter().map(|(_, args)| (number, *args)));
        }
        for (number, args) in probes.into_iter().take(4096) {
            let expected = self.decide(rules, &named, number, &args);
            let got = run(&program, X86_64, number, args);
            assert!(expected.contains(&got), "call {number} with {args:?} by {profile}: {got:#x}, not {expected:#x?}");
        }
    }

    /// What libseccomp might decide, as runc calls it: of several rules whose conditions hold it picks by an order
    /// of its own, which runtime/tests/seccomp_oracle compares.
    fn decide(&self, rules: &[Rule], named: &[u32], number: u32, args: &[u64; 6]) -> Vec<u32> {
        const NO_SUCH_CALL: u32 = 0x0005_0000 | 38;
        let default = self.default.verdict();
        let newest = named.iter().max().copied().unwrap_or(0);
        let hides = !matches!(self.default, Action::Allow | Action::Log | Action::Trace(_));
        if hides && newest > 0 && number > newest {
            return vec![NO_SUCH_CALL];
        }
        let about = || {
            let named = rules.iter().filter(|rule| rule.names().iter().any(|(_, known)| *known == number));
            named.filter(|rule| rule.action.verdict() != default)
        };
        if let Some(plain) = about().find(|rule| rule.conditions().is_empty()) {
            return vec![plain.action.verdict()];
        }
        let holding: Vec<u32> = about().filter(|rule| rule.holds(args)).map(|rule| rule.action.verdict()).collect();
        if holding.is_empty() { vec![default] } else { holding }
    }
}

/// Runs a filter as the kernel would.
fn run(program: &[(u16, u8, u8, u32)], arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let load = |offset: u32| match offset {
        0 => number,
        4 => arch,
        offset => (args[(offset as usize - 16) / 8] >> (offset % 8 * 8)) as u32,
    };
    let (mut accumulator, mut at) = (0, 0);
    loop {
        let (code, yes, no, operand) = program[at];
        at += 1;
        let jump = |holds: bool| usize::from(if holds { yes } else { no });
        match code {
            0x20 => accumulator = load(operand),
            0x54 => accumulator &= operand,
            0x06 => return operand,
            0x05 => at += operand as usize,
            0x15 => at += jump(accumulator == operand),
            0x25 => at += jump(accumulator > operand),
            0x35 => at += jump(accumulator >= operand),
            code => panic!("unknown instruction {code:#x}"),
        }
    }
}
