//! One SPDY session, the server's side: streams that the client opens.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::super::pipe::{Budget, Inbox, InboxSender, MAX_PIECE, Outbound, Outbox, Outgoing};
use super::super::session::{Activity, LINGER, PeerWatch, SessionError};
use super::frame::{self, FLAG_FIN, FrameHeader, HEADER_LENGTH, Kind, ProtocolError, ResetStatus};
use super::headers::{Decoder, Encoder, MAX_BLOCK};

/// How many streams a client may have open at once: a thousand forwarded connections and some.
const MAX_STREAMS: usize = 2048;

/// How many replies, resets and pings wait to be written.
const CONTROL_QUEUE: usize = 64;

/// How many new streams wait to be looked at.
const INCOMING_QUEUE: usize = 16;

/// How much is gathered before it is written.
const WRITE_BATCH: usize = 64 * 1024;

/// Frames that go before those of data.
#[derive(Debug)]
enum Control {
    Reply(u32),
    Reset(u32, ResetStatus),
    Ping(u32),
}

/// A stream that the client wants to open: it must be accepted or refused.
#[derive(Debug)]
pub(in super::super) struct NewStream {
    id: u32,
    headers: Vec<(String, String)>,
    inbox: Inbox,
    outbox: Outbox,
    reset: CancellationToken,
    control: mpsc::Sender<Control>,
}

impl NewStream {
    pub(in super::super) fn id(&self) -> u32 {
        self.id
    }

    /// A header by its name in lower case.
    pub(in super::super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Ends when the client resets the stream.
    pub(in super::super) fn reset_token(&self) -> CancellationToken {
        self.reset.clone()
    }

    /// Tells the client that the stream is open.
    pub(in super::super) async fn accept(&self) {
        let _ = self.control.send(Control::Reply(self.id)).await;
    }

    pub(in super::super) async fn refuse(self) {
        let _ = self.control.send(Control::Reset(self.id, ResetStatus::RefusedStream)).await;
    }

    pub(in super::super) fn into_inbox(self) -> Inbox {
        self.inbox
    }

    pub(in super::super) fn into_outbox(self) -> Outbox {
        self.outbox
    }

    pub(in super::super) fn into_both(self) -> (Inbox, Outbox) {
        (self.inbox, self.outbox)
    }
}

/// The streams that the client opens, one after the other.
#[derive(Debug)]
pub(in super::super) struct Incoming(mpsc::Receiver<NewStream>);

impl Incoming {
    /// The next stream; `None` when the session has ended.
    pub(in super::super) async fn next(&mut self) -> Option<NewStream> {
        self.0.recv().await
    }

    /// Refuses every stream from here on, as long as it is polled.
    pub(in super::super) async fn refuse_all(&mut self) -> Infallible {
        while let Some(stream) = self.next().await {
            stream.refuse().await;
        }
        std::future::pending().await
    }
}

/// A session that [`Session::run`] drives.
#[derive(Debug)]
pub(in super::super) struct Session<R, W> {
    reader: Reader<R>,
    writer: Writer<W>,
}

#[derive(Debug)]
struct Reader<R> {
    input: BufReader<R>,
    decoder: Decoder,
    streams: Streams,
    incoming: mpsc::Sender<NewStream>,
    control: mpsc::Sender<Control>,
    outbound: Outbound,
    budget: Budget,
    watch: PeerWatch,
    activity: Activity,
}

#[derive(Debug)]
struct Writer<W> {
    output: W,
    control: mpsc::Receiver<Control>,
    data: mpsc::Receiver<Outgoing>,
    activity: Activity,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Session<R, W> {
    pub(in super::super) fn new(
        reader: R,
        writer: W,
        watch: PeerWatch,
        activity: Activity,
    ) -> (Session<R, W>, Incoming) {
        let (incoming, new_streams) = mpsc::channel(INCOMING_QUEUE);
        let (control, control_queue) = mpsc::channel(CONTROL_QUEUE);
        let (outbound, data) = Outbound::new();
        let reader = Reader {
            input: BufReader::with_capacity(MAX_PIECE, reader),
            decoder: Decoder::new(),
            streams: Streams::default(),
            incoming,
            control,
            outbound,
            budget: Budget::new(),
            watch,
            activity: activity.clone(),
        };
        let writer = Writer { output: writer, control: control_queue, data, activity };
        (Session { reader, writer }, Incoming(new_streams))
    }

    pub(in super::super) fn outbound(&self) -> Outbound {
        self.reader.outbound.clone()
    }

    /// Reads and writes until the server closes the session, or the client has gone.
    pub(in super::super) async fn run(self) -> Result<(), SessionError> {
        let Session { mut reader, mut writer } = self;
        tokio::select! {
            Err(error) = reader.run() => return Err(error),
            result = writer.run() => result?,
        }
        // What the client still sends is read, so that closing does not destroy what it has yet to read.
        let _ = timeout(LINGER, tokio::io::copy(&mut reader.input, &mut tokio::io::sink())).await;
        Ok(())
    }
}

impl<R: AsyncRead + Unpin> Reader<R> {
    async fn run(&mut self) -> Result<Infallible, SessionError> {
        loop {
            let mut header = [0; HEADER_LENGTH];
            self.read_exact(&mut header).await?;
            match FrameHeader::parse(header)? {
                FrameHeader::Data { stream, flags, length } => self.data(stream, flags, length).await?,
                FrameHeader::Control { kind, flags, length } => self.control(kind, flags, length).await?,
            }
        }
    }

