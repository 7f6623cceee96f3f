//! Frames: eight bytes of header, then what the header says.

use bytes::{BufMut, BytesMut};

pub(super) const HEADER_LENGTH: usize = 8;

/// The version of the frames of SPDY/3 and SPDY/3.1.
const VERSION: u16 = 3;

/// The sender will send no more on the stream.
pub(super) const FLAG_FIN: u8 = 0x01;

/// Why a stream is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(in super::super) enum ResetStatus {
    ProtocolError = 1,
    InvalidStream = 2,
    RefusedStream = 3,
    Cancel = 5,
}

/// The kinds of control frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    SynStream,
    SynReply,
    RstStream,
    Settings,
    Ping,
    GoAway,
    Headers,
    WindowUpdate,
    /// To be ignored, says the draft.
    Unknown(u16),
}

impl Kind {
    fn from_wire(number: u16) -> Kind {
        match number {
            1 => Kind::SynStream,
            2 => Kind::SynReply,
            3 => Kind::RstStream,
            4 => Kind::Settings,
            6 => Kind::Ping,
            7 => Kind::GoAway,
            8 => Kind::Headers,
            9 => Kind::WindowUpdate,
            other => Kind::Unknown(other),
        }
    }

    fn to_wire(self) -> u16 {
        match self {
            Kind::SynStream => 1,
            Kind::SynReply => 2,
            Kind::RstStream => 3,
            Kind::Settings => 4,
            Kind::Ping => 6,
            Kind::GoAway => 7,
            Kind::Headers => 8,
            Kind::WindowUpdate => 9,
            Kind::Unknown(other) => other,
        }
    }
}

/// The header of a frame; `length` is that of what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameHeader {
    Data { stream: u32, flags: u8, length: usize },
    Control { kind: Kind, flags: u8, length: usize },
}

/// A peer that does not speak SPDY/3.1: the session cannot go on.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum ProtocolError {
    #[error("the client speaks SPDY version {version}, not 3")]
    Version { version: u16 },
    #[error("the client's {frame} frame has a length of {length}")]
    Length { frame: &'static str, length: usize },
    #[error("the client's header block is longer than {limit} bytes")]
    HeadersTooLong { limit: usize },
    #[error("the client's header block does not decompress")]
    Decompress(#[from] flate2::DecompressError),
    #[error("the client's header block is cut short or is not text")]
    Headers,
    #[error("a header block cannot be compressed")]
    Compress(#[from] flate2::CompressError),
}

impl FrameHeader {
    pub(super) fn parse(bytes: [u8; HEADER_LENGTH]) -> Result<FrameHeader, ProtocolError> {
        let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let (first, second) = (word(0), word(4));
        let (flags, length) = ((second >> 24) as u8, (second & 0x00ff_ffff) as usize);
        if first & 0x8000_0000 == 0 {
            return Ok(FrameHeader::Data { stream: first, flags, length });
        }
        let version = (first >> 16) as u16 & 0x7fff;
        if version != VERSION {
            return Err(ProtocolError::Version { version });
        }
        Ok(FrameHeader::Control { kind: Kind::from_wire(first as u16), flags, length })
    }

    /// `length` is below 2^24 for every frame that this server makes.
    fn put(self, out: &mut BytesMut) {
        let (first, flags, length) = match self {
            FrameHeader::Data { stream, flags, length } => (stream & 0x7fff_ffff, flags, length),
            FrameHeader::Control { kind, flags, length } => {
                (0x8000_0000 | u32::from(VERSION) << 16 | u32::from(kind.to_wire()), flags, length)
            }
        };
        out.put_u32(first);
        out.put_u32(u32::from(flags) << 24 | length as u32);
    }
}

pub(super) fn put_data(out: &mut BytesMut, stream: u32, flags: u8, bytes: &[u8]) {
    FrameHeader::Data { stream, flags, length: bytes.len() }.put(out);
    out.put_slice(bytes);
}

pub(super) fn put_reply(out: &mut BytesMut, stream: u32, block: &[u8]) {
    FrameHeader::Control { kind: Kind::SynReply, flags: 0, length: 4 + block.len() }.put(out);
    out.put_u32(stream);
    out.put_slice(block);
}

pub(super) fn put_reset(out: &mut BytesMut, stream: u32, status: ResetStatus) {
    FrameHeader::Control { kind: Kind::RstStream, flags: 0, length: 8 }.put(out);
    out.put_u32(stream);
    out.put_u32(status as u32);
}

pub(super) fn put_ping(out: &mut BytesMut, id: u32) {
    FrameHeader::Control { kind: Kind::Ping, flags: 0, length: 4 }.put(out);
    out.put_u32(id);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(out: &[u8]) -> FrameHeader {
        FrameHeader::parse(out[..HEADER_LENGTH].try_into().unwrap()).unwrap()
    }

    #[test]
    fn frames_are_laid_out_as_the_draft_draws_them() {
        let mut out = BytesMut::new();
        put_data(&mut out, 5, FLAG_FIN, b"ab");
        assert_eq!(&out[..], b"\0\0\0\x05\x01\0\0\x02ab");
        let mut out = BytesMut::new();
        put_reset(&mut out, 7, ResetStatus::Cancel);
        assert_eq!(&out[..], b"\x80\x03\0\x03\0\0\0\x08\0\0\0\x07\0\0\0\x05");
        let mut out = BytesMut::new();
        put_ping(&mut out, 1);
        assert_eq!(&out[..], b"\x80\x03\0\x06\0\0\0\x04\0\0\0\x01");
    }

    #[test]
    fn a_header_says_its_kind_flags_and_length() {
        let mut out = BytesMut::new();
        put_reply(&mut out, 9, b"xyz");
        assert_eq!(header(&out), FrameHeader::Control { kind: Kind::SynReply, flags: 0, length: 7 });
        assert_eq!(
            FrameHeader::parse(*b"\x7f\xff\xff\xff\x01\x01\x02\x03").unwrap(),
            FrameHeader::Data { stream: 0x7fff_ffff, flags: 1, length: 0x01_0203 }
        );
        assert!(matches!(FrameHeader::parse(*b"\x80\x02\0\x01\0\0\0\0"), Err(ProtocolError::Version { version: 2 })));
    }

    #[test]
    fn every_kind_survives_the_wire() {
        for number in 0..12 {
            assert_eq!(Kind::from_wire(number).to_wire(), number);
        }
    }
}
