//! A stream of bytes in the binary messages of a WebSocket.

use std::future::ready;
use std::io;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};

use super::super::session::Socket;
use super::{ProtocolError, open, to_io};

/// Both halves of the tunnel. Shutting the writer down closes the WebSocket.
pub(in super::super) async fn tunnel(socket: Socket) -> (impl AsyncRead + Unpin, impl AsyncWrite + Unpin) {
    let (output, input) = open(socket.stream, socket.read_ahead).await.split();
    let reader = StreamReader::new(input.filter_map(|message| ready(payload(message.map_err(to_io)))));
    let messages = output.sink_map_err(to_io).with(|bytes: Bytes| ready(Ok::<_, io::Error>(Message::Binary(bytes))));
    (reader, SinkWriter::new(CopyToBytes::new(messages)))
}

fn payload(message: io::Result<Message>) -> Option<io::Result<Bytes>> {
    match message {
        Ok(Message::Binary(bytes)) => Some(Ok(bytes)),
        Ok(Message::Text(_)) => Some(Err(io::Error::other(ProtocolError::Text))),
        Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_) | Message::Close(_)) => None,
        Err(error) => Some(Err(error)),
    }
}
