//! Container logs: `<folder>/<attempt>.log` in the CRI format, and rotated files beside it.

pub(crate) mod follow;
mod line;
pub(crate) mod rotate;

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The part of a log that is searched for its last lines; no line of a runtime is longer.
const TAIL: u64 = 64 << 10;

/// The last bytes of a file, which may be of any size: its writer is a container.
pub(crate) fn last_bytes(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    file.seek(SeekFrom::Start(meta.len().saturating_sub(max)))?;
    let mut bytes = Vec::new();
    file.take(max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The end of a log as plain text: at most this many lines and bytes.
pub(crate) fn tail(path: &Path, max_lines: usize, max_bytes: usize) -> io::Result<String> {
    let text = last_bytes(path, TAIL)?;
    let mut kept: Vec<&[u8]> =
        text.split_inclusive(|b| *b == b'\n').filter_map(line::parse).map(|l| l.content).collect();
    let skip = kept.len().saturating_sub(max_lines);
    kept.drain(..skip);
    let joined = kept.join(&b'\n');
    let cut = &joined[joined.len().saturating_sub(max_bytes)..];
    Ok(String::from_utf8_lossy(cut).into_owned())
}

/// The highest attempt that logged in this folder.
pub(crate) fn newest_attempt(folder: &Path) -> Option<u32> {
    let entries = fs::read_dir(folder).ok()?;
    let names = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    names.filter_map(|n| n.split_once(".log")?.0.parse().ok()).max()
}

/// The rotated files of `<attempt>.log`, oldest first.
pub(crate) fn rotated(current: &Path) -> Vec<PathBuf> {
    let (Some(folder), Some(name)) = (current.parent(), current.file_name()) else {
        return Vec::new();
    };
    let prefix = format!("{}.", name.to_string_lossy());
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> =
        entries.filter(|e| e.file_name().to_string_lossy().starts_with(&prefix)).map(|e| e.path()).collect();
    files.sort();
    files
}

/// Removes the files of one attempt.
pub(crate) fn remove_attempt(folder: &Path, attempt: u32) {
    let current = folder.join(format!("{attempt}.log"));
    for file in rotated(&current).iter().chain([&current]) {
        // Gone already is what we want; anything else is tried again when the pod goes.
        let _ = fs::remove_file(file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_and_tails() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(newest_attempt(dir.path()), None);
        let log = dir.path().join("3.log");
        fs::write(&log, "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:00Z stderr F two\n").expect("a log");
        fs::write(dir.path().join("2.log.20260101-000000"), "").expect("a log");
        assert_eq!(newest_attempt(dir.path()), Some(3));
        assert_eq!(tail(&log, 1, 100).expect("a tail"), "two");
        assert_eq!(tail(&log, 9, 5).expect("a tail"), "e\ntwo");
        // A sparse file of more bytes than there is memory.
        let file = fs::File::options().append(true).open(&log).expect("a log");
        file.set_len(1 << 42).expect("a length");
        assert_eq!(last_bytes(&log, 4096).expect("bytes"), [0; 4096]);
        assert_eq!(tail(&log, 9, 5).expect("a tail"), "");
        assert!(last_bytes(dir.path(), 1).is_err());
        remove_attempt(dir.path(), 2);
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1);
    }
}
