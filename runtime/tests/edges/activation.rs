//! Socket activation: `LISTEN_FDS` and its kin, as runc has them.

use std::process::{Command, Stdio};

use serde_json::json;

use crate::common::{Container, can_run};

/// A shell line that becomes a runtime with two sockets, which are files here, and one descriptor more.
fn activated(container: &Container, variables: &str, program: &str, flags: &str) -> (String, String) {
    let folder = container.folder.path();
    for name in ["one", "two", "more"] {
        std::fs::write(folder.join(name), name).expect("file");
    }
    let line = format!("{variables} exec {program} 3<one 4<two 5<more {flags}");
    let output = Command::new("sh").args(["-c", &line]).current_dir(folder).stdin(Stdio::null()).output().expect("sh");
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// What the container finds: its variables, and what is open.
const LOOK: &str =
    "env | grep LISTEN | sort; for fd in 3 4 5 6; do test -e /proc/self/fd/$fd && cat <&$fd && echo; done; true";

/// What is given, what flags, and what is found.
const CASES: [(&str, &str, &str); 6] = [
    ("LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=a:b", "", "LISTEN_FDS=2\nLISTEN_PID=1\none\ntwo\n"),
    ("LISTEN_PID=$$ LISTEN_FDS=2", "--preserve-fds 1", "LISTEN_FDS=2\nLISTEN_PID=1\none\ntwo\nmore\n"),
    // Meant for somebody else, or nobody.
    ("LISTEN_PID=1 LISTEN_FDS=2", "", ""),
    ("LISTEN_FDS=2", "", ""),
    ("LISTEN_PID=$$ LISTEN_FDS=x", "--preserve-fds 1", "one\n"),
    ("LISTEN_PID=$$ LISTEN_FDS=0", "", ""),
];

fn bundle() -> Container {
    // What the configuration says of it is no longer true.
    let container = Container::new(LOOK).set("/process/env", json!(["PATH=/bin", "LISTEN_FDNAMES=of:the:spec"]));
    container.write_config();
    container
}

fn named(found: &str) -> String {
    format!("LISTEN_FDNAMES=of:the:spec\n{found}")
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn the_program_gets_the_sockets() {
    if !can_run() {
        return;
    }
    for (variables, flags, found) in CASES {
        let container = bundle();
        let program = format!("{} --root state", env!("CARGO_BIN_EXE_orlop-runtime"));
        let (output, errors) = activated(&container, variables, &program, &format!("run {flags} {}", container.id));
        assert_eq!(sorted(&output), sorted(&named(found)), "{variables} {flags}: {errors}");
    }
}

/// The same cases, so that they stay true.
#[test]
fn as_from_runc() {
    if !can_run() {
        return;
    }
    if Command::new("runc").arg("--version").output().is_err() {
        return println!("SKIP: runc is not installed");
    }
    for (variables, flags, found) in CASES {
        let mut container = bundle();
        let name = format!("{}-runc", container.id);
        // runc leaves what is above a container's groups.
        container = container.set("/linux/cgroupsPath", json!(format!("/{name}")));
        container.write_config();
        let (output, errors) = activated(&container, variables, "runc --root runc", &format!("run {flags} {name}"));
        assert_eq!(sorted(&output), sorted(&named(found)), "{variables} {flags}: {errors}");
    }
}

#[test]
fn exec_passes_none_on() {
    if !can_run() {
        return;
    }
    let container = Container::new("sleep 1000");
    container.run_detached().ok();
    let program = format!("{} --root state", env!("CARGO_BIN_EXE_orlop-runtime"));
    let flags = format!("exec {} sh -c '{LOOK}'", container.id);
    let (output, errors) = activated(&container, "LISTEN_PID=$$ LISTEN_FDS=2", &program, &flags);
    assert_eq!(output, "", "{errors}");
    assert_eq!(errors, "");
}

#[test]
fn a_socket_that_is_not_there_is_told() {
    if !can_run() {
        return;
    }
    let container = bundle();
    let program = format!("{} --root state", env!("CARGO_BIN_EXE_orlop-runtime"));
    let (output, errors) =
        activated(&container, "LISTEN_PID=$$ LISTEN_FDS=9", &program, &format!("run {}", container.id));
    assert_eq!(output, "");
    assert!(errors.contains("descriptor 6 is not open"), "{errors}");
}
