//! That a profile holds for every process of a container, and for what default profiles refuse.

use serde_json::{Value, json};

use crate::attacks::{armed, can_attack, line, said};
use crate::common::{Container, can_run};

const REFUSED: [&str; 4] = ["AF_ALG", "AF_VSOCK", "io_uring_setup", "keyctl"];

/// The parts of containerd's default profile that are about these calls.
fn profile() -> Value {
    let not = |family: u32| json!({"index": 0, "value": family, "op": "SCMP_CMP_EQ"});
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": [not(38)]},
            {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": [not(40)]},
            {"names": ["io_uring_setup", "io_uring_enter", "io_uring_register", "keyctl"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}
        ]
    })
}

#[track_caller]
fn check(output: &str) {
    let said = said(output);
    for call in REFUSED {
        let line = said.iter().find(|line| line.starts_with(call)).expect(call);
        assert!(line.contains("EPERM") || line.contains("ENOSYS"), "{line}");
    }
    assert!(said.iter().any(|line| line == "AF_UNIX allowed"), "{said:?}");
    assert!(said.iter().any(|line| line == "Seccomp: 2"), "{said:?}");
}

#[test]
fn a_profile_holds_for_run_and_every_exec() {
    if !can_run() || !can_attack() {
        return;
    }
    for no_new_privs in [true, false] {
        let calls = line("calls");
        let container = armed(Container::new(&calls))
            .set("/linux/seccomp", profile())
            .set("/process/noNewPrivileges", json!(no_new_privs));
        check(&container.run().ok());
        let container = container.set("/process/args", json!(["sleep", "1000"]));
        container.run_detached().ok();
        check(&container.exec(&calls).ok());
        check(&container.call(&["exec", "--user", "1000", &container.id, "sh", "-c", &calls]).ok());
        let process = container.folder.path().join("process.json");
        let mut wanted = container.spec["process"].clone();
        wanted["args"] = json!(["sh", "-c", calls]);
        std::fs::write(&process, wanted.to_string()).expect("file");
        check(&container.call(&["exec", "-p", process.to_str().expect("path"), &container.id]).ok());
    }
}

/// The other ABIs of the processor are no way around a profile that does not name them.
#[test]
fn an_architecture_that_a_profile_does_not_name_is_closed() {
    if !can_run() || !can_attack() {
        return;
    }
    let mut profile = profile();
    profile["architectures"] = json!(["SCMP_ARCH_X86_64"]);
    let script = format!(
        "{}; ORLOP_ATTACK=x32 /attack attacks::entry --exact --nocapture --test-threads=1; echo $?",
        line("calls")
    );
    let ran = armed(Container::new(&script)).set("/linux/seccomp", profile).run().ok();
    check(&ran);
    assert!(ran.trim_end().ends_with("159"), "killed by SIGSYS: {ran}");
}
