//! Port-forward over SPDY, plain and tunnelled in a WebSocket.

use std::collections::HashMap;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::backend::{forward, start};
use crate::http::upgrade_to_spdy;
use crate::spdy::{Frame, Receiver, Sender, client};

const PROTOCOL: &str = "portforward.k8s.io";

/// A TCP server that sends every connection its bytes back, and closes when they end.
async fn echo_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.into_split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
    });
    port
}

/// A port that nobody listens on.
async fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

async fn open_pair<W: AsyncWrite + Unpin>(sender: &mut Sender<W>, port: u16, request: usize) -> (u32, u32) {
    let (port, request) = (port.to_string(), request.to_string());
    let headers = |kind| [("streamtype", kind), ("port", port.as_str()), ("requestid", request.as_str())];
    let error = sender.open(&headers("error")).await.unwrap();
    sender.data(error, b"", true).await.unwrap();
    (sender.open(&headers("data")).await.unwrap(), error)
}

/// Reads until each of `ids` has been finished or reset, and returns what they held.
async fn read_streams<R: AsyncRead + Unpin>(receiver: &mut Receiver<R>, ids: &[u32]) -> HashMap<u32, Vec<u8>> {
    let mut read: HashMap<u32, Vec<u8>> = HashMap::new();
    let mut open = ids.to_vec();
    while !open.is_empty() {
        match receiver.next().await.unwrap().expect("the session goes on") {
            Frame::Data { id, bytes, last } => {
                read.entry(id).or_default().extend(bytes);
                open.retain(|open| *open != id || !last);
            }
            Frame::Reset { id, .. } => open.retain(|open| *open != id),
            Frame::Reply { .. } | Frame::Ping { .. } => {}
        }
    }
    read
}

async fn connect(url: &str) -> TcpStream {
    let (stream, answer) = upgrade_to_spdy(url, &[PROTOCOL]).await.unwrap();
    assert_eq!(answer.status, 101, "{}", answer.head);
    assert_eq!(answer.header("x-stream-protocol-version"), [PROTOCOL]);
    stream
}

#[tokio::test]
async fn many_connections_are_forwarded_at_once() {
    const PAIRS: usize = 200;
    let port = echo_server().await;
    let (server, _) = start().await;
    let (input, output) = connect(&server.port_forward_url(forward(&[])).unwrap()).await.into_split();
    let (mut sender, mut receiver) = client(input, output);
    let write = async {
        let mut pairs = Vec::new();
        for request in 0..PAIRS {
            pairs.push(open_pair(&mut sender, port, request).await);
        }
        for round in 0..2 {
            for (request, (data, _)) in pairs.iter().enumerate() {
                sender.data(*data, format!("{request}:{round};").repeat(500).as_bytes(), round == 1).await.unwrap();
            }
        }
        pairs
    };
    // The numbers of the streams are known beforehand: an error stream, then a data stream, for each.
    let ids: Vec<u32> = (0..PAIRS as u32 * 2).map(|number| number * 2 + 1).collect();
    let (pairs, read) = tokio::join!(write, read_streams(&mut receiver, &ids));
    for (request, (data, error)) in pairs.iter().enumerate() {
        let expected = format!("{request}:0;").repeat(500) + &format!("{request}:1;").repeat(500);
        assert_eq!(String::from_utf8_lossy(&read[data]), expected);
        assert_eq!(read[error], b"", "nothing went wrong with {request}");
    }
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_is_told_on_the_error_stream_and_the_session_goes_on() {
    let (closed, port) = (closed_port().await, echo_server().await);
    let (server, _) = start().await;
    let (input, output) = connect(&server.port_forward_url(forward(&[])).unwrap()).await.into_split();
    let (mut sender, mut receiver) = client(input, output);
    let (data, error) = open_pair(&mut sender, closed, 0).await;
    let read = read_streams(&mut receiver, &[data, error]).await;
    let message = String::from_utf8_lossy(&read[&error]);
    assert!(message.contains(&format!("port {closed}")) && message.contains("refused"), "{message}");
    let (data, error) = open_pair(&mut sender, port, 1).await;
    sender.data(data, b"after", true).await.unwrap();
    assert_eq!(read_streams(&mut receiver, &[data, error]).await[&data], b"after");
}

#[tokio::test]
async fn the_reset_of_one_stream_closes_its_connection_alone() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (server, _) = start().await;
    let (input, output) = connect(&server.port_forward_url(forward(&[])).unwrap()).await.into_split();
    let (mut sender, mut receiver) = client(input, output);
    let (first, first_error) = open_pair(&mut sender, port, 0).await;
    let (mut in_pod, _) = listener.accept().await.unwrap();
    sender.data(first, b"x", false).await.unwrap();
    assert_eq!(in_pod.read_u8().await.unwrap(), b'x');
    let (second, _) = open_pair(&mut sender, port, 1).await;
    let (mut other, _) = listener.accept().await.unwrap();
    sender.reset(first).await.unwrap();
    assert_eq!(in_pod.read(&mut [0; 8]).await.unwrap_or(0), 0, "the connection of the reset stream is closed");
    read_streams(&mut receiver, &[first_error]).await;
    sender.data(second, b"y", true).await.unwrap();
    assert_eq!(other.read_u8().await.unwrap(), b'y');
    other.write_all(b"z").await.unwrap();
    drop(other);
    assert_eq!(read_streams(&mut receiver, &[second]).await[&second], b"z");
}

