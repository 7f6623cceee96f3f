//! Port-forward: each connection is a pair of streams, one for its data and one for what went wrong.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::io::{AsyncWriteExt, BufReader, copy_buf};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::backend::{Backend, Connection};
use super::pipe::{Inbox, MAX_PIECE, Outbox};
use super::session::STREAM_CREATION_TIMEOUT;
use super::spdy::{Incoming, NewStream};
use super::status::with_sources;
use super::websocket;

/// How often streams are looked for whose other half did not come.
const SWEEP: Duration = Duration::from_secs(5);

/// One forwarded connection.
#[derive(Debug)]
pub(super) struct Forward {
    port: u16,
    from_client: Inbox,
    to_client: Outbox,
    errors: Outbox,
    /// Ends when the client resets the data stream.
    reset: CancellationToken,
    /// Whether the client can tell, and be told, the end of one direction only.
    half_close: bool,
}

/// Half of a pair that waits for its other half.
#[derive(Debug)]
struct Waiting {
    half: Half,
    since: Instant,
}

#[derive(Debug)]
enum Half {
    Data(NewStream),
    Error(NewStream),
}

/// Pairs the streams that the client opens and serves each pair, until the session ends.
pub(super) async fn over_spdy(sandbox_id: String, mut incoming: Incoming, backend: Arc<dyn Backend>) {
    let mut waiting: HashMap<String, Waiting> = HashMap::new();
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut forwards = JoinSet::new();
    loop {
        tokio::select! {
            stream = incoming.next() => {
                let Some(stream) = stream else { break };
                if let Some(forward) = pair(&mut waiting, stream).await {
                    let (sandbox_id, backend) = (sandbox_id.clone(), Arc::clone(&backend));
                    forwards.spawn(async move { forward.run(&sandbox_id, &*backend).await });
                }
            }
            _ = sweep.tick(), if !waiting.is_empty() => {
                for (request, alone) in waiting.extract_if(|_, half| half.since.elapsed() > STREAM_CREATION_TIMEOUT) {
                    alone.half.give_up(&request).await;
                }
            }
            Some(_) = forwards.join_next() => {}
        }
    }
    // The session has ended: the pairs end with it, as the set is dropped.
}

/// Finds the other half of `stream`, or lets it wait for that.
async fn pair(waiting: &mut HashMap<String, Waiting>, stream: NewStream) -> Option<Forward> {
    let half = Half::of(stream).await?;
    let Some(request) = half.request() else {
        half.into_stream().refuse().await;
        return None;
    };
    let Some(other) = waiting.remove(&request) else {
        half.stream().accept().await;
        waiting.insert(request, Waiting { half, since: Instant::now() });
        return None;
    };
    match (other.half, half) {
        (Half::Data(data), Half::Error(error)) => {
            error.accept().await;
            Forward::of_pair(data, error)
        }
        (Half::Error(error), Half::Data(data)) => {
            data.accept().await;
            Forward::of_pair(data, error)
        }
        (first, twin) => {
            waiting.insert(request, Waiting { half: first, since: other.since });
            twin.into_stream().refuse().await;
            None
        }
    }
}

impl Half {
    /// Refuses a stream that is neither data nor error, or names no port.
    async fn of(stream: NewStream) -> Option<Half> {
        let kind = stream.header("streamtype").map(str::to_owned);
        if port(&stream).is_some() {
            match kind.as_deref() {
                Some("data") => return Some(Half::Data(stream)),
                Some("error") => return Some(Half::Error(stream)),
                _ => {}
            }
        }
        stream.refuse().await;
        None
    }

    fn stream(&self) -> &NewStream {
        match self {
            Half::Data(stream) | Half::Error(stream) => stream,
        }
    }

    fn into_stream(self) -> NewStream {
        match self {
            Half::Data(stream) | Half::Error(stream) => stream,
        }
    }

