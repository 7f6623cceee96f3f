//! The ends of one stream inside the server: bytes from the client with a budget, bytes to the client by a queue.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::PollSender;

/// How many bytes a session keeps for backends that have not read them, over all its streams.
pub(super) const INBOUND_BUDGET: usize = 1024 * 1024;

/// What keeping one piece costs beside its bytes, so that a flood of tiny pieces is bounded too.
const PIECE_OVERHEAD: usize = 256;

/// How many pieces of at most [`MAX_PIECE`] bytes wait to be written to the client.
const OUTBOUND_QUEUE: usize = 16;

/// The largest piece that travels at once, in either direction.
pub(super) const MAX_PIECE: usize = 32 * 1024;

/// The number of a stream or channel within its session.
pub(super) type StreamId = u32;

#[derive(Debug)]
enum Item {
    Data(Bytes, OwnedSemaphorePermit),
    Reset,
}

/// The bytes that a session may keep.
#[derive(Debug, Clone)]
pub(super) struct Budget(Arc<Semaphore>);

impl Budget {
    pub(super) fn new() -> Budget {
        Budget(Arc::new(Semaphore::new(INBOUND_BUDGET)))
    }

    /// Both ends of a stream's way in.
    pub(super) fn pipe(&self) -> (InboxSender, Inbox) {
        let (items, received) = mpsc::unbounded_channel();
        (InboxSender { items, budget: self.clone() }, Inbox { received, current: None })
    }
}

/// The session's end of a stream's way in. Dropping it is end of file.
#[derive(Debug, Clone)]
pub(super) struct InboxSender {
    items: mpsc::UnboundedSender<Item>,
    budget: Budget,
}

impl InboxSender {
    /// Hands over `bytes`, once the budget allows. What nobody will read is forgotten.
    pub(super) async fn send(&self, bytes: Bytes) {
        if bytes.is_empty() || self.items.is_closed() {
            return;
        }
        let cost = (bytes.len() + PIECE_OVERHEAD).min(INBOUND_BUDGET) as u32;
        // The semaphore is never closed; a reader that has gone gives back what it held.
        if let Ok(permit) = Arc::clone(&self.budget.0).acquire_many_owned(cost).await {
            let _ = self.items.send(Item::Data(bytes, permit));
        }
    }

    /// Makes the reader fail, once it has read what came before.
    pub(super) fn reset(&self) {
        let _ = self.items.send(Item::Reset);
    }
}

/// The backend's end of a stream's way in.
#[derive(Debug)]
pub(super) struct Inbox {
    received: mpsc::UnboundedReceiver<Item>,
    current: Option<(Bytes, OwnedSemaphorePermit)>,
}

impl AsyncBufRead for Inbox {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        if this.current.is_none() {
            this.current = match ready!(this.received.poll_recv(cx)) {
                Some(Item::Data(bytes, permit)) => Some((bytes, permit)),
                Some(Item::Reset) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                None => None,
            };
        }
        Poll::Ready(Ok(this.current.as_ref().map_or(&[], |(bytes, _)| bytes)))
    }

    fn consume(self: Pin<&mut Self>, amount: usize) {
        let this = self.get_mut();
        if let Some((bytes, _)) = &mut this.current {
            bytes.advance(amount);
            if bytes.is_empty() {
                this.current = None;
            }
        }
    }
}

impl AsyncRead for Inbox {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let available = ready!(self.as_mut().poll_fill_buf(cx))?;
        let amount = available.len().min(into.remaining());
        into.put_slice(&available[..amount]);
        self.consume(amount);
        Poll::Ready(Ok(()))
    }
}

/// What a session is asked to write.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outgoing {
    Data(StreamId, Bytes),
    /// The end of a stream. SPDY has it; a WebSocket's channels end with the session.
    Finish(StreamId),
    /// The abrupt end of a stream, likewise.
    Reset(StreamId),
    /// The last of the session: all that came before is flushed, and the connection is closed.
    Close,
}

/// The way to a session's writer.
#[derive(Debug, Clone)]
pub(super) struct Outbound(mpsc::Sender<Outgoing>);

impl Outbound {
    pub(super) fn new() -> (Outbound, mpsc::Receiver<Outgoing>) {
        let (sender, receiver) = mpsc::channel(OUTBOUND_QUEUE);
        (Outbound(sender), receiver)
    }

    /// A stream's way out.
    pub(super) fn outbox(&self, id: StreamId) -> Outbox {
        Outbox { id, queue: PollSender::new(self.0.clone()), finished: Arc::new(AtomicBool::new(false)) }
    }

