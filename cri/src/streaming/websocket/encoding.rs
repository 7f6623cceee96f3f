//! How a message says which channel it belongs to.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use tokio_tungstenite::tungstenite::Message;

use super::ProtocolError;

/// The channel whose messages close other channels.
const CLOSE: u8 = 255;

/// The encodings of the channel protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Encoding {
    Binary,
    /// Version 5: with a message that closes a channel.
    BinaryWithClose,
    Base64,
}

/// What a message of the client means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    Data(u8, Bytes),
    Close(u8),
    /// A ping, a pong or an empty message.
    Nothing,
    /// The client closes the session.
    End,
}

impl Encoding {
    /// How many channels can be told apart.
    pub(in super::super) fn channels(self) -> usize {
        match self {
            Encoding::Binary | Encoding::BinaryWithClose => CLOSE.into(),
            // From the digit 0 on, in ASCII.
            Encoding::Base64 => (127 - b'0').into(),
        }
    }

    pub(super) fn encode(self, channel: u8, bytes: &[u8]) -> Message {
        match self {
            Encoding::Binary | Encoding::BinaryWithClose => {
                let mut message = BytesMut::with_capacity(1 + bytes.len());
                message.put_u8(channel);
                message.put_slice(bytes);
                Message::Binary(message.freeze())
            }
            Encoding::Base64 => {
                let mut message = String::with_capacity(1 + bytes.len().div_ceil(3) * 4);
                message.push(char::from(b'0' + channel));
                STANDARD.encode_string(bytes, &mut message);
                Message::Text(message.into())
            }
        }
    }

    /// Clients of the binary protocols may send text as well: its bytes count.
    pub(super) fn decode(self, message: Message) -> Result<Incoming, ProtocolError> {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => text.into(),
            Message::Close(_) => return Ok(Incoming::End),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => return Ok(Incoming::Nothing),
        };
        let Some(&first) = bytes.first() else { return Ok(Incoming::Nothing) };
        let rest = bytes.slice(1..);
        Ok(match self {
            Encoding::BinaryWithClose if first == CLOSE => {
                rest.first().map_or(Incoming::Nothing, |&channel| Incoming::Close(channel))
            }
            Encoding::Binary | Encoding::BinaryWithClose => Incoming::Data(first, rest),
            Encoding::Base64 => Incoming::Data(first.wrapping_sub(b'0'), STANDARD.decode(rest)?.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(bytes: &'static [u8]) -> Message {
        Message::Binary(Bytes::from_static(bytes))
    }

    #[test]
    fn the_first_byte_is_the_channel() {
        assert_eq!(Encoding::Binary.encode(1, b"out"), binary(b"\x01out"));
        assert_eq!(Encoding::Binary.decode(binary(b"\0in")).unwrap(), Incoming::Data(0, Bytes::from_static(b"in")));
        assert_eq!(
            Encoding::Binary.decode(Message::text("\0in")).unwrap(),
            Incoming::Data(0, Bytes::from_static(b"in"))
        );
        assert_eq!(Encoding::Binary.decode(binary(b"")).unwrap(), Incoming::Nothing);
    }

    #[test]
    fn only_version_five_closes_channels() {
        assert_eq!(Encoding::BinaryWithClose.decode(binary(b"\xff\0")).unwrap(), Incoming::Close(0));
        assert_eq!(Encoding::BinaryWithClose.decode(binary(b"\xff")).unwrap(), Incoming::Nothing);
        assert_eq!(Encoding::Binary.decode(binary(b"\xff\0")).unwrap(), Incoming::Data(255, Bytes::from_static(b"\0")));
    }

    #[test]
    fn base64_has_a_digit_for_the_channel() {
        assert_eq!(Encoding::Base64.encode(1, b"hello"), Message::text("1aGVsbG8="));
        assert_eq!(
            Encoding::Base64.decode(Message::text("0aGVsbG8=")).unwrap(),
            Incoming::Data(0, Bytes::from_static(b"hello"))
        );
        assert!(Encoding::Base64.decode(Message::text("0%%")).is_err());
    }
}
