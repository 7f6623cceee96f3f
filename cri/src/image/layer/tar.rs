//! A reader of tar archives (POSIX.1-2017 pax, ustar, and the GNU extensions for long names and large numbers) that
//! bounds what it keeps in memory: names and pax records come from strangers.

use std::collections::BTreeMap;
use std::io::{self, Read};

use super::super::error::UnpackError;

const BLOCK: usize = 512;
/// Bytes of one extended header: a path has at most 4 KiB, a file's xattrs seldom 64 KiB.
const MAX_EXTENDED: u64 = 1 << 20;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    CharDevice { major: u64, minor: u64 },
    BlockDevice { major: u64, minor: u64 },
    Fifo,
}

/// The header of one entry. Names are bytes, exactly as written.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Bytes of content that follow.
    pub(crate) size: u64,
    /// Seconds and nanoseconds since 1970.
    pub(crate) mtime: (i64, i64),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads a tar entry by entry. Content that the caller left is skipped.
pub(crate) struct TarReader<R> {
    source: R,
    /// Content of the current entry not read yet, and the padding behind it.
    left: u64,
    padding: u64,
    position: u64,
    global: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What extended headers say about the entry that follows them.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl<R: Read> TarReader<R> {
    pub(crate) fn new(source: R) -> TarReader<R> {
        TarReader { source, left: 0, padding: 0, position: 0, global: BTreeMap::new() }
    }

    /// Where in the stream the current entry's unread content is.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The next entry, or None at the end of the archive.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, UnpackError> {
        let mut extended = Extended::default();
        loop {
            self.skip_content()?;
            let Some(block) = self.block()? else { return Ok(None) };
            check_sum(&block)?;
            let size = number(&block[124..136])?;
            match block[156] {
                b'x' => extended.pax.extend(records(&self.extension(size)?)?),
                b'g' => {
                    let global = records(&self.extension(size)?)?;
                    self.global.extend(global);
                    if self.global.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>() as u64 > MAX_EXTENDED {
                        return malformed("the global pax headers are too large");
                    }
                }
                b'L' => extended.path = Some(trim_nul(&self.extension(size)?).to_vec()),
                b'K' => extended.link = Some(trim_nul(&self.extension(size)?).to_vec()),
                _ => {
                    let entry = self.entry(&block, extended)?;
                    self.left = entry.size;
                    self.padding = padding(entry.size);
                    return Ok(Some(entry));
                }
            }
        }
    }

    fn entry(&self, block: &[u8; BLOCK], mut extended: Extended) -> Result<Entry, UnpackError> {
        for (key, value) in &self.global {
            extended.pax.entry(key.clone()).or_insert_with(|| value.clone());
        }
        let pax = &mut extended.pax;
        if pax.keys().any(|key| key.starts_with(b"GNU.sparse.")) || block[156] == b'S' {
            return malformed("it holds a sparse file, which is not supported");
        }
        let path = pax.remove(&b"path"[..]).or(extended.path).unwrap_or_else(|| ustar_path(block));
        let link =
            pax.remove(&b"linkpath"[..]).or(extended.link).unwrap_or_else(|| trim_nul(&block[157..257]).to_vec());
        let decimal = |key: &[u8], field: &[u8]| match pax.get(key) {
            Some(text) => parse(text),
            None => number(field),
        };
        let (size, uid, gid) = (
            decimal(b"size", &block[124..136])?,
            decimal(b"uid", &block[108..116])?,
            decimal(b"gid", &block[116..124])?,
        );
        let mtime = match pax.get(&b"mtime"[..]) {
            Some(text) => time(text)?,
            None => (signed(&block[136..148])?, 0),
        };
        let kind = kind(block, &path)?;
        // Links and special files have no content, whatever their header says (pax allows a size on hard links).
        let size = match kind {
            Kind::File => size,
            Kind::HardLink if pax.contains_key(&b"size"[..]) => size,
            _ => 0,
        };
        let xattrs = extended
            .pax
            .into_iter()
            .filter_map(|(key, value)| key.strip_prefix(b"SCHILY.xattr.").map(|name| (name.to_vec(), value)))
            .collect();
        let id = |n: u64| u32::try_from(n).or_else(|_| malformed("a uid or gid has more than 32 bits"));
        let mode = (number(&block[100..108])? & 0o7777) as u32;
        Ok(Entry { path, link, kind, mode, uid: id(uid)?, gid: id(gid)?, size, mtime, xattrs })
    }