    async fn read_exact(&mut self, into: &mut [u8]) -> Result<(), SessionError> {
        match self.input.read_exact(into).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(SessionError::Gone),
            Err(error) => Err(error.into()),
        }
    }

    async fn data(&mut self, id: u32, flags: u8, length: usize) -> Result<(), SessionError> {
        let inbox = self.streams.inbox(id);
        let mut left = length;
        while left > 0 {
            let mut piece = BytesMut::zeroed(left.min(MAX_PIECE));
            self.read_exact(&mut piece).await?;
            left -= piece.len();
            self.activity.mark();
            if let Some(inbox) = &inbox {
                tokio::select! {
                    () = inbox.send(piece.freeze()) => {}
                    () = self.watch.gone() => return Err(SessionError::Gone),
                }
            }
        }
        if !self.streams.knew(id) {
            // A flood of these is dropped rather than answered.
            let _ = self.control.try_send(Control::Reset(id, ResetStatus::InvalidStream));
        }
        if flags & FLAG_FIN != 0 {
            self.streams.client_finished(id);
        }
        Ok(())
    }

    async fn control(&mut self, kind: Kind, flags: u8, length: usize) -> Result<(), SessionError> {
        match kind {
            Kind::SynStream => self.syn_stream(flags, length).await,
            Kind::SynReply => self.ignored_headers("SYN_REPLY", length).await,
            Kind::Headers => self.ignored_headers("HEADERS", length).await,
            Kind::RstStream => {
                let [id, _status] = self.numbers("RST_STREAM", length).await?;
                self.streams.client_reset(id);
                Ok(())
            }
            Kind::Ping => {
                let [id] = self.numbers("PING", length).await?;
                // Even ones are answers to pings of the server, which sends none. With the queue full the client
                // does not read anyway.
                if id % 2 == 1 {
                    let _ = self.control.try_send(Control::Ping(id));
                }
                Ok(())
            }
            // The client opens no more streams, and closes when it is done.
            Kind::GoAway | Kind::Settings | Kind::WindowUpdate | Kind::Unknown(_) => self.skip(length).await,
        }
    }

    async fn syn_stream(&mut self, flags: u8, length: usize) -> Result<(), SessionError> {
        // The stream, the one that it belongs to, its priority and slot: only the first matters here.
        let mut fixed = [0; 10];
        let block_length =
            length.checked_sub(fixed.len()).ok_or(ProtocolError::Length { frame: "SYN_STREAM", length })?;
        self.read_exact(&mut fixed).await?;
        let id = u32::from_be_bytes([fixed[0], fixed[1], fixed[2], fixed[3]]) & 0x7fff_ffff;
        let headers = self.headers(block_length).await?;
        if !self.streams.may_open(id) {
            return self.answer(Control::Reset(id, ResetStatus::ProtocolError)).await;
        }
        if self.streams.full() {
            self.streams.refused(id);
            return self.answer(Control::Reset(id, ResetStatus::RefusedStream)).await;
        }
        let (sender, inbox) = self.budget.pipe();
        let outbox = self.outbound.outbox(id);
        let reset = CancellationToken::new();
        self.streams.open(id, sender, reset.clone(), outbox.finished());
        if flags & FLAG_FIN != 0 {
            self.streams.client_finished(id);
        }
        let stream = NewStream { id, headers, inbox, outbox, reset, control: self.control.clone() };
        tokio::select! {
            // Nobody to look at it any more: it goes unanswered, as the session is about to end.
            _ = self.incoming.send(stream) => Ok(()),
            () = self.watch.gone() => Err(SessionError::Gone),
        }
    }

    async fn answer(&self, control: Control) -> Result<(), SessionError> {
        tokio::select! {
            _ = self.control.send(control) => Ok(()),
            () = self.watch.gone() => Err(SessionError::Gone),
        }
    }

    async fn headers(&mut self, length: usize) -> Result<Vec<(String, String)>, SessionError> {
        if length > MAX_BLOCK {
            return Err(ProtocolError::HeadersTooLong { limit: MAX_BLOCK }.into());
        }
        let mut block = vec![0; length];
        self.read_exact(&mut block).await?;
        Ok(self.decoder.decode(&block)?)
    }

