//! The seccomp compiler beside libseccomp: both compile the same profiles, and both programs must decide the same
//! about every system call number of every architecture, and about arguments at and around every boundary.
//!
//! libseccomp is called as runc calls it, and what runc puts before libseccomp's program is added here: a call that
//! is newer than all that a profile names looks as if the kernel did not have it (`newer_than_the_profile`).
//!
//! `ORLOP_SEED` takes a seed that a run printed, `ORLOP_PROFILES` how many random profiles there are.

mod bpf;
#[path = "../common/chance.rs"]
mod chance;
mod profiles;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use bpf::{Call, Instruction};
use chance::Chance;
use orlop_runtime::{LinuxSeccomp, SeccompFilter};
use serde_json::{Value, json};

const ALL: [(&str, u32); 5] = [
    ("SCMP_ARCH_X86_64", X86_64),
    ("SCMP_ARCH_X86", 0x4000_0003),
    ("SCMP_ARCH_X32", X86_64),
    ("SCMP_ARCH_AARCH64", 0xc000_00b7),
    ("SCMP_ARCH_ARM", 0x4000_0028),
];
const X86_64: u32 = 0xc000_003e;
const X32_BIT: u32 = 0x4000_0000;
/// `SECCOMP_RET_ERRNO` with ENOSYS.
const ENOSYS: u32 = 0x0005_0026;

/// Debian's package of libseccomp for its own Python.
const PYTHON: &str = "/usr/bin/python3";

/// libseccomp, which compiles profiles one by one.
struct Oracle {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Oracle {
    fn start() -> Option<Oracle> {
        let has = Command::new(PYTHON).args(["-c", "import seccomp"]).stderr(Stdio::null()).status();
        if !has.is_ok_and(|status| status.success()) {
            println!("SKIP: {PYTHON} has no seccomp; install python3-seccomp");
            return None;
        }
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/seccomp_oracle/libseccomp.py");
        let mut process =
            Command::new(PYTHON).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3");
        let input = process.stdin.take().expect("input");
        let output = BufReader::new(process.stdout.take().expect("output"));
        Some(Oracle { process, input, output })
    }

    fn ask(&mut self, line: &str) -> Value {
        writeln!(self.input, "{line}").expect("write to libseccomp.py");
        let mut answer = String::new();
        self.output.read_line(&mut answer).expect("read from libseccomp.py");
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer:?} to {line}"))
    }

