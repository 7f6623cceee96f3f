//! Port-forward over the channels of a WebSocket: two for each port.

use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;

use crate::backend::{forward, start};
use crate::command_websocket::connect;

const V4: &str = "v4.channel.k8s.io";

#[tokio::test]
async fn each_port_has_a_data_and_an_error_channel_that_begin_with_its_number() {
    let listeners = [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
    let ports = listeners.each_ref().map(|listener| listener.local_addr().unwrap().port());
    let (server, _) = start().await;
    let url = format!("{}?ports={},{}", server.port_forward_url(forward(&[])).unwrap(), ports[0], ports[1]);
    let mut socket = connect(&url, V4).await;
    socket.send(Message::Binary(b"\0zero".to_vec().into())).await.unwrap();
    socket.send(Message::Binary(b"\x02one!".to_vec().into())).await.unwrap();
    for (listener, expected) in listeners.iter().zip([b"zero", b"one!"]) {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut read = [0; 4];
        stream.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, expected);
        stream.write_all(b"back: ").await.unwrap();
        stream.write_all(&read).await.unwrap();
    }
    let mut channels = <[Vec<u8>; 4]>::default();
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(bytes) = message {
            channels[usize::from(bytes[0])].extend_from_slice(&bytes[1..]);
        }
    }
    for (index, port) in ports.iter().enumerate() {
        assert_eq!(channels[2 * index][..2], port.to_le_bytes());
        assert_eq!(channels[2 * index + 1], port.to_le_bytes());
    }
    assert_eq!(channels[0][2..], *b"back: zero");
    assert_eq!(channels[2][2..], *b"back: one!");
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_is_told_on_its_error_channel() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let (server, _) = start().await;
    let mut socket = connect(&server.port_forward_url(forward(&[port])).unwrap(), V4).await;
    let mut errors = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        match message {
            Message::Binary(bytes) if bytes[0] == 1 => errors.extend_from_slice(&bytes[1..]),
            _ => {}
        }
    }
    assert_eq!(errors[..2], port.to_le_bytes());
    let message = String::from_utf8_lossy(&errors[2..]);
    assert!(message.contains("refused"), "{message}");
}