    /// The next header block; None at the end, which is a zero block or the end of the stream.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, UnpackError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.source.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return malformed("it ends within a header"),
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(UnpackError::Read(error)),
            }
        }
        self.position += BLOCK as u64;
        Ok(block.iter().any(|b| *b != 0).then_some(block))
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, UnpackError> {
        if size > MAX_EXTENDED {
            return malformed("an extended header has more than 1 MiB");
        }
        let mut content = vec![0; size as usize];
        self.source.read_exact(&mut content).map_err(UnpackError::Read)?;
        self.position += size;
        self.padding = padding(size);
        Ok(content)
    }

    fn skip_content(&mut self) -> Result<(), UnpackError> {
        let skip = std::mem::take(&mut self.left).saturating_add(std::mem::take(&mut self.padding));
        let skipped = io::copy(&mut self.source.by_ref().take(skip), &mut io::sink()).map_err(UnpackError::Read)?;
        self.position += skipped;
        if skipped == skip { Ok(()) } else { malformed("it ends within an entry") }
    }
}

/// Reads the content of the current entry.
impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = buf.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let got = self.source.read(&mut buf[..want])?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= got as u64;
        self.position += got as u64;
        Ok(got)
    }
}

fn malformed<T>(reason: &'static str) -> Result<T, UnpackError> {
    Err(UnpackError::Malformed { reason })
}

fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

fn trim_nul(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or(field)
}

fn kind(block: &[u8; BLOCK], path: &[u8]) -> Result<Kind, UnpackError> {
    let device = || Ok((number(&block[329..337])?, number(&block[337..345])?));
    Ok(match block[156] {
        // Before POSIX a folder was a file whose name ends in a slash.
        0 | b'0' | b'7' if path.ends_with(b"/") => Kind::Directory,
        0 | b'0' | b'7' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => device().map(|(major, minor)| Kind::CharDevice { major, minor })?,
        b'4' => device().map(|(major, minor)| Kind::BlockDevice { major, minor })?,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        _ => return malformed("it holds an entry of an unknown type"),
    })
}

/// The name of a ustar header: a prefix and a name. GNU's format has other things where the prefix is.
fn ustar_path(block: &[u8; BLOCK]) -> Vec<u8> {
    let name = trim_nul(&block[..100]);
    let prefix = trim_nul(&block[345..500]);
    if &block[257..263] != b"ustar\0" || prefix.is_empty() {
        return name.to_vec();
    }
    [prefix, b"/", name].concat()
}

/// The sum of all bytes of the header, its own field counted as spaces. Old tars added signed bytes.
fn check_sum(block: &[u8; BLOCK]) -> Result<(), UnpackError> {
    let said = number(&block[148..156])?;
    let counted = block.iter().enumerate().map(|(at, b)| if (148..156).contains(&at) { b' ' } else { *b });
    let (mut unsigned, mut signed) = (0_u64, 0_i64);
    for byte in counted {
        unsigned += u64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    if said == unsigned || i64::try_from(said) == Ok(signed) {
        Ok(())
    } else {
        malformed("a header's checksum is wrong")
    }
}

/// A numeric field: octal digits, or GNU's big-endian binary when the first bit is set.
fn number(field: &[u8]) -> Result<u64, UnpackError> {
    u64::try_from(signed(field)?).or_else(|_| malformed("a number is negative"))
}

fn signed(field: &[u8]) -> Result<i64, UnpackError> {
    if field.first().is_some_and(|b| b & 0x80 != 0) {
        // The first byte is the mark (0x80), or the sign too (0xff).
        let negative = field[0] & 0x40 != 0;
        let fill: u8 = if negative { 0xff } else { 0 };
        let split = field.len().saturating_sub(8);
        let (high, low) = field.split_at(split);
        let spare = high.iter().skip(1).all(|b| *b == fill);
        let mut bytes = [fill; 8];
        bytes[8 - low.len()..].copy_from_slice(low);
        if high.is_empty() {
            bytes[0] = if negative { bytes[0] } else { bytes[0] & 0x7f };
        }
        let value = i64::from_be_bytes(bytes);
        return if spare && (value < 0) == negative { Ok(value) } else { malformed("a number has more than 63 bits") };
    }
    let text = field.split(|b| *b == 0).find(|part| !part.is_empty()).unwrap_or(b"").trim_ascii();
    let mut value: i64 = 0;
    for digit in text {
        if !(b'0'..=b'7').contains(digit) {
            return malformed("a number is not octal");
        }
        value = value * 8 + i64::from(digit - b'0');
    }
    Ok(value)
}

fn parse<T: std::str::FromStr>(text: &[u8]) -> Result<T, UnpackError> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|t| t.parse().ok())
        .map_or_else(|| malformed("a pax number is malformed"), Ok)
}