#[tokio::test]
async fn a_connection_that_the_pod_resets_resets_its_stream_and_says_nothing_on_the_error_stream() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (server, _) = start().await;
    let (input, output) = connect(&server.port_forward_url(forward(&[])).unwrap()).await.into_split();
    let (mut sender, mut receiver) = client(input, output);
    let (data, error) = open_pair(&mut sender, port, 0).await;
    sender.data(data, b"unread", false).await.unwrap();
    let (in_pod, _) = listener.accept().await.unwrap();
    in_pod.peek(&mut [0; 1]).await.unwrap();
    // Closing with bytes unread makes the kernel send a reset.
    drop(in_pod);
    let mut reset = false;
    let mut open = 2;
    while open > 0 {
        match receiver.next().await.unwrap().expect("the session goes on") {
            Frame::Reset { id, .. } if id == data => (reset, open) = (true, open - 1),
            Frame::Data { id, bytes, last: true } if id == error => {
                assert_eq!(bytes, b"");
                open -= 1;
            }
            _ => {}
        }
    }
    assert!(reset);
}

#[tokio::test]
async fn streams_that_make_no_pair_are_refused() {
    let (server, _) = start().await;
    let (input, output) = connect(&server.port_forward_url(forward(&[])).unwrap()).await.into_split();
    let (mut sender, mut receiver) = client(input, output);
    let bad: [&[(&str, &str)]; 4] = [
        &[("streamtype", "error"), ("requestid", "0")],
        &[("streamtype", "error"), ("port", "70000"), ("requestid", "0")],
        &[("streamtype", "stdin"), ("port", "80"), ("requestid", "0")],
        &[],
    ];
    for headers in bad {
        let id = sender.open(headers).await.unwrap();
        assert_eq!(receiver.next().await.unwrap(), Some(Frame::Reset { id, status: 3 }), "{headers:?}");
    }
}

/// The first clients sent no request id: the data stream is the one after the error stream.
#[tokio::test]
async fn pairs_without_a_request_id_are_found_by_their_numbers() {
    let port = echo_server().await.to_string();
    let (server, _) = start().await;
    let (input, output) = connect(&server.port_forward_url(forward(&[])).unwrap()).await.into_split();
    let (mut sender, mut receiver) = client(input, output);
    let error = sender.open(&[("streamtype", "error"), ("port", &port)]).await.unwrap();
    let data = sender.open(&[("streamtype", "data"), ("port", &port)]).await.unwrap();
    sender.data(data, b"old", true).await.unwrap();
    assert_eq!(read_streams(&mut receiver, &[data, error]).await[&data], b"old");
}

#[tokio::test]
async fn many_bytes_travel_both_ways_through_one_connection() {
    const PIECES: u32 = 2048;
    let port = echo_server().await;
    let (server, _) = start().await;
    let (input, output) = connect(&server.port_forward_url(forward(&[])).unwrap()).await.into_split();
    let (mut sender, mut receiver) = client(input, output);
    let (data, error) = open_pair(&mut sender, port, 0).await;
    let upload = async {
        for number in 0..PIECES {
            sender.data(data, &number.to_be_bytes().repeat(8192), number + 1 == PIECES).await.unwrap();
        }
    };
    let ids = [data, error];
    let ((), read) = tokio::join!(upload, read_streams(&mut receiver, &ids));
    assert_eq!(read[&data].len(), PIECES as usize * 32768);
    for (number, piece) in (0..PIECES).zip(read[&data].chunks(32768)) {
        assert!(piece == number.to_be_bytes().repeat(8192), "piece {number} is wrong");
    }
}

#[tokio::test]
async fn spdy_is_tunnelled_in_binary_messages() {
    let port = echo_server().await;
    let (server, _) = start().await;
    let url = server.port_forward_url(forward(&[])).unwrap();
    let socket = crate::command_websocket::connect(&url, "SPDY/3.1+portforward.k8s.io").await;
    let (near, far) = tokio::io::duplex(64 * 1024);
    tokio::spawn(crate::command_websocket::carry(socket, far));
    let (input, output) = tokio::io::split(near);
    let (mut sender, mut receiver) = client(input, output);
    let mut ids = Vec::new();
    for request in 0..20 {
        let (data, error) = open_pair(&mut sender, port, request).await;
        sender.data(data, format!("tunnelled {request}").as_bytes(), true).await.unwrap();
        ids.extend([data, error]);
    }
    let read = read_streams(&mut receiver, &ids).await;
    for (request, pair) in ids.chunks(2).enumerate() {
        assert_eq!(String::from_utf8_lossy(&read[&pair[0]]), format!("tunnelled {request}"));
    }
}
