//! Programs are run here by an interpreter and compared with what the profile says.

use oci_spec::runtime::LinuxSeccomp;

use super::super::arch::X32_BIT;
use super::super::assembler::{JUMP, RETURN};
use super::super::rules::tables;
use super::*;

const ALLOW: u32 = 0x7fff_0000;
const X86_64: u32 = 0xc000_003e;
const X86: u32 = 0x4000_0003;

fn errno(number: i32) -> u32 {
    0x0005_0000 | number as u32
}

fn compile(profile: &str) -> Vec<FilterInsn> {
    let profile: LinuxSeccomp = serde_json::from_str(profile).expect("test data");
    program(&tables(&profile).expect("profile"))
}

/// Runs a filter as the kernel would.
fn run(program: &[FilterInsn], arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let load = |offset: u32| match offset {
        NUMBER => number,
        ARCHITECTURE => arch,
        offset => {
            let at = offset - ARGUMENTS;
            (args[(at / 8) as usize] >> (at % 8 * 8)) as u32
        }
    };
    let mut accumulator = 0;
    let mut at = 0;
    loop {
        let insn = program[at];
        at += 1;
        let jump = |holds: bool| usize::from(if holds { insn.jt } else { insn.jf });
        match insn.code {
            LOAD => accumulator = load(insn.k),
            AND => accumulator &= insn.k,
            RETURN => return insn.k,
            JUMP => at += insn.k as usize,
            JUMP_EQUAL => at += jump(accumulator == insn.k),
            JUMP_GREATER => at += jump(accumulator > insn.k),
            JUMP_GREATER_EQUAL => at += jump(accumulator >= insn.k),
            code => panic!("unknown instruction {code:#x}"),
        }
    }
}

#[test]
fn every_number_of_a_profile_with_gaps() {
    // Every third call by name: many ranges.
    let calls: Vec<(String, u32)> =
        syscalls::x86_64::Sysno::iter().map(|call| (call.name().to_owned(), call.id() as u32)).collect();
    let named: Vec<&(String, u32)> = calls.iter().step_by(3).collect();
    let names: Vec<&str> = named.iter().map(|(name, _)| name.as_str()).collect();
    let profile =
        format!(r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{{"names":{names:?},"action":"SCMP_ACT_ALLOW"}}]}}"#);
    let program = compile(&profile);
    let newest = named.iter().map(|(_, number)| *number).max().expect("calls");
    for number in 0..newest + 50 {
        let expected = match number {
            number if named.iter().any(|(_, known)| *known == number) => ALLOW,
            number if number > newest => errno(libc::ENOSYS),
            _ => errno(libc::EPERM),
        };
        assert_eq!(run(&program, X86_64, number, [0; 6]), expected, "{number}");
    }
    assert_eq!(run(&program, X86, 1, [0; 6]), UNKNOWN_ARCHITECTURE);
    assert_eq!(run(&program, X86_64, X32_BIT, [0; 6]), UNKNOWN_ARCHITECTURE);
}

#[test]
fn far_jumps() {
    // A verdict for each call, and the same one for what has an odd argument: no return serves two of them, and
    // the last one's code is longer than one conditional jump reaches.
    let calls: Vec<(&str, u32)> =
        syscalls::x86_64::Sysno::iter().map(|call| (call.name(), call.id() as u32)).step_by(2).collect();
    let rule = |name: &str, number: u32| {
        format!(
            r#"{{"names":["{name}"],"action":"SCMP_ACT_ERRNO","errnoRet":{},"args":[{{"index":1,"value":1,"valueTwo":1,"op":"SCMP_CMP_MASKED_EQ"}}]}},
               {{"names":["{name}"],"action":"SCMP_ACT_ERRNO","errnoRet":{},"args":[{{"index":0,"value":7,"op":"SCMP_CMP_EQ"}}]}}"#,
            4095,
            number + 1
        )
    };
    let rules: Vec<String> = calls.iter().map(|(name, number)| rule(name, *number)).collect();
    let program = compile(&format!(
        r#"{{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"syscalls":[{}]}}"#,
        rules.join(",")
    ));
    for (_, number) in &calls {
        let call = |number, first, second| run(&program, X86_64, number, [first, second, 0, 0, 0, 0]);
        assert_eq!(call(*number, 0, 1), errno(4095), "{number}");
        assert_eq!(call(*number, 7, 0), errno(*number as i32 + 1), "{number}");
        assert_eq!(call(*number, 0, 0), ALLOW, "{number}");
        if calls.iter().all(|(_, other)| *other != number + 1) {
            assert_eq!(call(number + 1, 7, 1), ALLOW, "{number} + 1");
        }
    }
    assert!(program.iter().any(|insn| insn.code == JUMP), "the profile is long enough to need far jumps");
    assert_eq!(run(&program, 0xc000_00b7, 0, [0; 6]), UNKNOWN_ARCHITECTURE);
}

