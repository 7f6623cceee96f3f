//! Exec, attach and port-forward by their URLs, over WebSocket (the protocols themselves have tests of their own).

use futures::{SinkExt, StreamExt};
use orlop_proto::v1;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::node::{Node, wait_for};
use crate::pod::{Pod, script};

const V5: &str = "v5.channel.k8s.io";
const V4: &str = "v4.channel.k8s.io";
/// Channel 255 closes the channel that is named, since v5.
const CLOSE_STDIN: [u8; 2] = [255, 0];

async fn connect(url: &str, protocol: &str) -> WebSocketStream<TcpStream> {
    let mut request = url.replacen("http", "ws", 1).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    let stream = TcpStream::connect((request.uri().host().unwrap(), request.uri().port_u16().unwrap())).await.unwrap();
    client_async(request, stream).await.unwrap().0
}

fn binary(channel: u8, text: &str) -> Message {
    Message::Binary([&[channel], text.as_bytes()].concat().into())
}

/// What each channel says until the server ends the session.
async fn read_all(socket: &mut WebSocketStream<TcpStream>) -> [String; 4] {
    let mut channels = <[Vec<u8>; 4]>::default();
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(bytes) = message {
            channels[usize::from(bytes[0])].extend_from_slice(&bytes[1..]);
        }
    }
    channels.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn exec_request(container: &str, text: &str, tty: bool) -> v1::ExecRequest {
    v1::ExecRequest {
        container_id: container.to_owned(),
        cmd: ["sh", "-c", text].map(str::to_owned).to_vec(),
        tty,
        stdin: true,
        stdout: true,
        stderr: !tty,
    }
}

#[tokio::test]
async fn a_command_reads_writes_and_tells_its_code() {
    let node = Node::start().await;
    let mut pod = Pod::run(&node, "exec").await;
    let id = pod.start(script("main", "sleep 1000")).await;
    let request = exec_request(&id, "cat; echo problem >&2; exit 6", false);
    let url = pod.client.exec(request).await.unwrap().into_inner().url;
    let mut socket = connect(&url, V5).await;
    socket.send(binary(0, "hello\n")).await.unwrap();
    socket.send(Message::Binary(CLOSE_STDIN.to_vec().into())).await.unwrap();
    let [_, stdout, stderr, status] = read_all(&mut socket).await;
    assert_eq!((stdout.as_str(), stderr.as_str()), ("hello\n", "problem\n"));
    assert!(status.contains("\"6\""), "{status}");

    let request = exec_request(&id, "head -n 1 >/dev/null; test -t 0 && echo terminal", true);
    let url = pod.client.exec(request).await.unwrap().into_inner().url;
    let mut socket = connect(&url, V5).await;
    socket.send(binary(4, r#"{"Width":100,"Height":40}"#)).await.unwrap();
    socket.send(binary(0, "\n")).await.unwrap();
    let [_, stdout, _, status] = read_all(&mut socket).await;
    assert!(stdout.contains("terminal"), "{stdout:?}");
    assert!(status.contains("Success"), "{status}");
    pod.remove().await;
    node.finish().await;
}

#[tokio::test]
async fn a_command_whose_client_goes_away_is_killed() {
    let node = Node::start().await;
    let mut pod = Pod::run(&node, "gone").await;
    let id = pod.start(script("main", "sleep 1000")).await;
    let request = exec_request(&id, "sleep 4711", false);
    let url = pod.client.exec(request).await.unwrap().into_inner().url;
    let socket = connect(&url, V5).await;
    let count = "cat /proc/[0-9]*/cmdline | grep -c 471[1] || true";
    wait_for("the command to run", async || pod.output(&id, count).await != "0").await;
    drop(socket);
    wait_for("the command to be killed", async || pod.output(&id, count).await == "0").await;
    pod.remove().await;
    node.finish().await;
}

#[tokio::test]
async fn a_container_that_runs_is_attached_to() {
    let node = Node::start().await;
    let mut pod = Pod::run(&node, "attach").await;
    let mut config = script("main", "while read line; do echo got $line; done; echo over");
    (config.stdin, config.stdin_once) = (true, true);
    let id = pod.start(config).await;
    let request = v1::AttachRequest { container_id: id.clone(), stdin: true, tty: false, stdout: true, stderr: true };
    let url = pod.client.attach(request).await.unwrap().into_inner().url;
    let mut socket = connect(&url, V5).await;
    socket.send(binary(0, "one\n")).await.unwrap();
    socket.send(Message::Binary(CLOSE_STDIN.to_vec().into())).await.unwrap();
    let [_, stdout, _, _] = read_all(&mut socket).await;
    assert_eq!(stdout, "got one\nover\n");
    assert_eq!(pod.ended(&id).await.exit_code, 0);
    assert_eq!(pod.log("main"), ["got one", "over"]);
    pod.remove().await;
    node.finish().await;
}

#[tokio::test]
async fn a_port_of_a_pod_is_forwarded() {
    let node = Node::start().await;
    let mut pod = Pod::run(&node, "port").await;
    let id = pod.start(script("main", "nc -l -p 8080 -e echo hello; sleep 1000")).await;
    wait_for("the port to be open", async || {
        !pod.output(&id, "grep ':1F90 .* 0A ' /proc/net/tcp /proc/net/tcp6 || true").await.is_empty()
    })
    .await;
    let request = v1::PortForwardRequest { pod_sandbox_id: pod.id.clone(), port: vec![8080] };
    let url = pod.client.port_forward(request).await.unwrap().into_inner().url;
    let [data, ..] = read_all(&mut connect(&url, V4).await).await;
    assert!(data.ends_with("hello\n"), "{data:?}");
    pod.remove().await;
    node.finish().await;
}
