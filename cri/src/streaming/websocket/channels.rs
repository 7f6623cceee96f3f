//! A session of numbered channels.

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::super::pipe::{Budget, Inbox, InboxSender, MAX_PIECE, Outbound, Outbox, Outgoing};
use super::super::session::{Activity, LINGER, PeerWatch, SessionError, Socket};
use super::encoding::{Encoding, Incoming};

/// How often a client hears from a session that does not read it. kubectl gives up after a minute without a pong,
/// and its pings lie unread behind its data: a pong that answers none (RFC 6455, section 5.5.3) does as well.
const UNASKED_PONG: Duration = Duration::from_secs(10);

/// A session that [`Session::run`] drives.
#[derive(Debug)]
pub(in super::super) struct Session {
    socket: WebSocketStream<TcpStream>,
    encoding: Encoding,
    inboxes: HashMap<u8, InboxSender>,
    greeting: Option<u8>,
    budget: Budget,
    outbound: Outbound,
    queue: mpsc::Receiver<Outgoing>,
    watch: PeerWatch,
    activity: Activity,
}

struct Reader<'a> {
    input: SplitStream<WebSocketStream<TcpStream>>,
    encoding: Encoding,
    inboxes: HashMap<u8, InboxSender>,
    watch: PeerWatch,
    activity: Activity,
    pong: &'a Notify,
}

struct Writer<'a> {
    output: SplitSink<WebSocketStream<TcpStream>, Message>,
    encoding: Encoding,
    greeting: Option<u8>,
    queue: mpsc::Receiver<Outgoing>,
    activity: Activity,
    pong: &'a Notify,
}

impl Session {
    pub(in super::super) async fn new(socket: Socket, encoding: Encoding, activity: Activity) -> Session {
        let (outbound, queue) = Outbound::new();
        Session {
            socket: super::open(socket.stream, socket.read_ahead).await,
            encoding,
            inboxes: HashMap::new(),
            greeting: None,
            budget: Budget::new(),
            outbound,
            queue,
            watch: socket.watch,
            activity,
        }
    }

    /// The way in of a channel.
    pub(in super::super) fn inbox(&mut self, channel: u8) -> Inbox {
        let (sender, inbox) = self.budget.pipe();
        self.inboxes.insert(channel, sender);
        inbox
    }

    /// The way out of a channel.
    pub(in super::super) fn outbox(&self, channel: u8) -> Outbox {
        self.outbound.outbox(channel.into())
    }

    /// Tells the client that the session has begun, by an empty message on `channel`.
    pub(in super::super) fn greet_on(&mut self, channel: u8) {
        self.greeting = Some(channel);
    }

    pub(in super::super) fn outbound(&self) -> Outbound {
        self.outbound.clone()
    }

    /// Reads and writes until the server closes the session, or the client has gone.
    pub(in super::super) async fn run(self) -> Result<(), SessionError> {
        let Session { socket, encoding, inboxes, greeting, queue, watch, activity, .. } = self;
        let (output, input) = socket.split();
        let pong = Notify::new();
        let mut reader = Reader { input, encoding, inboxes, watch, activity: activity.clone(), pong: &pong };
        let mut writer = Writer { output, encoding, greeting, queue, activity, pong: &pong };
        tokio::select! {
            Err(error) = reader.run() => return Err(error),
            result = writer.run() => result?,
        }
        // The client answers the closing, behind what it had sent before.
        let _ = timeout(LINGER, async { while let Some(Ok(_)) = reader.input.next().await {} }).await;
        Ok(())
    }
}

impl Reader<'_> {
    async fn run(&mut self) -> Result<Infallible, SessionError> {
        loop {
            let message = self.input.next().await.ok_or(SessionError::Gone)??;
            match self.encoding.decode(message).map_err(SessionError::from)? {
                Incoming::Data(channel, bytes) => self.deliver(channel, bytes).await?,
                Incoming::Close(channel) => drop(self.inboxes.remove(&channel)),
                Incoming::Nothing => {}
                Incoming::End => return Err(SessionError::Gone),
            }
        }
    }

    async fn deliver(&mut self, channel: u8, mut bytes: Bytes) -> Result<(), SessionError> {
        self.activity.mark();
        let Some(inbox) = self.inboxes.get(&channel) else { return Ok(()) };
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(MAX_PIECE));
            let pongs = async {
                loop {
                    tokio::time::sleep(UNASKED_PONG).await;
                    self.pong.notify_one();
                }
            };
            tokio::select! {
                () = inbox.send(piece) => {}
                () = self.watch.gone() => return Err(SessionError::Gone),
                () = pongs => {}
            }
        }
        Ok(())
    }
}

impl Writer<'_> {
    /// Writes until the server closes the session.
    async fn run(&mut self) -> Result<(), SessionError> {
        if let Some(channel) = self.greeting {
            self.output.send(self.encoding.encode(channel, &[])).await?;
        }
        loop {
            tokio::select! {
                next = self.queue.recv() => {
                    let mut next = next;
                    while let Some(outgoing) = next {
                        if self.feed(outgoing).await? {
                            return Ok(self.output.flush().await?);
                        }
                        next = self.queue.try_recv().ok();
                    }
                }
                () = self.pong.notified() => self.output.feed(Message::Pong(Bytes::new())).await?,
            }
            self.output.flush().await?;
        }
    }

    /// Returns whether it was the last.
    async fn feed(&mut self, outgoing: Outgoing) -> Result<bool, SessionError> {
        match outgoing {
            Outgoing::Data(id, bytes) => {
                self.activity.mark();
                // A session makes its outboxes of channel numbers only.
                if let Ok(channel) = u8::try_from(id) {
                    self.output.feed(self.encoding.encode(channel, &bytes)).await?;
                }
                Ok(false)
            }
            // The protocols have no such message in this direction.
            Outgoing::Finish(_) | Outgoing::Reset(_) => Ok(false),
            Outgoing::Close => {
                let normal = CloseFrame { code: CloseCode::Normal, reason: String::new().into() };
                self.output.feed(Message::Close(Some(normal))).await?;
                Ok(true)
            }
        }
    }
}