#[test]
fn architectures() {
    let program = compile(
        r#"{"defaultAction":"SCMP_ACT_KILL_PROCESS","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"],
            "syscalls":[{"names":["read","readv"],"action":"SCMP_ACT_ALLOW"}]}"#,
    );
    assert_eq!(run(&program, X86_64, 0, [0; 6]), ALLOW);
    assert_eq!(run(&program, X86, 3, [0; 6]), ALLOW);
    assert_eq!(run(&program, X86_64, X32_BIT, [0; 6]), ALLOW);
    assert_eq!(run(&program, X86_64, X32_BIT + 515, [0; 6]), ALLOW);
    assert_eq!(run(&program, X86, 1, [0; 6]), 0x8000_0000);
    assert_eq!(run(&program, 0xc000_00b7, 0, [0; 6]), UNKNOWN_ARCHITECTURE);
}

#[test]
fn comparisons_of_64_bit_values() {
    let samples = [0, 1, 5, 6, 7, u64::from(u32::MAX), 1 << 32, (1 << 32) + 6, (6 << 32) + 6, (7 << 32) + 1, u64::MAX];
    type Comparison = fn(u64, u64) -> bool;
    let holds: [(&str, Comparison); 6] = [
        ("NE", |a, b| a != b),
        ("LT", |a, b| a < b),
        ("LE", |a, b| a <= b),
        ("EQ", |a, b| a == b),
        ("GE", |a, b| a >= b),
        ("GT", |a, b| a > b),
    ];
    for (name, holds) in holds {
        for value in samples {
            let program = compile(&format!(
                r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{{"names":["write"],"action":"SCMP_ACT_ALLOW",
                    "args":[{{"index":2,"value":{value},"op":"SCMP_CMP_{name}"}}]}}]}}"#
            ));
            for argument in samples {
                let expected = if holds(argument, value) { ALLOW } else { errno(libc::EPERM) };
                let got = run(&program, X86_64, 1, [9, 9, argument, 9, 9, 9]);
                assert_eq!(got, expected, "{argument:#x} {name} {value:#x}");
            }
        }
    }
}

#[test]
fn masks_alternatives_and_order() {
    // clone without new namespaces, personality with one of two values: both are in every default profile.
    let program = compile(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"syscalls":[
            {"names":["clone"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":2114060288,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}]},
            {"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":8,"op":"SCMP_CMP_EQ"},{"index":0,"value":0,"op":"SCMP_CMP_EQ"}]},
            {"names":["socket"],"action":"SCMP_ACT_ERRNO","errnoRet":22,"args":[{"index":0,"value":38,"op":"SCMP_CMP_EQ"},{"index":1,"value":5,"op":"SCMP_CMP_EQ"}]},
            {"names":["bind"],"action":"SCMP_ACT_ERRNO","errnoRet":22,"args":[{"index":0,"value":38,"op":"SCMP_CMP_EQ"}]},
            {"names":["bind"],"action":"SCMP_ACT_ALLOW"}]}"#,
    );
    let call = |number, first, second| run(&program, X86_64, number, [first, second, 0, 0, 0, 0]);
    assert_eq!(call(56, 0x11, 0), ALLOW);
    assert_eq!(call(56, 0x1000_0011, 0), errno(libc::ENOSYS));
    assert_eq!(call(135, 8, 0), ALLOW);
    assert_eq!(call(135, 0, 0), ALLOW);
    assert_eq!(call(135, 4, 0), errno(libc::ENOSYS));
    assert_eq!(call(41, 38, 5), errno(22));
    assert_eq!(call(41, 38, 6), errno(libc::ENOSYS));
    assert_eq!(call(49, 38, 0), ALLOW, "a rule without conditions is stronger");
}

#[test]
fn allowing_profiles_hide_nothing() {
    let program = compile(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO","errnoRet":13}]}"#,
    );
    assert_eq!(run(&program, X86_64, 83, [0; 6]), errno(13));
    assert_eq!(run(&program, X86_64, 84, [0; 6]), ALLOW);
    assert_eq!(run(&program, X86_64, 9999, [0; 6]), ALLOW);
}
