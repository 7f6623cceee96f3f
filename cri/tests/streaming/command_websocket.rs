//! Exec and attach over WebSocket, with another implementation of it as the client.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::backend::{sh, start};

pub(crate) type Socket = WebSocketStream<TcpStream>;

/// Opens a WebSocket with one subprotocol, which the server must choose.
pub(crate) async fn connect(url: &str, protocol: &str) -> Socket {
    let mut request = url.replacen("http", "ws", 1).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    let stream = TcpStream::connect((request.uri().host().unwrap(), request.uri().port_u16().unwrap())).await.unwrap();
    let (socket, response) = client_async(request, stream).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], protocol);
    socket
}

/// Carries bytes between binary messages and `end`.
pub(crate) async fn carry(socket: Socket, end: DuplexStream) {
    let (mut output, mut input) = socket.split();
    let (mut reader, mut writer) = tokio::io::split(end);
    let inward = async {
        while let Some(Ok(message)) = input.next().await {
            if let Message::Binary(bytes) = message {
                writer.write_all(&bytes).await.unwrap();
            }
        }
    };
    let outward = async {
        let mut buffer = vec![0; 10_000];
        while let Ok(length @ 1..) = reader.read(&mut buffer).await {
            output.send(Message::Binary(Bytes::copy_from_slice(&buffer[..length]))).await.unwrap();
        }
    };
    tokio::join!(inward, outward);
}

fn message(channel: u8, bytes: &[u8]) -> Message {
    Message::Binary([&[channel], bytes].concat().into())
}

/// What each channel held when the server had closed the session, in good order.
async fn read_all(socket: &mut Socket) -> [Vec<u8>; 4] {
    let mut channels = <[Vec<u8>; 4]>::default();
    let mut greeted = false;
    loop {
        match socket.next().await.expect("a close frame before the end").unwrap() {
            Message::Binary(bytes) => {
                let (channel, bytes) = bytes.split_first().unwrap();
                greeted |= bytes.is_empty();
                channels[usize::from(*channel)].extend(bytes);
            }
            Message::Close(frame) => {
                assert_eq!(frame.map(|frame| frame.code), Some(CloseCode::Normal));
                assert!(greeted, "the first message is empty");
                while socket.next().await.is_some_and(|message| message.is_ok()) {}
                return channels;
            }
            other => panic!("unexpected: {other:?}"),
        }
    }
}

fn exit_code(channels: &[Vec<u8>; 4]) -> Value {
    let status: Value = serde_json::from_slice(&channels[3]).unwrap();
    status["details"]["causes"][0]["message"].clone()
}

#[tokio::test]
async fn version_five_closes_stdin_and_tells_the_exit_code() {
    let (server, _) = start().await;
    let url = server.exec_url(sh("cat; echo oops >&2; exit 7")).unwrap();
    let mut socket = connect(&url, "v5.channel.k8s.io").await;
    socket.send(message(0, b"hello ")).await.unwrap();
    socket.send(message(0, b"world")).await.unwrap();
    socket.send(message(255, &[0])).await.unwrap();
    let channels = read_all(&mut socket).await;
    assert_eq!(channels[1], b"hello world");
    assert_eq!(channels[2], b"oops\n");
    assert_eq!(exit_code(&channels), "7");
}

#[tokio::test]
async fn version_four_tells_the_exit_code() {
    let (server, _) = start().await;
    let url = server.exec_url(sh("read line; echo got $line; exit 5")).unwrap();
    let mut socket = connect(&url, "v4.channel.k8s.io").await;
    // A text message, as some clients send for text.
    socket.send(Message::text("\0hello\n")).await.unwrap();
    let channels = read_all(&mut socket).await;
    assert_eq!(channels[1], b"got hello\n");
    assert_eq!(exit_code(&channels), "5");
}

#[tokio::test]
async fn base64_messages_are_text_with_a_digit() {
    let (server, _) = start().await;
    let url = server.exec_url(sh("read line; printf '%s' \"$line\"; exit 2")).unwrap();
    let mut socket = connect(&url, "v4.base64.channel.k8s.io").await;
    socket.send(Message::text(format!("0{}", STANDARD.encode("hello\n")))).await.unwrap();
    let mut channels = <[Vec<u8>; 4]>::default();
    while let Some(Ok(Message::Text(text))) = socket.next().await {
        let (channel, rest) = text.split_at(1);
        channels[channel.parse::<usize>().unwrap()].extend(STANDARD.decode(rest).unwrap());
    }
    assert_eq!(channels[1], b"hello");
    assert_eq!(exit_code(&channels), "2");
}

#[tokio::test]
async fn pings_are_answered() {
    let (server, _) = start().await;
    let mut socket = connect(&server.exec_url(sh("cat")).unwrap(), "v5.channel.k8s.io").await;
    socket.send(Message::Ping(Bytes::from_static(b"there?"))).await.unwrap();
    loop {
        if let Message::Pong(payload) = socket.next().await.unwrap().unwrap() {
            assert_eq!(&payload[..], b"there?");
            break;
        }
    }
}

/// The command does not read, so neither does the session, and a ping lies behind the data: pongs come all the same.
#[tokio::test]
async fn a_client_hears_from_a_session_that_cannot_read_it() {
    let (server, _) = start().await;
    let socket = connect(&server.exec_url(sh("exec sleep 1000")).unwrap(), "v5.channel.k8s.io").await;
    let (mut output, mut input) = socket.split();
    let upload = async {
        loop {
            output.send(message(0, &vec![0; 32 * 1024])).await.unwrap();
        }
    };
    let pong = async { while !matches!(input.next().await.unwrap().unwrap(), Message::Pong(_)) {} };
    tokio::select! {
        () = upload => {}
        () = pong => {}
    }
}

#[tokio::test]
async fn many_bytes_travel_both_ways_unchanged() {
    const PIECES: u32 = 2048;
    let (server, _) = start().await;
    let socket = connect(&server.exec_url(sh("cat")).unwrap(), "v5.channel.k8s.io").await;
    let (mut output, mut input) = socket.split();
    let upload = async {
        for number in 0..PIECES {
            output.feed(message(0, &number.to_be_bytes().repeat(8192))).await.unwrap();
        }
        output.send(message(255, &[0])).await.unwrap();
    };
    let download = async {
        let mut received = Vec::new();
        while let Some(Ok(message)) = input.next().await {
            match message {
                Message::Binary(bytes) if bytes[0] == 1 => received.extend_from_slice(&bytes[1..]),
                _ => {}
            }
        }
        received
    };
    let ((), received) = tokio::join!(upload, download);
    assert_eq!(received.len(), PIECES as usize * 32768);
    for (number, piece) in (0..PIECES).zip(received.chunks(32768)) {
        assert!(piece == number.to_be_bytes().repeat(8192), "piece {number} is wrong");
    }
}

#[tokio::test]
async fn a_terminal_gets_its_sizes() {
    let mut request = sh("while [ \"$(stty size)\" != '43 132' ]; do sleep 0.02; done; echo resized");
    (request.tty, request.stderr) = (true, false);
    let (server, _) = start().await;
    let mut socket = connect(&server.exec_url(request).unwrap(), "v4.channel.k8s.io").await;
    socket.send(message(4, b"{\"Width\":80,\"Height\":24}")).await.unwrap();
    socket.send(message(4, b"{\"Width\":132,\"Height\":43}")).await.unwrap();
    let channels = read_all(&mut socket).await;
    assert_eq!(channels[1], b"resized\r\n");
}
