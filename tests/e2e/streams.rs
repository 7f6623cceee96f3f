//! exec, attach, port-forward, logs, host ports.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use orlop_tests::registry::free_port;
use orlop_tests::{command, wait};

use crate::Case;
use crate::stack::{Namespace, Stack};

pub(crate) const CASES: &[Case] = &[
    ("exec_gives_exit_code_output_and_takes_input", exec),
    ("exec_has_a_terminal", exec_terminal),
    ("attach_talks_to_the_container", attach),
    ("cp_brings_a_file_in_and_out", cp),
    ("port_forward_carries_requests", port_forward),
    ("a_host_port_is_reached_from_the_host", host_port),
    ("logs_follow_tail_and_carry_times", logs),
];

fn sleeper(stack: &Stack, namespace: &Namespace) -> Result<()> {
    namespace.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: box}}, spec: {{terminationGracePeriodSeconds: 0, \
          containers: [{{name: main, image: '{}', command: [sleep, '100000']}}]}}}}",
        stack.busybox
    ))?;
    namespace.wait_for("Ready", "box")
}

fn exec(stack: &Stack, namespace: &Namespace) -> Result<()> {
    sleeper(stack, namespace)?;
    let outcome = namespace.outcome(&["exec", "box", "--", "sh", "-c", "echo out; echo err >&2; exit 42"])?;
    ensure!(outcome.code == 42, "{outcome:?}");
    ensure!(outcome.stdout == "out\n" && outcome.stderr.contains("err\n"), "{outcome:?}");
    let missing = namespace.outcome(&["exec", "box", "--", "no-such-program"])?;
    ensure!(missing.code != 0 && missing.stderr.contains("no-such-program"), "{missing:?}");
    let words = "word\n".repeat(100_000);
    let counted = namespace.outcome_with_input(&["exec", "-i", "box", "--", "wc", "-l"], &words)?;
    ensure!(counted.stdout.trim() == "100000", "{counted:?}");
    Ok(())
}

fn exec_terminal(stack: &Stack, namespace: &Namespace) -> Result<()> {
    sleeper(stack, namespace)?;
    // script(1) gives kubectl a terminal to be on.
    let kubectl = namespace.command(&[
        "exec",
        "-it",
        "box",
        "--",
        "sh",
        "-c",
        // The size arrives after the terminal, which is 0 by 0 until then.
        "tty; until stty size | grep \"33 77\"; do usleep 10000; done; read line; echo got-$line; exit 5",
    ]);
    let mut line = vec![kubectl.get_program().to_string_lossy().into_owned()];
    line.extend(kubectl.get_args().map(|arg| format!("'{}'", arg.to_string_lossy())));
    let mut script = Command::new("script");
    script.args(["-qec", &format!("stty rows 33 cols 77; {}", line.join(" ")), "/dev/null"]);
    for (name, value) in kubectl.get_envs() {
        script.env(name, value.context("kubectl's environment only adds")?);
    }
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("script(1)")?;
    let mut input = child.stdin.take().context("stdin of script")?;
    let mut output = BufReader::new(child.stdout.take().context("stdout of script")?);
    let mut seen = String::new();
    // The size is printed once the terminal is there; only then is somebody reading.
    while !seen.contains("33 77") {
        ensure!(output.read_line(&mut seen)? > 0, "the terminal ended early: {seen:?}");
    }
    input.write_all(b"ahoy\n")?;
    output.read_to_string(&mut seen)?;
    ensure!(seen.contains("/dev/pts/0") && seen.contains("got-ahoy"), "{seen:?}");
    ensure!(child.wait()?.code() == Some(5), "{seen:?}");
    Ok(())
}

fn attach(stack: &Stack, namespace: &Namespace) -> Result<()> {
    namespace.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: echo}}, spec: {{restartPolicy: Never, \
          containers: [{{name: main, image: '{}', stdin: true, stdinOnce: true, command: [sh, -c, 'while read line; do echo heard $line; done']}}]}}}}",
        stack.busybox
    ))?;
    namespace.wait_for("Ready", "echo")?;
    let outcome = namespace.outcome_with_input(&["attach", "-i", "echo"], "one\ntwo\n")?;
    ensure!(outcome.stdout.contains("heard one\nheard two\n"), "{outcome:?}");
    namespace.wait_for_phase("echo", "Succeeded")?;
    ensure!(namespace.run(&["logs", "echo"])? == "heard one\nheard two\n");
    Ok(())
}

