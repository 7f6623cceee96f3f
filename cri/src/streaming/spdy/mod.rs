//! SPDY/3.1 as the field speaks it: the framing of the third draft, without its flow control.
//!
//! The clients of a kubelet and of a CRI daemon neither send WINDOW_UPDATE nor heed a window, so a server that kept
//! to the draft's 64 KiB would stop there for ever. TCP is the back-pressure instead. What a client opens is heeded
//! only as far as this server needs it: priorities, associated streams and settings are read and ignored.
//! Source: SPDY Protocol, draft 3.1 (mbelshe-httpbis-spdy-00, with the changes of 3.1).

mod dictionary;
mod frame;
mod headers;
mod session;

pub(super) use frame::ProtocolError;
pub(super) use session::{Incoming, NewStream, Session};
