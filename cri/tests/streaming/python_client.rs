//! The Kubernetes client for Python, unmodified, as the peer: its WebSocket code is websocket-client.

use std::process::Stdio;

use tokio::process::Command;

use crate::backend::{sh, start};

/// Debian's interpreter, which finds Debian's `python3-kubernetes`.
const PYTHON: &str = "/usr/bin/python3";

const SCRIPT: &str = r#"
import sys
from kubernetes.client import Configuration
from kubernetes.stream.ws_client import ERROR_CHANNEL, WSClient
client = WSClient(Configuration(), sys.argv[1].replace("http", "ws", 1), {}, capture_all=True)
client.write_stdin("hello\n")
assert client.readline_stdout(timeout=60) == "got hello"
client.write_stdin(b"\xe2\x82\xac\n")
client.run_forever(timeout=60)
assert client.read_stdout() == "got \u20ac\n", "stdout"
assert client.read_stderr() == "oops\n", "stderr"
print("exit code", client.returncode)
"#;

#[tokio::test]
async fn the_python_client_runs_a_command() {
    let import = Command::new(PYTHON).args(["-c", "import kubernetes"]).stderr(Stdio::null()).status().await;
    if !import.is_ok_and(|status| status.success()) {
        eprintln!("SKIP: {PYTHON} has no module kubernetes; install python3-kubernetes");
        return;
    }
    let (server, _) = start().await;
    let script = "read a; echo got $a; read b; echo got $b; echo oops >&2; exit 9";
    let url = server.exec_url(sh(script)).unwrap();
    let output = Command::new(PYTHON).args(["-c", SCRIPT, &url]).output().await.unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "exit code 9\n", "{stderr}");
}
