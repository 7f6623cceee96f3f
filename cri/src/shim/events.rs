//! The events of a shim, as a stream that outlives its connections.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use orlop_shim::protocol::{Answer, Event, Request};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Error;
use super::connection::Connection;
use super::requests::{call, unexpected, within};

const DEADLINE: Duration = Duration::from_secs(10);
/// After a failure that may pass (no descriptors left, the shim's limit of connections).
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Events in flight to a consumer that is busy; beyond, the shim's own bound counts.
const BACKLOG: usize = 64;

/// What ends in a pod. An item is an event, or the error that ends the stream.
#[derive(Debug)]
pub struct EventStream {
    events: mpsc::Receiver<Result<Event, Error>>,
    reader: JoinHandle<()>,
}

impl EventStream {
    pub(super) fn open(socket: PathBuf) -> EventStream {
        let (sender, events) = mpsc::channel(BACKLOG);
        let reader = tokio::spawn(read(socket, sender));
        EventStream { events, reader }
    }
}

impl Stream for EventStream {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_recv(context)
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Reads events until the shim is gone or nobody listens.
async fn read(socket: PathBuf, sender: mpsc::Sender<Result<Event, Error>>) {
    loop {
        match subscription(&socket, &sender).await {
            Ok(()) => return,
            Err(error) if error.is_gone() => {
                // Nobody listens any more if this fails, which is as well.
                drop(sender.send(Err(error)).await);
                return;
            }
            Err(error) => {
                tracing::warn!(socket = %socket.display(), %error, "the subscription to a shim broke; subscribing again");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// One connection's worth of events; Ok when nobody listens any more.
async fn subscription(socket: &Path, sender: &mpsc::Sender<Result<Event, Error>>) -> Result<(), Error> {
    const NAME: &str = "Subscribe";
    let connection = within(NAME, DEADLINE, async {
        let connection = Connection::open(socket).await?;
        match call(&connection, NAME, &Request::Subscribe, &[]).await? {
            (Answer::Done, _) => Ok(connection),
            (other, _) => Err(unexpected(NAME, &other)),
        }
    })
    .await?;
    loop {
        let packet = connection.receive().await.map_err(|source| Error::Transport { request: NAME, source })?;
        let event = serde_json::from_slice(&packet.bytes)
            .map_err(|error| Error::Protocol { request: NAME, problem: format!("malformed event: {error}") })?;
        if sender.send(Ok(event)).await.is_err() {
            return Ok(());
        }
    }
}
