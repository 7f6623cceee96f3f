//! WebSocket: numbered channels for the streams of a session, or a tunnel for SPDY.
//!
//! In the binary protocols the first byte of a message is its channel; in the base64 ones messages are text, the
//! channel is a digit and the rest is encoded. From version 5 on, channel 255 closes the channel that its second
//! byte names, which is how a client ends stdin.

mod channels;
mod encoding;
mod tunnel;

use std::io;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error as WebSocketError;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::session::SessionError;

pub(super) use channels::Session;
pub(super) use encoding::Encoding;
pub(super) use tunnel::tunnel;

/// The longest message that is read. Clients send some ten KiB at a time; this is for those that send all they have.
const MAX_MESSAGE: usize = 8 * 1024 * 1024;

/// A peer that does not keep to the protocol: the session cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProtocolError {
    #[error("the client broke the WebSocket protocol")]
    WebSocket(#[source] Box<WebSocketError>),
    #[error("the client sent text where only binary messages have a meaning")]
    Text,
    #[error("the client's message is not base64")]
    Base64(#[from] base64::DecodeError),
}

impl From<WebSocketError> for SessionError {
    fn from(error: WebSocketError) -> SessionError {
        match error {
            WebSocketError::ConnectionClosed | WebSocketError::AlreadyClosed => SessionError::Gone,
            WebSocketError::Io(error) => SessionError::Io(error),
            other => ProtocolError::WebSocket(Box::new(other)).into(),
        }
    }
}

/// The same, for what is read and written as bytes.
fn to_io(error: WebSocketError) -> io::Error {
    match error {
        WebSocketError::Io(error) => error,
        other => io::Error::other(ProtocolError::WebSocket(Box::new(other))),
    }
}

/// The server's side of an upgraded connection.
async fn open(stream: TcpStream, read_ahead: Bytes) -> WebSocketStream<TcpStream> {
    let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_partially_read(stream, read_ahead.into(), Role::Server, Some(config)).await
}
