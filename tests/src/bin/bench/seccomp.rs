//! The seccomp compiler beside libseccomp: the default profile of Debian's podman for three architectures.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use orlop_runtime::{LinuxSeccomp, SeccompFilter};
use orlop_tests::command;
use serde_json::{Value, json};

use crate::figures::{Times, against, line};

const PROFILE: &str = "/usr/share/containers/seccomp.json";
const PYTHON: &str = "/usr/bin/python3";
const ROUNDS: usize = 50;

/// Compiles a profile from standard input as runc has libseccomp do it, and prints how long each time took.
const LIBSECCOMP: &str = r#"
import json, os, seccomp, sys, time
profile = json.load(sys.stdin)
rules = [(name, [seccomp.Arg(arg["index"], getattr(seccomp, arg["op"][len("SCMP_CMP_"):]), arg["value"],
                             arg.get("valueTwo", 0)) for arg in rule.get("args") or []], rule)
         for rule in profile["syscalls"] for name in rule["names"]]
rules = [rule for rule in rules if rule[2]["action"] == "SCMP_ACT_ALLOW"]
rules = [(seccomp.resolve_syscall(seccomp.Arch.X86_64, name), args) for name, args, _ in rules]
null = open(os.devnull, "wb")
for _ in range(int(sys.argv[1])):
    begin = time.perf_counter()
    made = seccomp.SyscallFilter(seccomp.ERRNO(38))
    made.add_arch(seccomp.Arch.X86)
    made.add_arch(seccomp.Arch.X32)
    made.set_attr(seccomp.Attr.CTL_OPTIMIZE, 2)
    for number, args in rules:
        if number != -1:
            made.add_rule(seccomp.ALLOW, number, *args)
    made.export_bpf(null)
    print(time.perf_counter() - begin)
"#;

/// Milliseconds that a compilation and a load may take.
const COMPILE: f64 = 1.0;
const LOAD: f64 = 0.25;

pub(crate) fn compare() -> Result<()> {
    println!("\n# Seccomp: podman's default profile for three architectures, beside libseccomp");
    if !Path::new(PROFILE).exists() {
        println!("SKIP: {PROFILE} is missing; install golang-github-containers-common");
        return Ok(());
    }
    let text = profile()?;
    let profile: LinuxSeccomp = serde_json::from_value(text.clone()).context(PROFILE)?;
    let compile = || SeccompFilter::compile(&profile).context(PROFILE);
    let (mut compiled, mut loaded) = (Times::default(), Times::default());
    for _ in 0..ROUNDS {
        let filter = compiled.take(compile)?;
        // A thread of its own, since a filter stays and each more slows all that follows.
        let load = std::thread::spawn(move || {
            let begin = Instant::now();
            filter.install().map(|_| begin.elapsed())
        });
        loaded.add(load.join().map_err(|_| anyhow::anyhow!("the thread that loads a filter ended"))??);
    }
    println!("{:<44} {:>12}", "instructions", compile()?.instructions().len());
    line("orlop-runtime compiles", &compiled);
    line("orlop-runtime loads", &loaded);
    against("compiles in", compiled.median(), "ms", COMPILE);
    against("loads in", loaded.median(), "ms", LOAD);
    match theirs(&text) {
        Ok(theirs) => {
            line("libseccomp compiles", &theirs);
            println!("{:<44} {:>12.3}", "ratio", compiled.median() / theirs.median());
        }
        Err(error) => println!("SKIP: libseccomp: {error:#}; install python3-seccomp"),
    }
    Ok(())
}

/// The profile for x86_64, x86 and x32 and a process without capabilities.
fn profile() -> Result<Value> {
    let mut profile: Value = serde_json::from_slice(&std::fs::read(PROFILE)?)?;
    let rules = profile["syscalls"].as_array_mut().context("syscalls")?;
    rules.retain(|rule| rule["includes"]["caps"].is_null() && rule["includes"]["arches"].is_null());
    let known = ["names", "action", "args", "errnoRet"];
    let rules: Vec<Value> = rules
        .iter()
        .map(|rule| {
            known.iter().filter(|field| !rule[**field].is_null()).map(|field| (*field, rule[*field].clone())).collect()
        })
        .collect();
    let architectures = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];
    Ok(json!({
        "defaultAction": profile["defaultAction"], "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": architectures, "syscalls": rules
    }))
}

fn theirs(profile: &Value) -> Result<Times> {
    let input = tempfile::NamedTempFile::new()?;
    std::fs::write(input.path(), profile.to_string())?;
    let mut python = Command::new("sh");
    python.args(["-c", "\"$0\" -c \"$1\" \"$2\" < \"$3\"", PYTHON, LIBSECCOMP, &ROUNDS.to_string()]).arg(input.path());
    let mut times = Times::default();
    for seconds in command::stdout(&mut python)?.lines() {
        times.add(Duration::from_secs_f64(seconds.parse().context("a time")?));
    }
    Ok(times)
}