    /// The names of each architecture's system calls.
    fn names(&mut self) -> BTreeMap<String, Vec<String>> {
        serde_json::from_value(self.ask("names")).expect("names")
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A profile compiled by libseccomp.
struct Reference {
    program: Vec<Instruction>,
    newest: BTreeMap<String, u32>,
    hides_new_calls: bool,
}

impl Reference {
    /// What runc's filter decides.
    fn decide(&self, call: &Call) -> u32 {
        if self.hides_new_calls && self.newer_than_the_profile(call) { ENOSYS } else { bpf::run(&self.program, call) }
    }

    fn newer_than_the_profile(&self, call: &Call) -> bool {
        let is_x32 = call.architecture == X86_64 && call.number & X32_BIT != 0;
        let mode = ALL.iter().find(|(name, audit)| *audit == call.architecture && is_x32 == (*name == "SCMP_ARCH_X32"));
        let newest = mode.and_then(|(name, _)| self.newest.get(*name)).copied().unwrap_or(0);
        newest != 0 && call.number > newest
    }
}

fn ours(profile: &Value) -> Result<Vec<Instruction>, String> {
    let profile: LinuxSeccomp = serde_json::from_value(profile.clone()).expect("a profile");
    let filter = SeccompFilter::compile(&profile).map_err(|error| error.to_string())?;
    Ok(filter.instructions().collect())
}

/// Numbers around everything that tells them apart.
fn numbers() -> Vec<u32> {
    let low = (0..560).chain(0xf_0000..0xf_0008);
    let x32 = (0..600).map(|number| number | X32_BIT);
    let high = [X32_BIT - 1, (X32_BIT << 1) - 1, X32_BIT << 1, X32_BIT * 3 - 1, X32_BIT * 3, u32::MAX - 1, u32::MAX];
    low.chain(x32).chain(high).collect()
}

/// Compares both programs of a profile; how many calls were compared, or 0 if libseccomp refuses it.
fn compare(oracle: &mut Oracle, profile: &Value, chance: &mut Chance) -> usize {
    let answer = oracle.ask(&profile.to_string());
    let (program, newest) = match (&answer["error"], ours(profile)) {
        (Value::Null, Ok(program)) => (program, answer["newest"].clone()),
        (Value::Null, Err(error)) => panic!("{error}; libseccomp takes {profile}"),
        // EEXIST also for conditions that begin as others with another action do, if the shorter comes later. Those
        // are taken here as in the other order.
        (error, Ok(_)) if !error.to_string().contains("errno = -17") => panic!("{error} of libseccomp for {profile}"),
        _ => return 0,
    };
    let permissive = ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"];
    let reference = Reference {
        program: bpf::parse(answer["program"].as_str().expect("program")),
        newest: serde_json::from_value(newest).expect("newest"),
        hides_new_calls: !permissive.iter().any(|action| profile["defaultAction"] == *action),
    };
    let mut compared = 0;
    let mut different = Vec::new();
    let mut check = |architecture, number, args: &[u64; 6]| {
        let call = Call { architecture, number, args: *args };
        let (wanted, got) = (reference.decide(&call), bpf::run(&program, &call));
        if got != wanted {
            different.push((call, wanted, got));
        }
        compared += 1;
        got
    };
    let audits: BTreeSet<u32> = ALL.iter().map(|(_, audit)| *audit).chain([0, 0xc000_0016]).collect();
    let few = profiles::arguments(profile, chance, 4);
    let many = profiles::arguments(profile, chance, 120);
    for architecture in audits {
        for number in numbers() {
            let results: BTreeSet<u32> = few.iter().map(|args| check(architecture, number, args)).collect();
            // One whose arguments matter; a few that are not noticed here are in other profiles.
            if results.len() > 1 {
                for args in &many {
                    check(architecture, number, args);
                }
            }
        }
    }
    for (call, wanted, got) in different {
        let alone = decide_alone(oracle, profile, &call);
        assert_eq!(got, alone, "{got:#x} in place of {wanted:#x} for {call:x?} of {profile}");
        println!("libseccomp contradicts itself about {call:x?}: {wanted:#x}, alone {alone:#x}");
    }
    compared
}

/// What libseccomp decides when only the rules of one name are in the profile, and only one architecture. Very
/// seldom it shares code between calls that are not alike, and then contradicts this.
fn decide_alone(oracle: &mut Oracle, profile: &Value, call: &Call) -> u32 {
    let is_x32 = call.architecture == X86_64 && call.number & X32_BIT != 0;
    let mode = ALL.iter().find(|(name, audit)| *audit == call.architecture && is_x32 == (*name == "SCMP_ARCH_X32"));
    let mut decide = |rules: Vec<&Value>| {
        let mut profile = profile.clone();
        profile["syscalls"] = json!(rules);
        profile["architectures"] = json!([mode.expect("a known architecture").0]);
        let answer = oracle.ask(&profile.to_string());
        bpf::run(&bpf::parse(answer["program"].as_str().expect("program")), call)
    };
    let nobody = decide(Vec::new());
    let rules = profile["syscalls"].as_array().expect("rules");
    let name = |rule: &Value| rule["names"][0].as_str().map(ToOwned::to_owned);
    let names: BTreeSet<Option<String>> = rules.iter().map(name).collect();
    let mut alone = names.iter().map(|wanted| decide(rules.iter().filter(|rule| name(rule) == *wanted).collect()));
    alone.find(|decision| *decision != nobody).unwrap_or(nobody)
}

#[test]
fn random_profiles() {
    let Some(mut oracle) = Oracle::start() else { return };
    let number = |variable: &str| std::env::var(variable).ok().map(|text| text.parse::<u64>().expect("a number"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("clock");
    let seed = number("ORLOP_SEED").unwrap_or(now.as_nanos() as u64);
    println!("ORLOP_SEED={seed}");
    let mut chance = Chance::new(seed);
    let names: BTreeSet<String> = oracle.names().into_values().flatten().collect();
    let names: Vec<String> = names.into_iter().chain(["no_such_call".to_owned()]).collect();
    let (mut compared, mut refused) = (0, 0);
    for _ in 0..number("ORLOP_PROFILES").unwrap_or(60) {
        match compare(&mut oracle, &profiles::random(&mut chance, &names), &mut chance) {
            0 => refused += 1,
            calls => compared += calls,
        }
    }
    println!("{compared} calls compared; {refused} profiles refused by libseccomp");
    assert!(compared > 0);
}

/// Each call by its name on each architecture.
#[test]
fn every_call_has_its_number() {
    let Some(mut oracle) = Oracle::start() else { return };
    let mut chance = Chance::new(1);
    for (architecture, names) in oracle.names() {
        for chosen in 0..3 {
            let names: Vec<&String> =
                names.iter().enumerate().filter(|(at, _)| at % 3 == chosen).map(|(_, name)| name).collect();
            let profile = json!({
                "defaultAction": "SCMP_ACT_LOG", "architectures": [architecture],
                "syscalls": [{"names": names, "action": "SCMP_ACT_ERRNO"}]
            });
            assert!(compare(&mut oracle, &profile, &mut chance) > 0);
        }
    }
}

/// Each operator with values whose halves differ, alone, masked, as alternatives and together.
#[test]
fn every_comparison() {
    let Some(mut oracle) = Oracle::start() else { return };
    let mut chance = Chance::new(2);
    let values = [0, 6, u64::from(u32::MAX), 1 << 32, (1 << 32) + 6, u64::MAX];
    for op in profiles::OPERATORS {
        for value in values {
            let arg = |index: u32| json!({"index": index, "op": op, "value": value, "valueTwo": 6});
            for args in [
                json!([arg(0)]),
                json!([arg(5)]),
                json!([arg(1), arg(3)]),
                json!([arg(2), {"index": 2, "op": "SCMP_CMP_EQ", "value": 77}]),
            ] {
                let profile = json!({
                    "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64"],
                    "syscalls": [{"names": ["socket", "mmap", "ipc"], "action": "SCMP_ACT_ERRNO", "args": args}]
                });
                assert!(compare(&mut oracle, &profile, &mut chance) > 0);
            }
        }
    }
}

/// The default profile of Debian's podman, as its tools resolve it for these architectures and no capability.
#[test]
fn a_default_profile() {
    let Some(mut oracle) = Oracle::start() else { return };
    let path = "/usr/share/containers/seccomp.json";
    let Ok(text) = std::fs::read(path) else {
        println!("SKIP: {path} is missing; install golang-github-containers-common");
        return;
    };
    let mut profile: Value = serde_json::from_slice(&text).expect("a profile");
    for field in ["archMap", "defaultErrno"] {
        profile.as_object_mut().expect("an object").remove(field);
    }
    profile["architectures"] = json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]);
    let rules = profile["syscalls"].as_array_mut().expect("rules");
    rules.retain(|rule| rule["includes"]["caps"].is_null() && rule["includes"]["arches"].is_null());
    for rule in rules {
        for field in ["includes", "excludes", "comment", "errno"] {
            rule.as_object_mut().expect("a rule").remove(field);
        }
    }
    assert!(compare(&mut oracle, &profile, &mut Chance::new(3)) > 0);
}
