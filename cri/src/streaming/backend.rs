//! What the streaming server needs from the daemon behind it.

use std::error::Error as StdError;

use futures::future::BoxFuture;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

/// Any error of the backend; its text, with its sources, is what the client is shown.
pub type BackendError = Box<dyn StdError + Send + Sync>;

/// Bytes from the client. End of file is the client's half close.
pub type Reader = Box<dyn AsyncRead + Send + Unpin>;

/// Bytes to the client. Writing waits while the client does not read.
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// A connected socket inside a pod.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Runs what clients ask for. Every returned future is dropped when its client has gone: what it holds must then
/// end by `Drop`.
pub trait Backend: Send + Sync + 'static {
    /// Runs a command in a container and returns its exit code (128 + signal if a signal ended it).
    /// What was written to `streams` before the future ends is delivered.
    fn exec(&self, request: ExecStream, streams: Streams) -> BoxFuture<'_, Result<i32, BackendError>>;

    /// Joins the streams of a container's main process until that process or the client ends.
    fn attach(&self, request: AttachStream, streams: Streams) -> BoxFuture<'_, Result<(), BackendError>>;

    /// Connects to `port` of localhost inside the sandbox.
    fn port_forward(&self, sandbox_id: String, port: u16) -> BoxFuture<'_, Result<Box<dyn Connection>, BackendError>>;
}

/// A command to run, and the streams that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecStream {
    pub container_id: String,
    pub command: Vec<String>,
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// A container to attach to, and the streams to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachStream {
    pub container_id: String,
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// A sandbox to forward ports of. `ports` matters to the legacy WebSocket protocol alone; SPDY streams name theirs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortForwardStream {
    pub sandbox_id: String,
    pub ports: Vec<u16>,
}

/// The streams of one exec or attach; those that were not asked for are `None`.
pub struct Streams {
    pub stdin: Option<Reader>,
    pub stdout: Option<Writer>,
    pub stderr: Option<Writer>,
    /// The client's terminal sizes; without a terminal it yields nothing.
    pub resize: Resize,
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams")
            .field("stdin", &self.stdin.is_some())
            .field("stdout", &self.stdout.is_some())
            .field("stderr", &self.stderr.is_some())
            .finish_non_exhaustive()
    }
}

/// A terminal's size in character cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TerminalSize {
    pub width: u16,
    pub height: u16,
}

/// The terminal sizes that a client reports: only the latest one is kept.
#[derive(Debug)]
pub struct Resize(pub(super) watch::Receiver<Option<TerminalSize>>);

impl Resize {
    /// The next new size; `None` when no more will come.
    pub async fn next(&mut self) -> Option<TerminalSize> {
        loop {
            self.0.changed().await.ok()?;
            if let Some(size) = *self.0.borrow_and_update() {
                return Some(size);
            }
        }
    }
}
