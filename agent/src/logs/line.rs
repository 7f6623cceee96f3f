//! One line in the CRI log format: `<RFC3339 time> stdout|stderr F|P <text>`.

use jiff::Timestamp;

/// A parsed line; a partial one (`P`) is continued by the next of its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub(super) time: &'a str,
    pub(super) partial: bool,
    /// Without the line break.
    pub(super) content: &'a [u8],
}

impl Line<'_> {
    pub(super) fn timestamp(&self) -> Option<Timestamp> {
        self.time.parse().ok()
    }
}

/// Parses a line; `None` for anything else.
pub(super) fn parse(raw: &[u8]) -> Option<Line<'_>> {
    let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
    let mut parts = raw.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = parts.next()?;
    if !matches!(stream, b"stdout" | b"stderr") {
        return None;
    }
    let tag = parts.next()?;
    Some(Line { time, partial: tag.first() == Some(&b'P'), content: parts.next().unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let line = parse(b"2026-01-01T00:00:00.5Z stdout P a b \n").expect("a line");
        assert!(line.partial && line.content == b"a b " && line.timestamp().is_some());
        assert_eq!(parse(b"2026-01-01T00:00:00Z stderr F\n").map(|l| l.content.len()), Some(0));
        assert_eq!(parse(b"junk\n"), None);
    }
}
