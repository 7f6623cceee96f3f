//! Exec and attach over SPDY.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use orlop_cri::streaming::{AttachStream, ExecStream};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::backend::{sh, start};
use crate::http::upgrade_to_spdy;
use crate::spdy::{Frame, Receiver, Sender, client};

const V4: &str = "v4.channel.k8s.io";
const MIB: usize = 1024 * 1024;

/// What a command's streams held when the server had closed the session.
#[derive(Debug, Default)]
struct Output {
    by_stream: HashMap<u32, Vec<u8>>,
    finished: Vec<u32>,
    replied: Vec<u32>,
}

impl Output {
    async fn read<R: AsyncRead + Unpin>(mut receiver: Receiver<R>) -> Output {
        let mut output = Output::default();
        while let Some(frame) = receiver.next().await.expect("frames until the end") {
            match frame {
                Frame::Data { id, bytes, last } => {
                    assert!(!output.finished.contains(&id), "data after the end of stream {id}");
                    output.by_stream.entry(id).or_default().extend(bytes);
                    if last {
                        output.finished.push(id);
                    }
                }
                Frame::Reply { id } => output.replied.push(id),
                other => panic!("unexpected: {other:?}"),
            }
        }
        output
    }

    fn text(&self, id: u32) -> &str {
        self.by_stream.get(&id).map_or("", |bytes| std::str::from_utf8(bytes).expect("text"))
    }

    fn status(&self, id: u32) -> Value {
        serde_json::from_str(self.text(id)).expect("a Status object")
    }
}

struct Ids {
    error: u32,
    stdin: u32,
    stdout: u32,
    stderr: u32,
}

async fn open_all<W: AsyncWrite + Unpin>(sender: &mut Sender<W>) -> Ids {
    let mut ids = [0; 4];
    for (id, kind) in ids.iter_mut().zip(["error", "stdin", "stdout", "stderr"]) {
        *id = sender.open(&[("streamtype", kind)]).await.unwrap();
    }
    Ids { error: ids[0], stdin: ids[1], stdout: ids[2], stderr: ids[3] }
}

async fn run(request: ExecStream, protocol: &str, stdin: &[u8]) -> (Ids, Output) {
    let (server, _) = start().await;
    let (stream, answer) = upgrade_to_spdy(&server.exec_url(request).unwrap(), &[protocol]).await.unwrap();
    assert_eq!(answer.status, 101, "{}", answer.head);
    assert_eq!(answer.header("x-stream-protocol-version"), [protocol]);
    assert_eq!(answer.header("upgrade"), ["SPDY/3.1"]);
    let (input, output) = stream.into_split();
    let (mut sender, receiver) = client(input, output);
    let ids = open_all(&mut sender).await;
    sender.data(ids.stdin, stdin, true).await.unwrap();
    let output = Output::read(receiver).await;
    (ids, output)
}

#[tokio::test]
async fn a_command_has_its_streams_and_its_exit_code() {
    let (ids, output) = run(sh("cat; echo oops >&2; exit 3"), V4, b"hello").await;
    assert_eq!(output.text(ids.stdout), "hello");
    assert_eq!(output.text(ids.stderr), "oops\n");
    let status = output.status(ids.error);
    assert_eq!(status["status"], "Failure");
    assert_eq!(status["reason"], "NonZeroExitCode");
    assert_eq!(status["details"]["causes"], json!([{"reason": "ExitCode", "message": "3"}]));
    assert_eq!(output.replied, [ids.error, ids.stdin, ids.stdout, ids.stderr]);
    for id in [ids.error, ids.stdout, ids.stderr] {
        assert!(output.finished.contains(&id), "stream {id} was not finished");
    }
}

#[tokio::test]
async fn success_is_told_in_version_four() {
    let (ids, output) = run(sh("true"), V4, b"").await;
    assert_eq!(output.status(ids.error), json!({"metadata": {}, "status": "Success"}));
}