/// A pax time: decimal seconds with a fraction, perhaps negative.
fn time(text: &[u8]) -> Result<(i64, i64), UnpackError> {
    let mut parts = text.splitn(2, |b| *b == b'.');
    let whole = parts.next().unwrap_or_default();
    let seconds: i64 = parse(whole)?;
    let digits = parts.next().unwrap_or_default();
    let mut nanos = 0_i64;
    for at in 0..9 {
        nanos = nanos * 10 + digits.get(at).filter(|b| b.is_ascii_digit()).map_or(0, |b| i64::from(b - b'0'));
    }
    if whole.starts_with(b"-") && nanos > 0 {
        return Ok((seconds.saturating_sub(1), 1_000_000_000 - nanos));
    }
    Ok((seconds, nanos))
}

/// Pax records: `<length> <key>=<value>\n`, the length counting the whole record.
fn records(mut text: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, UnpackError> {
    let bad = || UnpackError::Malformed { reason: "a pax record is malformed" };
    let mut map = BTreeMap::new();
    while !text.is_empty() && text[0] != 0 {
        let space = text.iter().take(8).position(|b| *b == b' ').ok_or_else(bad)?;
        let length: usize = parse(&text[..space])?;
        let record = text.get(space + 1..length).ok_or_else(bad)?.strip_suffix(b"\n").ok_or_else(bad)?;
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
        map.insert(record[..equals].to_vec(), record[equals + 1..].to_vec());
        text = &text[length..];
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        builder.into_inner().unwrap()
    }

    fn header(size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o4755);
        header.set_uid(3_000_000);
        header.set_gid(7);
        header.set_size(size);
        header.set_mtime(1_000);
        header
    }

    #[test]
    fn long_names_large_numbers_and_pax_records_are_read() {
        let long = "d/".repeat(120) + "file";
        let bytes = archive(|builder| {
            builder.append_pax_extensions([("SCHILY.xattr.user.k", &b"v\n="[..]), ("mtime", b"-1.5")]).unwrap();
            builder.append_data(&mut header(3), &long, &b"abc"[..]).unwrap();
            builder.append_data(&mut header(0), "next", &b""[..]).unwrap();
        });
        let mut reader = TarReader::new(&bytes[..]);
        let entry = reader.next().unwrap().unwrap();
        assert_eq!(entry.path, long.as_bytes());
        assert_eq!((entry.mode, entry.uid, entry.gid, entry.size), (0o4755, 3_000_000, 7, 3));
        assert_eq!(entry.mtime, (-2, 500_000_000));
        assert_eq!(entry.xattrs, [(b"user.k".to_vec(), b"v\n=".to_vec())]);
        let at = reader.position() as usize;
        assert_eq!(&bytes[at..at + 3], b"abc");
        let mut content = Vec::new();
        reader.read_to_end(&mut content).unwrap();
        assert_eq!(content, b"abc");
        assert_eq!(reader.next().unwrap().unwrap().path, b"next");
        assert!(reader.next().unwrap().is_none());
    }

    #[test]
    fn damage_is_told() {
        let whole = archive(|builder| builder.append_data(&mut header(600), "f", &[1; 600][..]).unwrap());
        let first = |bytes: &[u8]| {
            let mut reader = TarReader::new(bytes);
            reader.next().and_then(|_| reader.next()).map(|_| ())
        };
        assert!(first(&whole).is_ok());
        assert!(first(&whole[..300]).is_err(), "cut in a header");
        assert!(first(&whole[..700]).is_err(), "cut in the content");
        let mut flipped = whole;
        flipped[0] ^= 1;
        assert!(first(&flipped).is_err(), "checksum");
    }

    #[test]
    fn an_endless_extended_header_is_refused() {
        let bytes = archive(|builder| {
            let mut long = tar::Header::new_gnu();
            long.set_entry_type(tar::EntryType::GNULongName);
            long.set_size(MAX_EXTENDED + 1);
            long.set_cksum();
            builder.append(&long, io::repeat(b'a').take(MAX_EXTENDED + 1)).unwrap();
        });
        assert!(matches!(TarReader::new(&bytes[..]).next(), Err(UnpackError::Malformed { .. })));
    }

    #[test]
    fn numbers_are_octal_or_binary() {
        assert_eq!(number(b"0000644\0").unwrap(), 0o644);
        assert_eq!(number(b"   644 \0").unwrap(), 0o644);
        assert_eq!(number(b"\x80\0\0\0\0\0\0\x01\0\0\0\0").unwrap(), 1 << 32);
        assert_eq!(signed(&[0xff; 12]).unwrap(), -1);
        assert_eq!(number(b"\x80\0\0\0\0\x2d\xc6\xc0").unwrap(), 3_000_000);
        assert!(number(b"12x").is_err() && number(&[0xff; 8]).is_err());
        assert!(number(b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff").is_err());
    }
}