    /// Ends the session after all that was queued.
    pub(super) async fn close(&self) {
        // A session that has ended needs no closing.
        let _ = self.0.send(Outgoing::Close).await;
    }
}

/// A stream's way out: writing waits while the client does not read.
#[derive(Debug)]
pub(super) struct Outbox {
    id: StreamId,
    queue: PollSender<Outgoing>,
    finished: Arc<AtomicBool>,
}

impl Outbox {
    /// Ends the stream from elsewhere: the writer itself may be somebody else's by then.
    pub(super) fn finisher(&self) -> Outbox {
        Outbox { id: self.id, queue: self.queue.clone(), finished: Arc::clone(&self.finished) }
    }

    /// Whether the stream has ended in this direction.
    pub(super) fn finished(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.finished)
    }

    /// Ends the stream abruptly.
    pub(super) async fn reset(self) {
        if !self.finished.swap(true, Ordering::AcqRel)
            && let Some(queue) = self.queue.get_ref()
        {
            let _ = queue.send(Outgoing::Reset(self.id)).await;
        }
    }

    fn poll_reserve(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.queue.poll_reserve(cx).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn send(&mut self, item: Outgoing) -> io::Result<()> {
        self.queue.send_item(item).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl AsyncWrite for Outbox {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.finished.load(Ordering::Acquire) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(this.poll_reserve(cx))?;
        let amount = bytes.len().min(MAX_PIECE);
        let piece = Bytes::copy_from_slice(&bytes[..amount]);
        this.send(Outgoing::Data(this.id, piece))?;
        Poll::Ready(Ok(amount))
    }

    /// What is queued is written without asking.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.finished.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        ready!(this.poll_reserve(cx))?;
        if this.finished.swap(true, Ordering::AcqRel) {
            this.queue.abort_send();
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(this.send(Outgoing::Finish(this.id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn bytes_arrive_in_order_and_dropping_the_sender_is_the_end() {
        let (sender, mut inbox) = Budget::new().pipe();
        sender.send(Bytes::from_static(b"hello ")).await;
        sender.send(Bytes::from_static(b"world")).await;
        drop(sender);
        let mut read = String::new();
        inbox.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, "hello world");
    }

    #[tokio::test]
    async fn a_reset_comes_after_the_bytes_before_it() {
        let (sender, mut inbox) = Budget::new().pipe();
        sender.send(Bytes::from_static(b"x")).await;
        sender.reset();
        assert_eq!(inbox.read_u8().await.unwrap(), b'x');
        assert_eq!(inbox.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn the_budget_stops_the_sender_until_the_reader_reads() {
        let budget = Budget::new();
        let (sender, mut inbox) = budget.pipe();
        let mut sent = 0;
        let piece = Bytes::from(vec![0; MAX_PIECE]);
        while futures::FutureExt::now_or_never(sender.send(piece.clone())).is_some() {
            sent += MAX_PIECE;
        }
        assert!(sent < INBOUND_BUDGET && sent > INBOUND_BUDGET / 2, "{sent} bytes went in");
        let blocked = sender.send(piece);
        let mut into = vec![0; MAX_PIECE];
        let ((), read) = tokio::join!(blocked, inbox.read_exact(&mut into));
        read.unwrap();
    }

    #[tokio::test]
    async fn a_reader_that_goes_gives_its_budget_back() {
        let budget = Budget::new();
        let (sender, inbox) = budget.pipe();
        sender.send(Bytes::from(vec![0; MAX_PIECE])).await;
        drop(inbox);
        assert_eq!(budget.0.available_permits(), INBOUND_BUDGET);
        sender.send(Bytes::from(vec![0; MAX_PIECE])).await;
        assert_eq!(budget.0.available_permits(), INBOUND_BUDGET);
    }

    #[tokio::test]
    async fn a_stream_finishes_once_and_takes_nothing_after() {
        let (outbound, mut queue) = Outbound::new();
        let mut outbox = outbound.outbox(5);
        let mut finisher = outbox.finisher();
        outbox.write_all(b"x").await.unwrap();
        finisher.shutdown().await.unwrap();
        outbox.shutdown().await.unwrap();
        assert_eq!(outbox.write(b"y").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(queue.recv().await, Some(Outgoing::Data(5, Bytes::from_static(b"x"))));
        assert_eq!(queue.recv().await, Some(Outgoing::Finish(5)));
        assert!(queue.try_recv().is_err());
    }
}
