//! The device list: which devices a container may open and make. On version 1 it is lines in the devices
//! controller's files, on version 2 a program that the kernel asks.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::error::Error;
use crate::sys::BpfInsn;

/// A set of ways to use a device; the bits are those of `BPF_DEVCG_ACC_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access(u32);

impl Access {
    pub(super) const MKNOD: Access = Access(1);
    pub(super) const READ: Access = Access(2);
    pub(super) const WRITE: Access = Access(4);
    const ALL: Access = Access(7);

    pub(super) fn is_none(self) -> bool {
        self.0 == 0
    }

    pub(super) fn and(self, other: Access) -> Access {
        Access(self.0 | other.0)
    }

    pub(super) fn common(self, other: Access) -> Access {
        Access(self.0 & other.0)
    }

    pub(super) fn without(self, other: Access) -> Access {
        Access(self.0 & !other.0)
    }

    pub(super) fn parse(text: Option<&str>) -> Access {
        let bit = |letter| match letter {
            'm' => Access::MKNOD.0,
            'r' => Access::READ.0,
            'w' => Access::WRITE.0,
            _ => 0,
        };
        match text {
            None | Some("") => Access::ALL,
            Some(text) => Access(text.chars().map(bit).fold(0, |all, bit| all | bit)),
        }
    }
}

/// What a rule is about; the numbers are those of `BPF_DEVCG_DEV_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Any,
    Block,
    Char,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) allow: bool,
    kind: Kind,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    pub(super) access: Access,
}

impl Rule {
    const fn allow(kind: Kind, major: Option<u32>, minor: Option<u32>, access: Access) -> Rule {
        Rule { allow: true, kind, major, minor, access }
    }

    fn is_everything(&self) -> bool {
        self.kind == Kind::Any && self.major.is_none() && self.minor.is_none() && self.access == Access::ALL
    }

    /// The kinds as version 1 writes them; it has no letter for "both" other than that for "everything".
    pub(super) fn kinds(&self) -> &'static [char] {
        match self.kind {
            Kind::Any => &['b', 'c'],
            Kind::Block => &['b'],
            Kind::Char => &['c'],
        }
    }
}

/// What every container may use: make any node, and use the devices that the specification promises in /dev.
const DEFAULT: [Rule; 11] = [
    Rule::allow(Kind::Char, None, None, Access::MKNOD),
    Rule::allow(Kind::Block, None, None, Access::MKNOD),
    Rule::allow(Kind::Char, Some(1), Some(3), Access::ALL), // null
    Rule::allow(Kind::Char, Some(1), Some(5), Access::ALL), // zero
    Rule::allow(Kind::Char, Some(1), Some(7), Access::ALL), // full
    Rule::allow(Kind::Char, Some(1), Some(8), Access::ALL), // random
    Rule::allow(Kind::Char, Some(1), Some(9), Access::ALL), // urandom
    Rule::allow(Kind::Char, Some(5), Some(0), Access::ALL), // tty
    Rule::allow(Kind::Char, Some(5), Some(1), Access::ALL), // console
    Rule::allow(Kind::Char, Some(5), Some(2), Access::ALL), // ptmx
    Rule::allow(Kind::Char, Some(136), None, Access::ALL),  // pts/*
];

/// The whole device list in its shortest form: a default, and exceptions of which the last that matches counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DevicePolicy {
    pub(super) default_allow: bool,
    pub(super) rules: Vec<Rule>,
}

impl DevicePolicy {
    /// Nothing is allowed but what the rules and [`DEFAULT`] say.
    pub(super) fn new(rules: &[LinuxDeviceCgroup]) -> Result<DevicePolicy, Error> {
        let mut policy = DevicePolicy { default_allow: false, rules: Vec::new() };
        for rule in rules.iter().map(rule).chain(DEFAULT.map(Ok)) {
            let rule = rule?;
            if rule.is_everything() {
                policy = DevicePolicy { default_allow: rule.allow, rules: Vec::new() };
            } else if rule.allow != policy.default_allow || !policy.rules.is_empty() {
                policy.push(rule);
            }
        }
        Ok(policy)
    }

