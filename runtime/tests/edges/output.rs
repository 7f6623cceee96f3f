//! A runtime whose own standard streams are slow, large or gone.

use std::io::{Read, Write};
use std::process::Stdio;

use nix::pty::{Winsize, openpty};
use serde_json::{Value, json};

use crate::common::{Container, Ran, can_run};

/// The terminal takes no more input while its output waits to be read: both go on by turns.
#[test]
fn a_terminal_passes_more_than_it_holds() {
    if !can_run() {
        return;
    }
    const LINES: usize = 20_000;
    let container = Container::new("stty -echo; echo ready; exec cat").set("/process/terminal", json!(true));
    container.write_config();
    let bundle = container.folder.path().to_str().expect("path").to_owned();
    let mut command = container.command(&["run", "--bundle", &bundle, &container.id]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("run");
    let (mut input, mut output) = (child.stdin.take().expect("input"), child.stdout.take().expect("output"));
    let mut seen = Vec::new();
    while !seen.ends_with(b"ready\n") {
        let mut byte = [0];
        assert_eq!(output.read(&mut byte).expect("output"), 1, "{}", String::from_utf8_lossy(&seen));
        seen.push(byte[0]);
    }
    // Nobody reads meanwhile: the runtime has to keep what it can, and to wait with the rest.
    let writer = std::thread::spawn(move || {
        for number in 0..LINES {
            writeln!(input, "line {number}").expect("input");
        }
        input.write_all(b"\x04").expect("end of input");
        input
    });
    let mut rest = String::new();
    output.read_to_string(&mut rest).expect("output");
    drop(writer.join().expect("writer"));
    assert_eq!(child.wait().expect("end").code(), Some(0));
    let mut lines = rest.split_terminator('\n');
    assert!((0..LINES).all(|number| lines.next() == Some(&format!("line {number}"))), "{} bytes came", rest.len());
    assert_eq!(lines.next(), None);
}

/// As with runc, an error, and not the end by a signal.
#[test]
fn output_that_nobody_takes_is_an_error() {
    if !can_run() {
        return;
    }
    let container = Container::new("exec sleep 1000");
    container.run_detached().ok();
    for words in [&["features"][..], &["list"], &["list", "-q"], &["state", &container.id], &["ps", &container.id]] {
        let full = std::fs::File::options().write(true).open("/dev/full").expect("/dev/full");
        let ended = container.command(words).stdout(full).output().expect("run");
        let errors = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(1), "{words:?}: {errors}");
        assert!(errors.contains("standard output: No space left"), "{words:?}: {errors}");
    }
}

/// What the program finds when it begins is the terminal of who looks at it.
#[test]
fn a_terminal_has_its_size_and_its_ends_of_lines_before_the_program_begins() {
    if !can_run() {
        return;
    }
    let container = Container::new("sleep 1000");
    container.run_detached().ok();
    let pty = openpty(Some(&Winsize { ws_row: 33, ws_col: 77, ws_xpixel: 0, ws_ypixel: 0 }), None).expect("openpty");
    for _ in 0..20 {
        let mut exec = container.command(&["exec", "--tty", &container.id, "busybox", "stty", "size"]);
        let output = exec.stdin(pty.slave.try_clone().expect("dup")).output().expect("exec");
        // Not "\r\n": it goes into a pipe.
        assert_eq!(Ran::from(output).ok(), "33 77\n");
    }
}

/// For who looks for where a call hangs: with a log file in that alone, so that callers that read standard error are
/// not confused.
#[test]
fn debug_messages_say_what_is_done() {
    if !can_run() {
        return;
    }
    let container = Container::new("exec sleep 1000");
    container.write_config();
    let log = container.folder.path().join("log");
    let bundle = container.folder.path().to_str().expect("path");
    let id = container.id.as_str();
    let said = |words: &[&str]| {
        let flags = ["--debug", "--log-format", "json", "--log", log.to_str().expect("path")];
        let mut command = container.command(&[&flags, words].concat());
        let errors = container.folder.path().join("errors");
        command.stdout(Stdio::null()).stderr(std::fs::File::create(&errors).expect("file"));
        assert!(command.status().expect("run").success());
        assert_eq!(std::fs::read_to_string(errors).expect("errors"), "");
        let text = std::fs::read_to_string(&log).expect("log");
        std::fs::remove_file(&log).expect("remove");
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        lines.inspect(|line| assert_eq!(line["level"], "debug")).map(|line| line["msg"].to_string()).collect::<Vec<_>>()
    };
    let has = |lines: &[String], parts: &[&str]| {
        for part in parts {
            assert!(lines.iter().any(|line| line.contains(part)), "{part}: {lines:#?}");
        }
    };
    let created = said(&["create", "--bundle", bundle, id]);
    let pid = container.state()["pid"].to_string();
    has(&created, &[id, "rootfs", "cgroup /", &format!("process {pid} waits for start")]);
    has(&said(&["start", id]), &[&pid, "the program runs"]);
    has(&said(&["exec", id, "true"]), &[&pid, "the program runs"]);
    has(&said(&["kill", id, "KILL"]), &[&format!("signal 9 goes to process {pid}")]);
    has(
        &said(&["delete", "--force", id]),
        &[&format!("ending process {pid}"), &format!("removing {}", container.root().join(id).display())],
    );
    let ran = container.call(&["--debug", "list", "--quiet"]);
    assert!(ran.stderr.contains("orlop-runtime: debug: version "), "{ran:?}");
    ran.ok();
}