#[tokio::test]
async fn the_versions_before_tell_a_failure_in_words() {
    for version in ["v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"] {
        let (ids, output) = run(sh("exit 3"), version, b"").await;
        assert_eq!(output.text(ids.error), "command terminated with non-zero exit code: exit status 3", "{version}");
        let (ids, output) = run(sh("exit 0"), version, b"").await;
        assert_eq!(output.text(ids.error), "", "{version}");
    }
}

#[tokio::test]
async fn a_command_that_cannot_start_is_an_internal_error() {
    let mut request = sh("");
    request.command = vec!["/no/such/program".into()];
    let (ids, output) = run(request, V4, b"").await;
    let status = output.status(ids.error);
    assert_eq!(status["reason"], "InternalError");
    assert!(status["message"].as_str().unwrap().contains("No such file"), "{status}");
}

#[tokio::test]
async fn attach_joins_a_process_and_says_when_there_is_none() {
    let (server, _) = start().await;
    for (container, status) in [("running", "Success"), ("stopped", "Failure")] {
        let request =
            AttachStream { container_id: container.into(), tty: false, stdin: true, stdout: true, stderr: true };
        let (stream, _) = upgrade_to_spdy(&server.attach_url(request).unwrap(), &[V4]).await.unwrap();
        let (input, output) = stream.into_split();
        let (mut sender, receiver) = client(input, output);
        let ids = open_all(&mut sender).await;
        sender.data(ids.stdin, b"ping", true).await.unwrap();
        let output = Output::read(receiver).await;
        assert_eq!(output.text(ids.stdout), if container == "running" { "ping" } else { "" });
        assert_eq!(output.status(ids.error)["status"], status);
    }
}

#[tokio::test]
async fn pings_are_answered_and_what_is_unknown_is_ignored() {
    let (server, _) = start().await;
    let (stream, _) = upgrade_to_spdy(&server.exec_url(sh("cat")).unwrap(), &[V4]).await.unwrap();
    let (input, output) = stream.into_split();
    let (mut sender, mut receiver) = client(input, output);
    sender.noise().await.unwrap();
    sender.ping(1).await.unwrap();
    assert_eq!(receiver.next().await.unwrap(), Some(Frame::Ping { id: 1 }));
    let ids = open_all(&mut sender).await;
    let fifth = sender.open(&[("streamtype", "resize")]).await.unwrap();
    sender.data(ids.stdin, b"still here", true).await.unwrap();
    let mut refused = false;
    let mut text = Vec::new();
    while let Some(frame) = receiver.next().await.unwrap() {
        match frame {
            Frame::Reset { id, status } => refused |= id == fifth && status == 3,
            Frame::Data { id, bytes, .. } if id == ids.stdout => text.extend(bytes),
            _ => {}
        }
    }
    assert!(refused, "a stream that the command does not have is refused");
    assert_eq!(text, b"still here");
}