    fn push(&mut self, rule: Rule) {
        // While all exceptions are of one kind, repeating one changes nothing.
        let uniform = self.rules.iter().all(|known| known.allow == rule.allow);
        if !(uniform && self.rules.contains(&rule)) {
            self.rules.push(rule);
        }
    }
}

fn rule(rule: &LinuxDeviceCgroup) -> Result<Rule, Error> {
    // Only what says so is a wildcard, not what is no number of a device.
    let number = |number: Option<i64>| match number {
        None | Some(-1) => Ok(None),
        Some(given) => u32::try_from(given).map(Some).map_err(|_| {
            Error::invalid("linux.resources.devices", format!("{given} is not the major or minor number of a device"))
        }),
    };
    let kind = match rule.typ() {
        Some(LinuxDeviceType::B) => Kind::Block,
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Kind::Char,
        _ => Kind::Any,
    };
    Ok(Rule {
        allow: rule.allow(),
        kind,
        major: number(rule.major())?,
        minor: number(rule.minor())?,
        access: Access::parse(rule.access().as_deref()),
    })
}

/// The policy as a program of type `BPF_PROG_TYPE_CGROUP_DEVICE`. Its context is three words: access and kind
/// (`access << 16 | kind`), major, minor. It returns 1 to allow.
pub(super) fn program(policy: &DevicePolicy) -> Vec<BpfInsn> {
    const CONTEXT: u8 = 1;
    const KIND: u8 = 2;
    const ACCESS: u8 = 3;
    const MAJOR: u8 = 4;
    const MINOR: u8 = 5;
    const SCRATCH: u8 = 6;
    const LOAD_WORD: u8 = 0x61;
    const AND_IMMEDIATE: u8 = 0x54;
    const SHIFT_RIGHT: u8 = 0x74;
    const MOVE_REGISTER: u8 = 0xbc;
    const JUMP_NOT_EQUAL: u8 = 0x55;

    let insn = |code, target: u8, source: u8, offset, immediate| BpfInsn {
        code,
        registers: source << 4 | target,
        offset,
        immediate,
    };
    let answer = |allow: bool| [insn(0xb7, 0, 0, 0, i32::from(allow)), insn(0x95, 0, 0, 0, 0)];
    let mut program = vec![
        insn(LOAD_WORD, KIND, CONTEXT, 0, 0),
        insn(AND_IMMEDIATE, KIND, 0, 0, 0xffff),
        insn(LOAD_WORD, ACCESS, CONTEXT, 0, 0),
        insn(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        insn(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        insn(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in policy.rules.iter().rev() {
        // Pairs of what to compare and with what; any difference jumps to the next rule.
        let mut checks = Vec::new();
        match rule.kind {
            Kind::Any => (),
            Kind::Block => checks.push((KIND, 1)),
            Kind::Char => checks.push((KIND, 2)),
        }
        checks.extend(rule.major.map(|major| (MAJOR, major as i32)));
        checks.extend(rule.minor.map(|minor| (MINOR, minor as i32)));
        let mut code = Vec::new();
        if rule.access != Access::ALL {
            // What is asked for must be within the rule when it allows, and touch it when it denies.
            code.push(insn(MOVE_REGISTER, SCRATCH, ACCESS, 0, 0));
            let outside = if rule.allow { !rule.access.0 & Access::ALL.0 } else { rule.access.0 };
            code.push(insn(AND_IMMEDIATE, SCRATCH, 0, 0, outside as i32));
        }
        let head = code.len();
        let access_check = usize::from(head > 0);
        let length = head + access_check + checks.len() + 2;
        if access_check == 1 {
            let jump = if rule.allow { JUMP_NOT_EQUAL } else { 0x15 };
            code.push(insn(jump, SCRATCH, 0, (length - code.len() - 1) as i16, 0));
        }
        for (register, value) in checks {
            code.push(insn(JUMP_NOT_EQUAL, register, 0, (length - code.len() - 1) as i16, value));
        }
        code.extend(answer(rule.allow));
        program.extend(code);
    }
    program.extend(answer(policy.default_allow));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(json: &str) -> Vec<LinuxDeviceCgroup> {
        serde_json::from_str(json).expect("test data")
    }

    fn policy(json: &str) -> DevicePolicy {
        DevicePolicy::new(&rules(json)).expect("policy")
    }

    #[test]
    fn only_minus_one_is_a_wildcard() {
        let major = |number: &str| {
            let rule = format!(r#"[{{"allow":true,"type":"c","major":{number},"access":"r"}}]"#);
            DevicePolicy::new(&rules(&rule)).ok().map(|policy| policy.rules[0].major)
        };
        assert_eq!(major("-1"), Some(None));
        assert_eq!(major("7"), Some(Some(7)));
        for bad in ["-2", "4294967296", "4294967297"] {
            assert_eq!(major(bad), None, "{bad}");
        }
    }

    /// Runs the program as the kernel would, for one access to one device.
    fn run(program: &[BpfInsn], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0_u64; 11];
        let mut at = 0;
        loop {
            let insn = program[at];
            let target = usize::from(insn.registers & 15);
            let source = usize::from(insn.registers >> 4);
            at += 1;
            match insn.code {
                0x61 => registers[target] = context[insn.offset as usize / 4].into(),
                0x54 => registers[target] = u64::from(registers[target] as u32 & insn.immediate as u32),
                0x74 => registers[target] = u64::from((registers[target] as u32) >> insn.immediate),
                0xbc => registers[target] = u64::from(registers[source] as u32),
                0xb7 => registers[target] = insn.immediate as u64,
                0x55 if registers[target] != insn.immediate as u64 => at += insn.offset as usize,
                0x15 if registers[target] == insn.immediate as u64 => at += insn.offset as usize,
                0x55 | 0x15 => (),
                0x95 => return registers[0] == 1,
                code => panic!("unknown instruction {code:#x}"),
            }
        }
    }

    const CHAR: u32 = 2;
    const BLOCK: u32 = 1;
    const READ: u32 = 2;
    const WRITE: u32 = 4;

    #[test]
    fn default_list() {
        let program = program(&policy(r#"[{"allow":false,"access":"rwm"}]"#));
        assert!(run(&program, CHAR, READ | WRITE, 1, 3));
        assert!(run(&program, CHAR, READ, 136, 7));
        assert!(run(&program, BLOCK, 1, 8, 0), "mknod of anything");
        assert!(!run(&program, BLOCK, READ, 8, 0));
        assert!(!run(&program, CHAR, READ, 1, 1));
        assert!(!run(&program, BLOCK, READ, 1, 3), "block is not char");
    }

    #[test]
    fn partial_access_and_order() {
        let list = policy(
            r#"[{"allow":false},{"allow":true,"type":"b","major":8,"access":"r"},
                {"allow":true,"type":"c","major":10,"minor":200,"access":"rwm"},
                {"allow":false,"type":"c","major":10,"minor":200,"access":"w"}]"#,
        );
        let program = program(&list);
        assert!(run(&program, BLOCK, READ, 8, 1));
        assert!(!run(&program, BLOCK, READ | WRITE, 8, 1));
        assert!(run(&program, CHAR, READ, 10, 200));
        assert!(!run(&program, CHAR, READ | WRITE, 10, 200), "the later rule denies writing");
    }

    #[test]
    fn privileged_needs_no_exceptions() {
        let policy = policy(r#"[{"allow":false},{"allow":true,"access":"rwm"}]"#);
        assert_eq!(policy, DevicePolicy { default_allow: true, rules: Vec::new() });
        assert!(run(&program(&policy), BLOCK, READ | WRITE, 8, 0));
    }
}
