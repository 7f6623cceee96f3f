//! The pipe between a download, which is async, and the thread that hashes and unpacks it, which is not.

use std::io::{self, Read};
use std::path::Path;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{mpsc, watch};

use super::error::Error;
use super::types::Progress;

/// Pieces in flight between the two sides.
const DEPTH: usize = 16;
/// Bytes read from a file at a time.
const PIECE: usize = 64 << 10;

/// The writing side. Dropped before [`Feed::end`], it makes the reading side fail: the work was cancelled.
#[derive(Debug)]
pub(crate) struct Feed {
    pipe: mpsc::Sender<Bytes>,
    progress: Option<watch::Sender<Progress>>,
}

/// The reading side, for a thread that may block.
#[derive(Debug)]
pub(crate) struct FeedReader {
    pipe: mpsc::Receiver<Bytes>,
    piece: Bytes,
    ended: bool,
}

pub(crate) fn feed(progress: Option<watch::Sender<Progress>>) -> (Feed, FeedReader) {
    let (sender, receiver) = mpsc::channel(DEPTH);
    (Feed { pipe: sender, progress }, FeedReader { pipe: receiver, piece: Bytes::new(), ended: false })
}

impl Feed {
    /// Passes bytes on. False when the reader has gone, which has its reason.
    pub(crate) async fn push(&self, bytes: Bytes) -> bool {
        if bytes.is_empty() {
            return true;
        }
        let count = bytes.len() as u64;
        let passed = self.pipe.send(bytes).await.is_ok();
        if let Some(progress) = &self.progress {
            progress.send_modify(|p| p.bytes_done += count);
        }
        passed
    }

    /// Passes a whole file on.
    pub(crate) async fn file(&self, path: &Path) -> Result<(), Error> {
        let file = tokio::fs::File::open(path).await.map_err(Error::io("open", path))?;
        self.copy(file, path).await
    }

    /// Passes on all that a reader has; `path` is what to call it in an error.
    pub(crate) async fn copy(&self, mut source: impl AsyncRead + Unpin, path: &Path) -> Result<(), Error> {
        loop {
            let mut piece = BytesMut::with_capacity(PIECE);
            if source.read_buf(&mut piece).await.map_err(Error::io("read", path))? == 0 {
                return Ok(());
            }
            if !self.push(piece.freeze()).await {
                return Err(Error::Cancelled);
            }
        }
    }

    /// Passes on all that a reader has, from a thread that may block, and ends. A reader that has gone ends it early.
    pub(crate) fn copy_from(self, source: &mut impl Read) -> io::Result<()> {
        loop {
            let mut piece = BytesMut::zeroed(PIECE);
            let count = source.read(&mut piece)?;
            piece.truncate(count);
            if self.pipe.blocking_send(piece.freeze()).is_err() || count == 0 {
                return Ok(());
            }
        }
    }

    /// Says that all was passed on: an empty piece.
    pub(crate) async fn end(self) {
        // A reader that has gone needs no telling.
        let _ = self.pipe.send(Bytes::new()).await;
    }
}

impl Read for FeedReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() && !self.ended {
            self.piece = self.pipe.blocking_recv().ok_or(io::ErrorKind::ConnectionAborted)?;
            self.ended = self.piece.is_empty();
        }
        let count = buf.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buf[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_fed_is_read_and_a_dropped_feed_is_no_end() {
        let (writer, mut reader) = feed(None);
        let thread = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        assert!(writer.push(Bytes::from_static(b"ab")).await && writer.push(Bytes::from_static(b"c")).await);
        writer.end().await;
        assert_eq!(thread.await.unwrap().unwrap(), "abc");

        let (writer, mut reader) = feed(None);
        drop(writer);
        let read = tokio::task::spawn_blocking(move || reader.read(&mut [0; 8]));
        assert!(read.await.unwrap().is_err());
    }
}
