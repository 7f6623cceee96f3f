//! Header blocks: pairs of name and value, compressed in one stream for the whole session and direction.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::dictionary::DICTIONARY;
use super::frame::ProtocolError;

/// The longest compressed block that is read.
pub(super) const MAX_BLOCK: usize = 16 * 1024;

/// The longest that a block may become.
const MAX_DECOMPRESSED: usize = 64 * 1024;

/// Reads the client's header blocks. Every block must go through it, for the sake of the next one.
#[derive(Debug)]
pub(super) struct Decoder(Decompress);

impl Decoder {
    pub(super) fn new() -> Decoder {
        Decoder(Decompress::new(true))
    }

    pub(super) fn decode(&mut self, block: &[u8]) -> Result<Vec<(String, String)>, ProtocolError> {
        parse(&self.decompress(block)?).ok_or(ProtocolError::Headers)
    }

    fn decompress(&mut self, mut block: &[u8]) -> Result<Vec<u8>, ProtocolError> {
        let mut plain = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let (before_in, before_out) = (self.0.total_in(), self.0.total_out());
            let result = self.0.decompress(block, &mut chunk, FlushDecompress::Sync);
            block = &block[(self.0.total_in() - before_in) as usize..];
            let produced = (self.0.total_out() - before_out) as usize;
            match result {
                Ok(Status::StreamEnd) => return Err(ProtocolError::Headers),
                Ok(Status::Ok | Status::BufError) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&DICTIONARY)?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            plain.extend_from_slice(&chunk[..produced]);
            if plain.len() > MAX_DECOMPRESSED {
                return Err(ProtocolError::HeadersTooLong { limit: MAX_DECOMPRESSED });
            }
            // A chunk that was not filled means that there is no more to come of this block.
            if produced < chunk.len() && block.is_empty() {
                return Ok(plain);
            }
            if produced == 0 {
                return Err(ProtocolError::Headers);
            }
        }
    }
}

fn parse(mut plain: &[u8]) -> Option<Vec<(String, String)>> {
    let count = take_number(&mut plain)?;
    let mut headers = Vec::new();
    // Each takes eight bytes at least, so a count that lies runs out of bytes.
    for _ in 0..count {
        let name = take_text(&mut plain)?.to_ascii_lowercase();
        headers.push((name, take_text(&mut plain)?));
    }
    plain.is_empty().then_some(headers)
}

fn take_number(from: &mut &[u8]) -> Option<usize> {
    let (number, rest) = from.split_first_chunk::<4>()?;
    *from = rest;
    usize::try_from(u32::from_be_bytes(*number)).ok()
}

fn take_text(from: &mut &[u8]) -> Option<String> {
    let length = take_number(from)?;
    let (text, rest) = from.split_at_checked(length)?;
    *from = rest;
    String::from_utf8(text.to_vec()).ok()
}

/// Writes the server's header blocks, which are all empty: none of the protocols has a header in a reply.
#[derive(Debug)]
pub(super) struct Encoder(Compress);

impl Encoder {
    pub(super) fn new() -> Result<Encoder, ProtocolError> {
        let mut compress = Compress::new(Compression::fast(), true);
        compress.set_dictionary(&DICTIONARY)?;
        Ok(Encoder(compress))
    }

    /// The next block, without a header.
    pub(super) fn empty_block(&mut self) -> Result<Vec<u8>, ProtocolError> {
        let mut block = Vec::with_capacity(64);
        self.0.compress_vec(&0_u32.to_be_bytes(), &mut block, FlushCompress::Sync)?;
        Ok(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two blocks of one stream, as CPython's zlib compresses them with the dictionary:
    /// `zlib.compressobj(level=9, zdict=DICTIONARY)`, flushed by `Z_SYNC_FLUSH` after each.
    const FROM_ZLIB: [&str; 2] = [
        "78f9e3c6a7c202253a703a2b294a4dcc851625aca9a0808614cb45e01c6061606100a4398b20d198094ade8c0600000000ffff",
        "c2aa19540e2512d60b000000ffff",
    ];

    fn pairs(headers: &[(&str, &str)]) -> Vec<(String, String)> {
        headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn blocks_of_another_zlib_are_read_one_after_the_other() {
        let mut decoder = Decoder::new();
        let first = decoder.decode(&hex::decode(FROM_ZLIB[0]).unwrap()).unwrap();
        assert_eq!(first, pairs(&[("streamtype", "error"), ("port", "8080"), ("requestid", "0")]));
        let second = decoder.decode(&hex::decode(FROM_ZLIB[1]).unwrap()).unwrap();
        assert_eq!(second, pairs(&[("streamtype", "data"), ("port", "8080"), ("requestid", "0")]));
    }

    #[test]
    fn what_the_encoder_writes_the_decoder_reads() {
        let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::new());
        for _ in 0..3 {
            assert_eq!(decoder.decode(&encoder.empty_block().unwrap()).unwrap(), []);
        }
    }

    #[test]
    fn a_block_that_is_no_block_is_an_error() {
        assert!(Decoder::new().decode(b"").is_err());
        assert!(Decoder::new().decode(b"GET / HTTP/1.1").is_err());
        let whole = hex::decode(FROM_ZLIB[0]).unwrap();
        assert!(Decoder::new().decode(&whole[..whole.len() / 2]).is_err());
    }

    #[test]
    fn a_block_that_grows_without_measure_is_an_error() {
        let mut compress = Compress::new(Compression::best(), true);
        compress.set_dictionary(&DICTIONARY).unwrap();
        let mut bomb = Vec::with_capacity(MAX_BLOCK);
        compress.compress_vec(&vec![0; 10 * MAX_DECOMPRESSED], &mut bomb, FlushCompress::Sync).unwrap();
        let result = Decoder::new().decode(&bomb);
        assert!(matches!(result, Err(ProtocolError::HeadersTooLong { .. })), "{result:?}");
    }

    #[test]
    fn a_count_or_a_length_beyond_the_block_is_an_error() {
        assert_eq!(parse(&[0xff; 4]), None);
        assert_eq!(parse(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]), None);
        assert_eq!(parse(&[0, 0, 0, 0, 9]), None);
    }
}