/// A pattern that differs everywhere, so that lost, doubled or swapped pieces show.
fn piece(number: usize) -> Vec<u8> {
    (0..4096).flat_map(|at| ((number * 4096 + at) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect()
}

#[tokio::test]
async fn many_bytes_travel_both_ways_unchanged() {
    const PIECES: usize = 64 * MIB / (4096 * 8);
    let (server, _) = start().await;
    let (stream, _) = upgrade_to_spdy(&server.exec_url(sh("cat")).unwrap(), &[V4]).await.unwrap();
    let (input, output) = stream.into_split();
    let (mut sender, mut receiver) = client(input, output);
    let ids = open_all(&mut sender).await;
    let upload = async {
        let mut hash = Sha256::new();
        for number in 0..PIECES {
            let piece = piece(number);
            hash.update(&piece);
            sender.data(ids.stdin, &piece, number + 1 == PIECES).await.unwrap();
        }
        hash.finalize()
    };
    let download = async {
        let (mut hash, mut length) = (Sha256::new(), 0);
        while let Some(frame) = receiver.next().await.unwrap() {
            if let Frame::Data { id, bytes, .. } = frame
                && id == ids.stdout
            {
                length += bytes.len();
                hash.update(&bytes);
            }
        }
        (hash.finalize(), length)
    };
    let (sent, (received, length)) = tokio::join!(upload, download);
    assert_eq!(length, 64 * MIB);
    assert_eq!(sent, received);
}

/// The command reads nothing until it is told to: the sender must be stopped long before it has sent everything, and
/// nothing may be lost.
#[tokio::test]
async fn a_command_that_does_not_read_stops_the_client() {
    const PIECES: usize = 64 * MIB / (4096 * 8);
    let folder = tempfile::tempdir().unwrap();
    let go = folder.path().join("go");
    let script = format!("while [ ! -e {} ]; do sleep 0.02; done; sha256sum", go.display());
    let (server, _) = start().await;
    let (stream, _) = upgrade_to_spdy(&server.exec_url(sh(&script)).unwrap(), &[V4]).await.unwrap();
    let (input, output) = stream.into_split();
    let (mut sender, receiver) = client(input, output);
    let ids = open_all(&mut sender).await;
    let sent = AtomicUsize::new(0);
    let upload = async {
        let mut hash = Sha256::new();
        for number in 0..PIECES {
            let piece = piece(number);
            hash.update(&piece);
            sender.data(ids.stdin, &piece, number + 1 == PIECES).await.unwrap();
            sent.fetch_add(1, Ordering::SeqCst);
        }
        hex::encode(hash.finalize())
    };
    let release = async {
        let mut seen = (0, 0);
        // Stopped: nothing more was sent in twenty looks.
        while seen.1 < 20 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            let now = sent.load(Ordering::SeqCst);
            seen = if now == seen.0 && now > 0 { (now, seen.1 + 1) } else { (now, 0) };
        }
        assert!(seen.0 < PIECES / 2, "{} of {PIECES} pieces went into a command that reads nothing", seen.0);
        std::fs::write(&go, "").unwrap();
    };
    let (hash, (), output) = tokio::join!(upload, release, Output::read(receiver));
    assert_eq!(output.text(ids.stdout).split(' ').next(), Some(hash.as_str()));
}

#[tokio::test]
async fn a_terminal_gets_its_sizes() {
    let mut request = sh(
        "stty size; while [ \"$(stty size)\" != '43 132' ]; do sleep 0.02; done; echo resized; read line; echo read $line",
    );
    (request.tty, request.stderr) = (true, false);
    let (server, _) = start().await;
    let (stream, _) = upgrade_to_spdy(&server.exec_url(request).unwrap(), &[V4]).await.unwrap();
    let (input, output) = stream.into_split();
    let (mut sender, mut receiver) = client(input, output);
    let _error = sender.open(&[("streamtype", "error")]).await.unwrap();
    let stdin = sender.open(&[("streamtype", "stdin")]).await.unwrap();
    let stdout = sender.open(&[("streamtype", "stdout")]).await.unwrap();
    let resize = sender.open(&[("streamtype", "resize")]).await.unwrap();
    sender.data(resize, b"{\"Width\":80,\"Height\":24}\n", false).await.unwrap();
    let mut text = String::new();
    let mut resized = false;
    while let Some(frame) = receiver.next().await.unwrap() {
        if let Frame::Data { id, bytes, .. } = frame
            && id == stdout
        {
            text.push_str(std::str::from_utf8(&bytes).unwrap());
        }
        if text.contains("24 80") && !resized {
            resized = true;
            sender.data(resize, b"{\"Width\":132,\"Height\":43}\n", false).await.unwrap();
            sender.data(stdin, b"a line\n", false).await.unwrap();
        }
    }
    assert!(text.contains("resized") && text.contains("read a line"), "{text:?}");
}
