//! Descriptors of the host that reach a container (CVE-2024-21626), and the ways out through one.

use serde_json::json;

use crate::common::{Container, can_run};
use crate::harness::{Canary, SECRET, leak_descriptors};

/// The descriptors that are tried. Those of this process, which leaks, lie among the first ten or so, and the
/// runtime opens its own at the same numbers.
const NUMBERS: std::ops::Range<u32> = 3..16;

/// Climbs from the working directory and says what it finds.
fn climb(canary: &Canary) -> String {
    let secret = canary.path().join("secret");
    format!("cat .{0} ..{0} ../..{0} ../../..{0} ../../../..{0} 2>/dev/null; pwd", secret.display())
}

#[test]
fn a_working_directory_by_descriptor_does_not_leave_the_root() {
    if !can_run() {
        return;
    }
    let canary = Canary::new();
    let _leaked = leak_descriptors();
    for number in NUMBERS {
        let cwd = format!("/proc/self/fd/{number}");
        let container = Container::new(&climb(&canary)).set("/process/cwd", json!(cwd));
        let ran = container.run();
        assert!(!ran.stdout.contains(SECRET), "{cwd}: {}", ran.stdout);
        if ran.code == Some(0) {
            assert!(ran.stdout.starts_with('/'), "{cwd}: {}", ran.stdout);
        } else {
            assert!(!ran.stderr.is_empty(), "{cwd}");
        }
    }
}

#[test]
fn a_working_directory_of_exec_by_descriptor_does_not_leave_the_root() {
    if !can_run() {
        return;
    }
    let canary = Canary::new();
    let _leaked = leak_descriptors();
    let container = Container::new("exec sleep 1000");
    container.run_detached().ok();
    for number in NUMBERS {
        let cwd = format!("/proc/self/fd/{number}");
        let ran = container.call(&["exec", "--cwd", &cwd, &container.id, "sh", "-c", &climb(&canary)]);
        assert!(!ran.stdout.contains(SECRET), "{cwd}: {}", ran.stdout);
    }
}

/// execve(2) resolves its path, and that of an interpreter, before it closes what is to be closed.
#[test]
fn a_program_by_descriptor_is_not_the_host_s() {
    if !can_run() {
        return;
    }
    let canary = Canary::new();
    let shell = canary.path().join("folder/busybox");
    std::fs::copy("/bin/busybox", &shell).expect("copy");
    let _leaked = leak_descriptors();
    let running = Container::new("exec sleep 1000");
    running.run_detached().ok();
    for number in NUMBERS {
        let path = format!("/proc/self/fd/{number}{}", shell.display());
        let container = Container::new("").set("/process/args", json!([path, "echo", "escaped"]));
        let ran = container.run();
        assert!(!ran.stdout.contains("escaped"), "run {path}");
        let ran = running.call(&["exec", &running.id, &path, "echo", "escaped"]);
        assert!(!ran.stdout.contains("escaped"), "exec {path}");
        let script = format!("#!{path} echo\n");
        std::fs::write(container.rootfs().join("bin/script"), script).expect("script");
        std::fs::set_permissions(
            container.rootfs().join("bin/script"),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .expect("mode");
        let ran = container.set("/process/args", json!(["/bin/script"])).run();
        assert!(!ran.stdout.contains("script"), "interpreter {path}");
    }
}

#[test]
fn a_container_has_descriptors_0_1_2_only() {
    if !can_run() {
        return;
    }
    let _leaked = leak_descriptors();
    // `ls` has one more open while it reads the folder.
    let list = "ls /proc/self/fd | while read fd; do echo -n \"$fd \"; done; cat /proc/sys/kernel/ostype";
    let expected = "0 1 2 3 Linux\n";
    assert_eq!(Container::new(list).run().ok(), expected);
    let container = Container::new("exec sleep 1000");
    container.create().ok();
    let pid = container.state()["pid"].to_string();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").flatten() {
        let target = std::fs::read_link(entry.path()).expect("link");
        let fits = ["/dev/null", "socket:", "pipe:"].iter().any(|kind| target.to_string_lossy().starts_with(kind))
            || target.starts_with(container.folder.path());
        assert!(fits, "while it waits for start it holds {}", target.display());
    }
    container.start().ok();
    let open = || std::fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").count();
    crate::common::wait_until("nothing but its own stdio is open", || open() == 3);
    assert_eq!(container.exec(list).ok(), expected);
}