fn cp(stack: &Stack, namespace: &Namespace) -> Result<()> {
    sleeper(stack, namespace)?;
    let folder = tempfile::tempdir()?;
    let (up, down) = (folder.path().join("up"), folder.path().join("down"));
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(&up, &content)?;
    namespace.run(&["cp", &up.to_string_lossy(), "box:/tmp/file"])?;
    namespace.run(&["cp", "box:/tmp/file", &down.to_string_lossy()])?;
    ensure!(std::fs::read(&down)? == content, "the file came back different");
    Ok(())
}

/// An HTTP/1.0 exchange.
fn get(address: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn port_forward(stack: &Stack, namespace: &Namespace) -> Result<()> {
    namespace.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: web}}, spec: {{containers: [{{name: web, image: '{}', \
          readinessProbe: {{tcpSocket: {{port: 80}}, periodSeconds: 1}}}}]}}}}",
        stack.nginx
    ))?;
    namespace.wait_for("Ready", "web")?;
    let mut forward = namespace.spawn(&["port-forward", "pod/web", ":80"])?;
    // Kept open: kubectl tells of every connection there, and ends when nobody listens.
    let mut told = BufReader::new(forward.stdout.take().context("stdout of kubectl")?);
    let checked = (|| {
        let mut first = String::new();
        told.read_line(&mut first)?;
        let address =
            first.split("from ").nth(1).and_then(|rest| rest.split(' ').next()).context("the address")?.to_owned();
        for _ in 0..20 {
            let answer = get(&address, "/")?;
            ensure!(answer.contains("Welcome to nginx!"), "{answer:?}");
        }
        Ok(())
    })();
    kill(Pid::from_raw(forward.id().cast_signed()), Signal::SIGTERM)?;
    forward.wait()?;
    checked
}

fn host_port(stack: &Stack, namespace: &Namespace) -> Result<()> {
    let port = free_port()?.port();
    namespace.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: web}}, spec: {{terminationGracePeriodSeconds: 20, containers: [{{name: web, \
          image: '{}', ports: [{{containerPort: 80, hostPort: {port}}}], readinessProbe: {{tcpSocket: {{port: 80}}, periodSeconds: 1}}}}]}}}}",
        stack.nginx
    ))?;
    namespace.wait_for("Ready", "web")?;
    let host = namespace.field("pod", "web", "/status/hostIP")?;
    for address in ["127.0.0.1", host.as_str().context("the node's address")?] {
        let answer = get(&format!("{address}:{port}"), "/").with_context(|| format!("by {address}"))?;
        ensure!(answer.contains("Welcome to nginx!"), "by {address}: {answer:?}");
    }
    // A graceful deletion ends when the sandbox, with its ports, has been stopped.
    namespace.run(&["delete", "pod", "web"])?;
    ensure!(TcpStream::connect(("127.0.0.1", port)).is_err(), "the host port outlives its pod");
    Ok(())
}

fn logs(stack: &Stack, namespace: &Namespace) -> Result<()> {
    namespace.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: counter}}, spec: {{restartPolicy: Never, containers: [{{name: main, image: '{}', \
          command: [sh, -c, 'i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; sleep 1; echo end']}}]}}}}",
        stack.busybox
    ))?;
    namespace.wait_for("PodReadyToStartContainers", "counter")?;
    wait::until("the container to have started", || {
        let phase = namespace.field("pod", "counter", "/status/phase")?;
        Ok((phase != "Pending").then_some(()))
    })?;
    let followed = namespace.run(&["logs", "-f", "counter"])?;
    let wanted: String = (0..20_000).map(|n| format!("line {n}\n")).chain(["end\n".to_owned()]).collect();
    ensure!(followed == wanted, "{} lines were followed", followed.lines().count());
    ensure!(namespace.run(&["logs", "counter", "--tail=2"])? == "line 19999\nend\n");
    let stamped = namespace.run(&["logs", "counter", "--tail=1", "--timestamps"])?;
    ensure!(stamped.starts_with("20") && stamped.trim_end().ends_with("Z end"), "{stamped:?}");
    ensure!(namespace.run(&["logs", "counter", "--limit-bytes=6"])? == "line 0");
    let nobody = command::outcome(&mut namespace.command(&["logs", "counter", "-c", "nobody"]))?;
    ensure!(nobody.code == 1 && nobody.stderr.contains("container nobody is not valid for pod counter"), "{nobody:?}");
    Ok(())
}