    /// What both halves have in common. The first clients sent no request id, but always opened the error stream
    /// first and the data stream next.
    fn request(&self) -> Option<String> {
        let stream = self.stream();
        match (stream.header("requestid"), self) {
            (Some(id), _) => Some(format!("request {id}")),
            (None, Half::Error(_)) => Some(format!("stream {}", stream.id())),
            (None, Half::Data(_)) => Some(format!("stream {}", stream.id().checked_sub(2)?)),
        }
    }

    async fn give_up(self, request: &str) {
        match self {
            Half::Error(stream) => {
                let mut errors = stream.into_outbox();
                let message = format!("no data stream came for {request} within {STREAM_CREATION_TIMEOUT:?}");
                let _ = errors.write_all(message.as_bytes()).await;
                let _ = errors.shutdown().await;
            }
            Half::Data(stream) => stream.into_outbox().reset().await,
        }
    }
}

fn port(stream: &NewStream) -> Option<u16> {
    stream.header("port")?.parse().ok().filter(|port| *port > 0)
}

impl Forward {
    fn of_pair(data: NewStream, error: NewStream) -> Option<Forward> {
        let port = port(&data)?;
        let reset = data.reset_token();
        let (from_client, to_client) = data.into_both();
        Some(Forward { port, from_client, to_client, errors: error.into_outbox(), reset, half_close: true })
    }

    /// Connects to the port and copies both ways until both have ended.
    async fn run(mut self, sandbox_id: &str, backend: &dyn Backend) {
        let reset = self.reset.clone();
        let work = async {
            match backend.port_forward(sandbox_id.to_owned(), self.port).await {
                Ok(connection) => self.copy(connection).await,
                Err(error) => {
                    let cause = with_sources(error.as_ref());
                    let message = format!("error forwarding port {} to pod sandbox {sandbox_id}: {cause}", self.port);
                    // Failing writes mean that the client has gone.
                    let _ = self.errors.write_all(message.as_bytes()).await;
                    let _ = self.to_client.shutdown().await;
                }
            }
        };
        tokio::select! {
            () = work => {}
            () = reset.cancelled() => {}
        }
        let _ = self.errors.shutdown().await;
    }

    /// A failure after the connection was made is that connection's own: the data stream is reset, and nothing is
    /// said on the error stream, since clients end the whole session for a word there.
    async fn copy(&mut self, connection: Box<dyn Connection>) {
        let (reader, mut writer) = tokio::io::split(connection);
        let mut reader = BufReader::with_capacity(MAX_PIECE, reader);
        let failed = {
            let inward = async {
                copy_buf(&mut self.from_client, &mut writer).await?;
                writer.shutdown().await
            };
            let outward = async {
                copy_buf(&mut reader, &mut self.to_client).await?;
                self.to_client.shutdown().await
            };
            if self.half_close {
                tokio::try_join!(inward, outward).is_err()
            } else {
                tokio::select! {
                    result = inward => result.is_err(),
                    result = outward => result.is_err(),
                }
            }
        };
        if failed {
            self.to_client.finisher().reset().await;
        }
    }
}

/// The channels of a WebSocket session, two for each port: data, then errors.
pub(super) fn websocket_channels(ports: &[u16], session: &mut websocket::Session) -> Vec<Forward> {
    let numbers = (0u8..).step_by(2);
    ports
        .iter()
        .zip(numbers)
        .map(|(&port, number)| Forward {
            port,
            from_client: session.inbox(number),
            to_client: session.outbox(number),
            errors: session.outbox(number + 1),
            reset: CancellationToken::new(),
            half_close: false,
        })
        .collect()
}

/// Serves every port until the last has ended. Each channel starts with its port, in two bytes, little-endian.
pub(super) async fn over_websocket(sandbox_id: &str, forwards: Vec<Forward>, backend: &dyn Backend) {
    let mut running: FuturesUnordered<_> = forwards
        .into_iter()
        .map(|mut forward| async move {
            let port = forward.port.to_le_bytes();
            // Failing writes mean that the client has gone.
            let _ = forward.to_client.write_all(&port).await;
            let _ = forward.errors.write_all(&port).await;
            forward.run(sandbox_id, backend).await;
        })
        .collect();
    while running.next().await.is_some() {}
}
