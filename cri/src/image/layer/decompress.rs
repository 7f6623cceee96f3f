//! Layer compression, told by the first bytes: media types lie, and the diff id decides in the end anyway.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;

/// A reader of the plain tar within a gzip, zstd or uncompressed stream.
pub(crate) enum Decompressor<R: BufRead> {
    Plain(R),
    Gzip(Box<MultiGzDecoder<R>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, R>>),
}

impl<R: BufRead> Decompressor<R> {
    pub(crate) fn new(mut source: R) -> io::Result<Decompressor<R>> {
        // A frame of zstd may be preceded by skippable frames (0x184D2A50 to 5F): RFC 8878, section 3.1.2.
        match *source.fill_buf()? {
            [0x1f, 0x8b, ..] => Ok(Decompressor::Gzip(Box::new(MultiGzDecoder::new(source)))),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                Ok(Decompressor::Zstd(Box::new(zstd::stream::read::Decoder::with_buffer(source)?)))
            }
            _ => Ok(Decompressor::Plain(source)),
        }
    }

    /// Gives back what was read from, to read what follows the compressed stream.
    pub(crate) fn into_inner(self) -> R {
        match self {
            Decompressor::Plain(source) => source,
            Decompressor::Gzip(decoder) => decoder.into_inner(),
            Decompressor::Zstd(decoder) => decoder.finish(),
        }
    }
}

impl<R: BufRead> Read for Decompressor<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Decompressor::Plain(source) => source.read(buf),
            Decompressor::Gzip(decoder) => decoder.read(buf),
            Decompressor::Zstd(decoder) => decoder.read(buf),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Decompressor::new(bytes).unwrap().read_to_end(&mut out).unwrap();
        out
    }

    #[test]
    fn each_compression_is_recognised() {
        assert_eq!(read(b"plain"), b"plain");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"one").unwrap();
        let mut members = gzip.finish().unwrap();
        members.extend(members.clone());
        assert_eq!(read(&members), b"oneone");
        let frame = zstd::encode_all(&b"two"[..], 1).unwrap();
        assert_eq!(read(&frame), b"two");
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9][..], &frame].concat();
        assert_eq!(read(&skippable), b"two");
    }
}