    async fn ignored_headers(&mut self, frame: &'static str, length: usize) -> Result<(), SessionError> {
        let block_length = length.checked_sub(4).ok_or(ProtocolError::Length { frame, length })?;
        self.skip(4).await?;
        self.headers(block_length).await.map(drop)
    }

    async fn numbers<const N: usize>(&mut self, frame: &'static str, length: usize) -> Result<[u32; N], SessionError> {
        if length != N * 4 {
            return Err(ProtocolError::Length { frame, length }.into());
        }
        let mut numbers = [0; N];
        for number in &mut numbers {
            let mut bytes = [0; 4];
            self.read_exact(&mut bytes).await?;
            *number = u32::from_be_bytes(bytes);
        }
        Ok(numbers)
    }

    async fn skip(&mut self, length: usize) -> Result<(), SessionError> {
        let mut rest = (&mut self.input).take(length as u64);
        let skipped = tokio::io::copy_buf(&mut rest, &mut tokio::io::sink()).await?;
        if skipped < length as u64 { Err(SessionError::Gone) } else { Ok(()) }
    }
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Writes until the server closes the session.
    async fn run(&mut self) -> Result<(), SessionError> {
        let mut encoder = Encoder::new()?;
        let mut batch = BytesMut::with_capacity(WRITE_BATCH);
        loop {
            let mut closing = false;
            tokio::select! {
                biased;
                Some(control) = self.control.recv() => put_control(&mut batch, control, &mut encoder)?,
                Some(data) = self.data.recv() => {
                    self.activity.mark();
                    closing = put_data(&mut batch, data);
                }
                else => return Ok(()),
            }
            while !closing && batch.len() < WRITE_BATCH {
                if let Ok(control) = self.control.try_recv() {
                    put_control(&mut batch, control, &mut encoder)?;
                } else if let Ok(data) = self.data.try_recv() {
                    closing = put_data(&mut batch, data);
                } else {
                    break;
                }
            }
            self.output.write_all(&batch).await?;
            self.output.flush().await?;
            batch.clear();
            if closing {
                return Ok(self.output.shutdown().await?);
            }
        }
    }
}

fn put_control(batch: &mut BytesMut, control: Control, encoder: &mut Encoder) -> Result<(), ProtocolError> {
    match control {
        Control::Reply(id) => frame::put_reply(batch, id, &encoder.empty_block()?),
        Control::Reset(id, status) => frame::put_reset(batch, id, status),
        Control::Ping(id) => frame::put_ping(batch, id),
    }
    Ok(())
}

/// Returns whether it was the last.
fn put_data(batch: &mut BytesMut, data: Outgoing) -> bool {
    match data {
        Outgoing::Data(id, bytes) => frame::put_data(batch, id, 0, &bytes),
        Outgoing::Finish(id) => frame::put_data(batch, id, FLAG_FIN, &[]),
        Outgoing::Reset(id) => frame::put_reset(batch, id, ResetStatus::Cancel),
        Outgoing::Close => return true,
    }
    false
}

/// The streams that the client may still send on or reset.
#[derive(Debug, Default)]
struct Streams {
    open: HashMap<u32, Stream>,
    last: u32,
}

#[derive(Debug)]
struct Stream {
    /// `None` once the client has finished.
    inbox: Option<InboxSender>,
    reset: CancellationToken,
    /// Whether the server has finished.
    finished: Arc<AtomicBool>,
}

impl Streams {
    /// Whether `id` is one that a client may open next.
    fn may_open(&self, id: u32) -> bool {
        id % 2 == 1 && id > self.last
    }

    fn full(&mut self) -> bool {
        if self.open.len() >= MAX_STREAMS {
            self.open.retain(|_, stream| stream.inbox.is_some() || !stream.finished.load(Ordering::Acquire));
        }
        self.open.len() >= MAX_STREAMS
    }

    fn open(&mut self, id: u32, inbox: InboxSender, reset: CancellationToken, finished: Arc<AtomicBool>) {
        self.last = id;
        self.open.insert(id, Stream { inbox: Some(inbox), reset, finished });
    }

    fn refused(&mut self, id: u32) {
        self.last = id;
    }

    /// Whether there ever was a stream `id`.
    fn knew(&self, id: u32) -> bool {
        id % 2 == 1 && id <= self.last
    }

    fn inbox(&self, id: u32) -> Option<InboxSender> {
        self.open.get(&id)?.inbox.clone()
    }

    fn client_finished(&mut self, id: u32) {
        if let Some(stream) = self.open.get_mut(&id) {
            stream.inbox = None;
            if stream.finished.load(Ordering::Acquire) {
                self.open.remove(&id);
            }
        }
    }

    fn client_reset(&mut self, id: u32) {
        if let Some(stream) = self.open.remove(&id) {
            if let Some(inbox) = stream.inbox {
                inbox.reset();
            }
            stream.reset.cancel();
        }
    }
}
