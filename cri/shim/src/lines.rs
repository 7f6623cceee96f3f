//! The CRI log format: `<RFC 3339 time> stdout|stderr F|P <text>`, one line each.

use crate::clock::STAMP;

/// A longer line is cut into partial ones (`P`) of this many bytes.
pub(crate) const LINE_LIMIT: usize = 16 * 1024;
/// `<stamp> stdout F `
pub(crate) const HEADER: usize = STAMP + 10;

/// Which of the two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Stdout,
    Stderr,
}

/// Turns output into log lines, collected in a buffer that `write` empties.
pub(crate) struct Batch<'a, W: FnMut(&[u8])> {
    header: [u8; HEADER],
    buffer: &'a mut [u8],
    used: usize,
    write: W,
}

impl<'a, W: FnMut(&[u8])> Batch<'a, W> {
    /// The buffer must hold a line of [`LINE_LIMIT`].
    pub(crate) fn new(stamp: &[u8; STAMP], source: Source, buffer: &'a mut [u8], write: W) -> Self {
        let mut header = *b"YYYY-MM-DDTHH:MM:SS.nnnnnnnnnZ stdout F ";
        header[..STAMP].copy_from_slice(stamp);
        if source == Source::Stderr {
            header[STAMP + 1..STAMP + 7].copy_from_slice(b"stderr");
        }
        Batch { header, buffer, used: 0, write }
    }

    /// Writes all whole lines of `data`, and what of an unfinished one is over the limit.
    /// How many bytes that took; the rest is to be given again with what follows it.
    pub(crate) fn whole_lines(&mut self, data: &[u8]) -> usize {
        let mut done = 0;
        loop {
            let rest = &data[done..];
            let window = &rest[..rest.len().min(LINE_LIMIT + 1)];
            if let Some(end) = memchr::memchr(b'\n', window) {
                self.push(b'F', &rest[..end]);
                done += end + 1;
            } else if rest.len() > LINE_LIMIT {
                self.push(b'P', &rest[..LINE_LIMIT]);
                done += LINE_LIMIT;
            } else {
                return done;
            }
        }
    }

    /// Writes the last line of an output that ended without a newline.
    pub(crate) fn last_line(&mut self, rest: &[u8]) {
        if !rest.is_empty() {
            self.push(b'F', rest);
        }
    }

    /// Hands what is collected to `write`.
    pub(crate) fn flush(&mut self) {
        if self.used > 0 {
            (self.write)(&self.buffer[..self.used]);
            self.used = 0;
        }
    }

    fn push(&mut self, tag: u8, text: &[u8]) {
        if self.used + HEADER + text.len() + 1 > self.buffer.len() {
            self.flush();
        }
        self.header[HEADER - 2] = tag;
        for part in [&self.header[..], text, b"\n"] {
            self.buffer[self.used..self.used + part.len()].copy_from_slice(part);
            self.used += part.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &[u8; STAMP] = b"2026-11-21T01:02:03.000000004Z";

    /// Feeds `data` in pieces of `step` bytes, as a relay does.
    fn log(data: &[u8], step: usize, buffer: usize) -> Vec<String> {
        let mut written = Vec::new();
        let mut carry = Vec::new();
        let mut buffer = vec![0; buffer];
        for piece in data.chunks(step) {
            carry.extend_from_slice(piece);
            let mut batch = Batch::new(NOW, Source::Stderr, &mut buffer, |lines| written.extend_from_slice(lines));
            let done = batch.whole_lines(&carry);
            batch.flush();
            carry.drain(..done);
            assert!(carry.len() <= LINE_LIMIT);
        }
        let mut batch = Batch::new(NOW, Source::Stderr, &mut buffer, |lines| written.extend_from_slice(lines));
        batch.last_line(&carry);
        batch.flush();
        let text = String::from_utf8(written).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
        let prefix = "2026-11-21T01:02:03.000000004Z stderr ";
        text.split_terminator('\n').map(|line| line.strip_prefix(prefix).unwrap().to_owned()).collect()
    }

    #[test]
    fn lines_whatever_the_pieces() {
        for step in [1, 2, 7, 1000] {
            assert_eq!(log(b"one\n\ntwo\r\nthree", step, 20_000), ["F one", "F ", "F two\r", "F three"]);
        }
        assert!(log(b"", 1, 20_000).is_empty());
    }

    #[test]
    fn long_lines_are_cut() {
        let line = "x".repeat(LINE_LIMIT);
        for step in [1000, 4096, LINE_LIMIT, 100_000] {
            assert_eq!(log(format!("{line}\n").as_bytes(), step, 20_000), [format!("F {line}")]);
            assert_eq!(log(format!("{line}y\n").as_bytes(), step, 20_000), [format!("P {line}"), "F y".into()]);
            assert_eq!(
                log(format!("{line}{line}{line}").as_bytes(), step, 100_000),
                [format!("P {line}"), format!("P {line}"), format!("F {line}")]
            );
        }
    }

    #[test]
    fn a_small_buffer_is_emptied_in_time() {
        let many = (0..5000).map(|n| n.to_string()).collect::<Vec<_>>().join("\n");
        let expected: Vec<String> = (0..5000).map(|n| format!("F {n}")).collect();
        assert_eq!(log(many.as_bytes(), 3000, HEADER + LINE_LIMIT + 1), expected);
    }
}
