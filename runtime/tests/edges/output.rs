//! A runtime whose own standard streams are slow, large or gone.

use std::io::{Read, Write};
use std::process::Stdio;

use nix::pty::{Winsize, openpty};
use serde_json::json;

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
