//! Exec and attach: the streams of one command.

use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::timeout;

use super::backend::{
    AttachStream, Backend, ExecStream, PortForwardStream, Reader, Resize, Streams, TerminalSize, Writer,
};
use super::handshake::CommandVersion;
use super::pipe::{Inbox, Outbox};
use super::server::Call;
use super::session::STREAM_CREATION_TIMEOUT;
use super::spdy::{Incoming, NewStream};
use super::status::{Outcome, StatusVersion};
use super::websocket;

/// The most that one report of a terminal's size may take.
const MAX_SIZE_REPORT: usize = 4096;

/// A command to run or to attach to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RemoteCommand {
    Exec(ExecStream),
    Attach(AttachStream),
}

/// Which streams a command has, beside the error stream that all have.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl RemoteCommand {
    /// Or else, the port-forward that the call is.
    pub(super) fn from_call(call: Call) -> Result<RemoteCommand, PortForwardStream> {
        match call {
            Call::Exec(request) => Ok(RemoteCommand::Exec(request)),
            Call::Attach(request) => Ok(RemoteCommand::Attach(request)),
            Call::PortForward(request) => Err(request),
        }
    }

    fn wanted(&self) -> Wanted {
        match *self {
            RemoteCommand::Exec(ExecStream { stdin, stdout, stderr, tty, .. })
            | RemoteCommand::Attach(AttachStream { stdin, stdout, stderr, tty, .. }) => {
                Wanted { stdin, stdout, stderr, tty }
            }
        }
    }
}

/// The ways in and out of a command.
#[derive(Debug)]
pub(super) struct Channels {
    stdin: Option<Inbox>,
    stdout: Option<Outbox>,
    stderr: Option<Outbox>,
    error: Outbox,
    resize: Option<Inbox>,
}

/// The channels of a WebSocket session, by the numbers that the protocol gives them.
pub(super) fn websocket_channels(command: &RemoteCommand, session: &mut websocket::Session) -> Channels {
    let wanted = command.wanted();
    session.greet_on(if wanted.stdout {
        1
    } else if wanted.stderr {
        2
    } else {
        3
    });
    Channels {
        stdin: wanted.stdin.then(|| session.inbox(0)),
        stdout: wanted.stdout.then(|| session.outbox(1)),
        stderr: wanted.stderr.then(|| session.outbox(2)),
        error: session.outbox(3),
        resize: wanted.tty.then(|| session.inbox(4)),
    }
}

/// Waits for the client to open the streams that `command` has, and runs it.
pub(super) async fn over_spdy(
    command: RemoteCommand,
    version: CommandVersion,
    mut incoming: Incoming,
    backend: &dyn Backend,
) {
    match timeout(STREAM_CREATION_TIMEOUT, collect(command.wanted(), version, &mut incoming)).await {
        Ok(Some(channels)) => tokio::select! {
            () = run(command, channels, version.status, backend) => {}
            // Further streams would have no meaning.
            never = incoming.refuse_all() => match never {},
        },
        Ok(None) => {}
        Err(_) => tracing::debug!("streaming: the client did not open its streams in time"),
    }
}

async fn collect(wanted: Wanted, version: CommandVersion, incoming: &mut Incoming) -> Option<Channels> {
    let resizes = wanted.tty && version.resize;
    let (mut stdin, mut stdout, mut stderr, mut error, mut resize) = (None, None, None, None, None);
    loop {
        let complete = error.is_some()
            && stdin.is_some() == wanted.stdin
            && stdout.is_some() == wanted.stdout
            && stderr.is_some() == wanted.stderr
            && resize.is_some() == resizes;
        if complete {
            let error = error.map(NewStream::into_outbox)?;
            return Some(Channels {
                stdin: stdin.map(NewStream::into_inbox),
                stdout: stdout.map(NewStream::into_outbox),
                stderr: stderr.map(NewStream::into_outbox),
                error,
                resize: resize.map(NewStream::into_inbox),
            });
        }
        let stream = incoming.next().await?;
        let slot = match stream.header("streamtype") {
            Some("error") => &mut error,
            Some("stdin") if wanted.stdin => &mut stdin,
            Some("stdout") if wanted.stdout => &mut stdout,
            Some("stderr") if wanted.stderr => &mut stderr,
            Some("resize") if resizes => &mut resize,
            _ => {
                stream.refuse().await;
                continue;
            }
        };
        if slot.is_some() {
            stream.refuse().await;
        } else {
            stream.accept().await;
            *slot = Some(stream);
        }
    }
}

