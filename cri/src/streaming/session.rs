//! One upgraded connection, from the handshake to its last byte.

use std::io::{self, Cursor};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::backend::Backend;
use super::handshake::Plan;
use super::port_forward;
use super::remote_command;
use super::spdy;
use super::websocket;

/// A session over which nothing travelled for this long is ended, as the kubelet does.
const IDLE_TIMEOUT: Duration = Duration::from_hours(4);

/// How long a client may take to open the streams that it needs.
pub(super) const STREAM_CREATION_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the server waits, after its last byte, for the client to close. Closing first, with bytes of the client
/// unread, would reset the connection and could destroy output that the client has yet to read.
pub(super) const LINGER: Duration = Duration::from_secs(5);

/// How often a session that does not read its socket looks whether the client is still there.
const GONE_CHECK: Duration = Duration::from_secs(1);

/// Why a session ended before its work was done.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error("the client has gone")]
    Gone,
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Spdy(#[from] spdy::ProtocolError),
    #[error(transparent)]
    WebSocket(#[from] websocket::ProtocolError),
}

/// An upgraded connection, and what was read of it while it was HTTP.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) stream: TcpStream,
    pub(super) read_ahead: Bytes,
    pub(super) watch: PeerWatch,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, read_ahead: Bytes) -> io::Result<Socket> {
        let watch = PeerWatch(Arc::new(stream.as_fd().try_clone_to_owned()?));
        Ok(Socket { stream, read_ahead, watch })
    }
}

/// Tells whether the client has closed, without reading: what it sent before may still lie in the socket.
#[derive(Debug, Clone)]
pub(super) struct PeerWatch(Arc<OwnedFd>);

impl PeerWatch {
    /// Returns when the client has closed its side or the connection has failed.
    pub(super) async fn gone(&self) {
        loop {
            tokio::time::sleep(GONE_CHECK).await;
            // POLLHUP and POLLERR are always told.
            let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::from_bits_retain(libc::POLLRDHUP))];
            if poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0) {
                return;
            }
        }
    }
}

/// When bytes of a stream last travelled; pings do not count.
#[derive(Debug, Clone)]
pub(super) struct Activity(Arc<(Instant, AtomicU64)>);

impl Activity {
    pub(super) fn new() -> Activity {
        Activity(Arc::new((Instant::now(), AtomicU64::new(0))))
    }

    pub(super) fn mark(&self) {
        let (start, last) = &*self.0;
        last.store(start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// When nothing will have travelled for `limit`, if nothing does until then.
    fn deadline(&self, limit: Duration) -> Instant {
        let (start, last) = &*self.0;
        *start + Duration::from_millis(last.load(Ordering::Relaxed)) + limit
    }

    /// Returns once nothing has travelled for `limit`.
    async fn idle(&self, limit: Duration) {
        while self.deadline(limit) > Instant::now() {
            tokio::time::sleep_until(self.deadline(limit)).await;
        }
    }
}

/// Carries out `plan` over `socket`. All that it starts ends with it.
pub(super) async fn run(socket: Socket, plan: Plan, backend: Arc<dyn Backend>) {
    let activity = Activity::new();
    let result = match plan {
        Plan::CommandSpdy(command, version) => {
            let (session, incoming) = over_tcp(socket, &activity);
            let outbound = session.outbound();
            let app = async {
                remote_command::over_spdy(command, version, incoming, &*backend).await;
                outbound.close().await;
            };
            drive(session.run(), app, &activity).await
        }
        Plan::CommandWebSocket(command, version) => {
            let mut session = websocket::Session::new(socket, version.encoding, activity.clone()).await;
            let channels = remote_command::websocket_channels(&command, &mut session);
            let outbound = session.outbound();
            let app = async {
                remote_command::run(command, channels, version.status, &*backend).await;
                outbound.close().await;
            };
            drive(session.run(), app, &activity).await
        }
        Plan::ForwardSpdy { sandbox_id } => {
            let (session, incoming) = over_tcp(socket, &activity);
            drive(session.run(), port_forward::over_spdy(sandbox_id, incoming, backend), &activity).await
        }
        Plan::ForwardTunnel { sandbox_id } => {
            let watch = socket.watch.clone();
            let (reader, writer) = websocket::tunnel(socket).await;
            let (session, incoming) = spdy::Session::new(reader, writer, watch, activity.clone());
            drive(session.run(), port_forward::over_spdy(sandbox_id, incoming, backend), &activity).await
        }
        Plan::ForwardWebSocket { sandbox_id, ports, encoding } => {
            let mut session = websocket::Session::new(socket, encoding, activity.clone()).await;
            let forwards = port_forward::websocket_channels(&ports, &mut session);
            let outbound = session.outbound();
            let app = async {
                port_forward::over_websocket(&sandbox_id, forwards, &*backend).await;
                outbound.close().await;
            };
            drive(session.run(), app, &activity).await
        }
    };
    if let Err(error) = result {
        tracing::debug!(error = super::status::with_sources(&error), "streaming session ended early");
    }
}

type TcpReader = tokio::io::Chain<Cursor<Bytes>, tokio::net::tcp::OwnedReadHalf>;
type TcpSession = spdy::Session<TcpReader, tokio::net::tcp::OwnedWriteHalf>;

fn over_tcp(socket: Socket, activity: &Activity) -> (TcpSession, spdy::Incoming) {
    let (reader, writer) = socket.stream.into_split();
    let reader = Cursor::new(socket.read_ahead).chain(reader);
    spdy::Session::new(reader, writer, socket.watch, activity.clone())
}

/// Runs a session and what works over it, in one task: when the session ends, because the client has gone, the work
/// is dropped; when the work ends, it has asked the session to close.
async fn drive(
    session: impl Future<Output = Result<(), SessionError>>,
    work: impl Future<Output = ()>,
    activity: &Activity,
) -> Result<(), SessionError> {
    let mut session = pin!(session);
    let mut idle = pin!(activity.idle(IDLE_TIMEOUT));
    tokio::select! {
        result = &mut session => return result,
        () = &mut idle => return Ok(()),
        () = work => {}
    }
    tokio::select! {
        result = session => result,
        () = idle => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_session_is_idle_a_while_after_its_last_bytes() {
        let activity = Activity::new();
        let limit = Duration::from_millis(20);
        let at_first = activity.deadline(limit);
        activity.idle(limit).await;
        assert!(at_first <= Instant::now());
        activity.mark();
        assert!(activity.deadline(limit) > at_first);
    }
}
