//! The streaming server: exec, attach and port-forward over an upgraded HTTP connection.
//!
//! A CRI call answers with a URL that holds a token; the client (a kubelet, crictl) takes that URL once and upgrades
//! the connection to SPDY/3.1 or to a WebSocket. This module speaks both and knows nothing of shims or of CRI
//! messages: what runs behind a stream is the [`Backend`]'s.
//!
//! ```text
//! token ─ the URLs           handshake ─ request -> Plan ─┐
//! server ─ listen, route ─ session ─┬─ spdy::Session ──────┼─ remote_command ─┐
//!                                   └─ websocket::Session ─┴─ port_forward ───┴─ Backend
//! ```
//!
//! Memory is bounded and back-pressure is TCP's, both ways. A session holds at most [`pipe::INBOUND_BUDGET`] bytes
//! that the backend has not read, and then stops reading its socket, for all its streams: neither protocol, as it is
//! spoken in this field, has a window per stream.

mod backend;
mod error;
mod handshake;
mod pipe;
mod port_forward;
mod remote_command;
mod server;
mod session;
mod spdy;
mod status;
mod token;
mod websocket;

pub use backend::{
    AttachStream, Backend, BackendError, Connection, ExecStream, PortForwardStream, Reader, Resize, Streams,
    TerminalSize, Writer,
};
pub use error::Error;
pub use server::StreamingServer;