/// Runs `command` over `channels`, tells the client how it ended, and ends every stream.
pub(super) async fn run(command: RemoteCommand, channels: Channels, version: StatusVersion, backend: &dyn Backend) {
    let Channels { stdin, stdout, stderr, mut error, resize } = channels;
    let finishers: Vec<Outbox> = stdout.iter().chain(&stderr).map(Outbox::finisher).collect();
    let (sizes, reported) = watch::channel(None);
    let streams = Streams {
        stdin: stdin.map(|inbox| Box::new(inbox) as Reader),
        stdout: stdout.map(|outbox| Box::new(outbox) as Writer),
        stderr: stderr.map(|outbox| Box::new(outbox) as Writer),
        resize: Resize(reported),
    };
    let outcome = tokio::select! {
        outcome = call(command, streams, backend) => outcome,
        never = report_sizes(resize, sizes) => match never {},
    };
    // Failing writes mean that the client has gone, which ends the session anyway.
    for mut stream in finishers {
        let _ = stream.shutdown().await;
    }
    if let Some(status) = version.encode(&outcome) {
        let _ = error.write_all(&status).await;
    }
    let _ = error.shutdown().await;
}

async fn call(command: RemoteCommand, streams: Streams, backend: &dyn Backend) -> Outcome {
    match command {
        RemoteCommand::Exec(request) => match backend.exec(request, streams).await {
            Ok(code) => Outcome::Exit(code),
            Err(error) => Outcome::Failed { doing: "error executing command in container", error },
        },
        RemoteCommand::Attach(request) => match backend.attach(request, streams).await {
            Ok(()) => Outcome::Detached,
            Err(error) => Outcome::Failed { doing: "error attaching to container", error },
        },
    }
}

/// Passes on the sizes that the client reports, as long as it is polled.
async fn report_sizes(resize: Option<Inbox>, sizes: watch::Sender<Option<TerminalSize>>) -> std::convert::Infallible {
    if let Some(mut inbox) = resize {
        let mut pending = Vec::new();
        while let Ok(bytes) = inbox.fill_buf().await
            && !bytes.is_empty()
        {
            let length = bytes.len();
            pending.extend_from_slice(bytes);
            inbox.consume(length);
            if let Some(size) = last_size(&mut pending) {
                sizes.send_replace(Some(size));
            }
            if pending.len() > MAX_SIZE_REPORT {
                break;
            }
        }
    }
    drop(sizes);
    std::future::pending().await
}

/// Takes the complete JSON objects off the front of `pending` and returns the last that is a size. What is no JSON
/// is dropped: the next report makes up for it.
fn last_size(pending: &mut Vec<u8>) -> Option<TerminalSize> {
    let mut objects = serde_json::Deserializer::from_slice(pending).into_iter::<serde_json::Value>();
    let mut last = None;
    for object in &mut objects {
        match object {
            Ok(object) => last = serde_json::from_value(object).ok().or(last),
            Err(error) if error.is_eof() => break,
            Err(_) => {
                pending.clear();
                return last;
            }
        }
    }
    let done = objects.byte_offset();
    pending.drain(..done);
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_complete_size_counts_and_the_rest_waits() {
        let mut pending = b"{\"Width\":80,\"Height\":24}\n{\"Width\":100,\"Height\":40}\n{\"Wid".to_vec();
        assert_eq!(last_size(&mut pending), Some(TerminalSize { width: 100, height: 40 }));
        assert_eq!(last_size(&mut pending), None);
        pending.extend_from_slice(b"th\":1,\"Height\":2}");
        assert_eq!(last_size(&mut pending), Some(TerminalSize { width: 1, height: 2 }));
    }

    #[test]
    fn what_is_no_size_is_dropped() {
        let mut pending = b"nonsense".to_vec();
        assert_eq!(last_size(&mut pending), None);
        assert!(pending.is_empty());
        let mut pending = b"{\"Width\":-1,\"Height\":2}{\"Width\":5,\"Height\":6}{\"x\":0}".to_vec();
        assert_eq!(last_size(&mut pending), Some(TerminalSize { width: 5, height: 6 }));
    }
}
