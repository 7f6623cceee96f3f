//! The runtime's own program, overwritten through /proc/PID/exe (CVE-2019-5736).

use serde_json::json;

use crate::attacks::{armed, can_attack, line, said};
use crate::common::{Container, can_run, program, wait_until};
use crate::harness::{races, with_capabilities};

/// A container with every right over files and processes takes hold of the program of each `exec`, and writes to
/// it when nobody executes it. The program is a copy: if this fails, only that is lost.
#[test]
fn the_program_is_not_written_during_execs() {
    if !can_run() || !can_attack() {
        return;
    }
    let copy = tempfile::tempdir().expect("folder");
    let runtime = copy.path().join("runtime");
    std::fs::copy(program(), &runtime).expect("copy");
    let before = std::fs::read(&runtime).expect("program");

    let all = ["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_SYS_ADMIN", "CAP_FOWNER", "CAP_CHOWN"];
    let container =
        with_capabilities(armed(Container::new(&line("write-exe"))), &all).set("/linux/maskedPaths", json!([]));
    container.run_detached().ok();
    let held = || said(&container.output()).iter().any(|line| line.starts_with("holds"));
    let exec = || {
        let mut command = std::process::Command::new(&runtime);
        command.arg("--root").arg(container.root()).args(["exec", &container.id, "true"]);
        // "Text file busy" is the attacker's: it has the program open for writing.
        let status = command.status().unwrap_or_else(|error| panic!("execute the runtime: {error}"));
        assert!(status.success());
    };
    let mut execs = 0;
    while execs < races() || (!held() && execs < 2000) {
        exec();
        execs += 1;
    }
    std::fs::write(container.rootfs().join("stop"), "").expect("stop");
    wait_until("the end of the attack", || container.status() == "stopped");
    let report = said(&container.output()).pop().expect("a report");
    assert_eq!(std::fs::read(&runtime).expect("program"), before, "after {execs} execs: {report}");
    assert!(report.ends_with("written 0 read-only true"), "{execs} execs: {report}");
}
