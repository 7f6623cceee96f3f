//! A SPDY/3.1 client, written for these tests alone: it shares nothing with the server.

use std::io;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const DICTIONARY: &[u8] = include_bytes!("spdy3-dictionary.bin");

/// What the server sends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Reply { id: u32 },
    Data { id: u32, bytes: Vec<u8>, last: bool },
    Reset { id: u32, status: u32 },
    Ping { id: u32 },
}

/// The client's way out.
pub(crate) struct Sender<W> {
    output: W,
    compress: Compress,
    next_id: u32,
}

/// The client's way in.
pub(crate) struct Receiver<R> {
    input: R,
    decompress: Decompress,
    primed: bool,
}

pub(crate) fn client<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(input: R, output: W) -> (Sender<W>, Receiver<R>) {
    let mut compress = Compress::new(Compression::default(), true);
    compress.set_dictionary(DICTIONARY).expect("the dictionary is good");
    let sender = Sender { output, compress, next_id: 1 };
    (sender, Receiver { input, decompress: Decompress::new(true), primed: false })
}

impl<W: AsyncWrite + Unpin> Sender<W> {
    async fn control(&mut self, kind: u8, flags: u8, body: &[u8]) -> io::Result<()> {
        let mut frame = vec![0x80, 3, 0, kind];
        frame.extend((u32::from(flags) << 24 | body.len() as u32).to_be_bytes());
        frame.extend(body);
        self.output.write_all(&frame).await?;
        self.output.flush().await
    }

    /// Opens a stream and returns its number.
    pub(crate) async fn open(&mut self, headers: &[(&str, &str)]) -> io::Result<u32> {
        let id = self.next_id;
        self.next_id += 2;
        let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend((text.len() as u32).to_be_bytes());
            plain.extend(text.as_bytes());
        }
        let mut block = Vec::with_capacity(plain.len() + 256);
        self.compress.compress_vec(&plain, &mut block, FlushCompress::Sync).map_err(io::Error::other)?;
        let mut body = id.to_be_bytes().to_vec();
        body.extend([0; 6]);
        body.extend(block);
        self.control(1, 0, &body).await?;
        Ok(id)
    }

    pub(crate) async fn data(&mut self, id: u32, bytes: &[u8], last: bool) -> io::Result<()> {
        let mut header = id.to_be_bytes().to_vec();
        header.extend((u32::from(last) << 24 | bytes.len() as u32).to_be_bytes());
        self.output.write_all(&header).await?;
        self.output.write_all(bytes).await?;
        self.output.flush().await
    }

    pub(crate) async fn reset(&mut self, id: u32) -> io::Result<()> {
        let mut body = id.to_be_bytes().to_vec();
        body.extend(5_u32.to_be_bytes());
        self.control(3, 0, &body).await
    }

    pub(crate) async fn ping(&mut self, id: u32) -> io::Result<()> {
        self.control(6, 0, &id.to_be_bytes()).await
    }

    /// SETTINGS, WINDOW_UPDATE, a HEADERS-free NOOP and a frame of a kind that nobody knows.
    pub(crate) async fn noise(&mut self) -> io::Result<()> {
        self.control(4, 0, &[0, 0, 0, 1, 0, 0, 0, 7, 0, 1, 0, 0]).await?;
        self.control(9, 0, &[0, 0, 0, 1, 0, 1, 0, 0]).await?;
        self.control(200, 0, b"whatever").await
    }
}

impl<R: AsyncRead + Unpin> Receiver<R> {
    /// The next frame; `None` when the server has closed.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Frame>> {
        let mut header = [0; 8];
        match self.input.read_exact(&mut header).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let first = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        let length = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
        let mut body = vec![0; length];
        self.input.read_exact(&mut body).await?;
        if first & 0x8000_0000 == 0 {
            return Ok(Some(Frame::Data { id: first, bytes: body, last: header[4] & 1 == 1 }));
        }
        assert_eq!(first >> 16, 0x8003, "a control frame of version 3");
        let number = |at: usize| u32::from_be_bytes([body[at], body[at + 1], body[at + 2], body[at + 3]]);
        Ok(Some(match first & 0xffff {
            2 => {
                let id = number(0);
                assert_eq!(self.inflate(&body[4..])?, [0; 4], "a reply without headers");
                Frame::Reply { id }
            }
            3 => Frame::Reset { id: number(0), status: number(4) },
            6 => Frame::Ping { id: number(0) },
            kind => return Err(io::Error::other(format!("a frame of kind {kind}"))),
        }))
    }

    fn inflate(&mut self, block: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::with_capacity(1024);
        let mut block = block;
        if !self.primed {
            let error = self.decompress.decompress_vec(block, &mut plain, FlushDecompress::Sync).unwrap_err();
            assert_eq!(error.needs_dictionary(), Some(0xe3c6_a7c2), "{error}");
            block = &block[self.decompress.total_in() as usize..];
            self.decompress.set_dictionary(DICTIONARY).map_err(io::Error::other)?;
            self.primed = true;
        }
        self.decompress.decompress_vec(block, &mut plain, FlushDecompress::Sync).map_err(io::Error::other)?;
        Ok(plain)
    }
}
