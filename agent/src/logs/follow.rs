//! Reading a container's log, and following it through rotations.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use orlop_proto::v1;
use tokio::sync::mpsc;

use super::line;
use crate::container::keys;
use crate::context::Context;

/// How often a followed file is looked at.
const POLL: Duration = Duration::from_millis(100);

/// What `kubectl logs` can ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) follow: bool,
    pub(crate) timestamps: bool,
    pub(crate) tail_lines: Option<usize>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) limit_bytes: Option<usize>,
}

/// Where a container of ours logs.
pub(crate) fn log_path(ctx: &Context, container: &v1::Container) -> Option<PathBuf> {
    let get = |key| container.labels.get(key).map(String::as_str);
    let folder = format!("{}_{}_{}", get(keys::POD_NAMESPACE)?, get(keys::POD_NAME)?, get(keys::POD_UID)?);
    let attempt = container.metadata.as_ref().map_or(0, |m| m.attempt);
    let root = ctx.config.pod_logs_dir.join(folder);
    Some(root.join(get(keys::CONTAINER_NAME)?).join(format!("{attempt}.log")))
}

/// Sends the log's text until its end; when following, until `running` says no and all is read.
pub(crate) async fn send<F>(
    path: &Path,
    options: &Options,
    out: &mpsc::Sender<io::Result<Bytes>>,
    running: impl Fn() -> F,
) -> io::Result<()>
where
    F: Future<Output = bool>,
{
    let mut printer = Printer { options, sent: 0, fresh: true };
    let mut current = File::open(path)?;
    // Rotated files come first: a log is all of them.
    let earlier: Vec<PathBuf> = super::rotated(path);
    let mut pending: Vec<File> = earlier.iter().filter_map(|p| File::open(p).ok()).collect();
    let inode = current.metadata()?.ino();
    pending.retain(|f| f.metadata().is_ok_and(|m| m.ino() != inode));
    let mut lines = Vec::new();
    for file in pending {
        read_lines(&mut BufReader::new(file), &mut lines)?;
    }
    let mut reader = BufReader::new(current.try_clone()?);
    let mut rest = read_lines(&mut reader, &mut lines)?;
    if let Some(since) = options.since {
        lines.retain(|l| line::parse(l).and_then(|l| l.timestamp()).is_none_or(|t| t >= since));
    }
    if let Some(count) = options.tail_lines {
        lines.drain(..tail_start(&lines, count));
    }
    loop {
        for raw in lines.drain(..) {
            if let Some(text) = printer.print(&raw)
                && out.send(Ok(text)).await.is_err()
            {
                return Ok(());
            }
            if printer.is_full() {
                return Ok(());
            }
        }
        if !options.follow {
            return Ok(());
        }
        // Asked before reading, so that what was written until the end is read after it.
        let alive = running().await;
        let moved = next_file(path, &current)?;
        seek_back(&mut reader, rest)?;
        rest = read_lines(&mut reader, &mut lines)?;
        if !lines.is_empty() {
            continue;
        }
        if let Some(next) = moved {
            // The old file was read to its end after the new one was there.
            reader = BufReader::new(next.try_clone()?);
            current = next;
            rest = 0;
            continue;
        }
        if !alive {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = out.closed() => return Ok(()),
        }
    }
}

/// The file that has the log's name now, if it is another one.
fn next_file(path: &Path, current: &File) -> io::Result<Option<File>> {
    let here = match fs::metadata(path) {
        Ok(meta) => meta,
        // Between the rename and the runtime's new file there is none.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let ours = current.metadata()?;
    if (here.dev(), here.ino()) == (ours.dev(), ours.ino()) {
        return Ok(None);
    }
    // Several rotations may have passed: the next is the oldest that is younger than ours.
    let rotated = super::rotated(path);
    let same = |p: &PathBuf| fs::metadata(p).is_ok_and(|m| (m.dev(), m.ino()) == (ours.dev(), ours.ino()));
    let after = rotated.iter().position(same).and_then(|i| rotated.get(i + 1));
    File::open(after.map_or(path, PathBuf::as_path)).map(Some)
}

/// Reads whole lines; returns how many bytes of an unfinished one were seen.
fn read_lines(reader: &mut BufReader<File>, lines: &mut Vec<Vec<u8>>) -> io::Result<u64> {
    loop {
        let mut raw = Vec::new();
        let read = reader.read_until(b'\n', &mut raw)?;
        if raw.last() != Some(&b'\n') {
            return Ok(read as u64);
        }
        lines.push(raw);
    }
}

fn seek_back(reader: &mut BufReader<File>, bytes: u64) -> io::Result<()> {
    if bytes > 0 {
        reader.seek(SeekFrom::Current(-(bytes as i64)))?;
    }
    Ok(())
}

/// Where the last `count` full lines begin.
fn tail_start(lines: &[Vec<u8>], count: usize) -> usize {
    let mut seen = 0;
    for (index, raw) in lines.iter().enumerate().rev() {
        if line::parse(raw).is_some_and(|l| !l.partial) {
            seen += 1;
            if seen > count {
                return index + 1;
            }
        }
    }
    0
}

/// Turns CRI lines into text.
struct Printer<'a> {
    options: &'a Options,
    sent: usize,
    /// The next text begins a line.
    fresh: bool,
}

impl Printer<'_> {
    fn print(&mut self, raw: &[u8]) -> Option<Bytes> {
        let line = line::parse(raw)?;
        let mut text = Vec::with_capacity(raw.len());
        if self.options.timestamps && self.fresh {
            text.extend_from_slice(line.time.as_bytes());
            text.push(b' ');
        }
        text.extend_from_slice(line.content);
        if !line.partial {
            text.push(b'\n');
        }
        self.fresh = !line.partial;
        if let Some(limit) = self.options.limit_bytes {
            text.truncate(limit.saturating_sub(self.sent));
        }
        self.sent += text.len();
        Some(Bytes::from(text))
    }

    fn is_full(&self) -> bool {
        self.options.limit_bytes.is_some_and(|limit| self.sent >= limit)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn stamp(text: &str) -> String {
        format!("2026-01-01T00:00:00Z stdout F {text}\n")
    }

    async fn read(path: &Path, options: Options) -> String {
        let (out, mut lines) = mpsc::channel(100);
        send(path, &options, &out, || std::future::ready(false)).await.expect("a log");
        drop(out);
        let mut text = Vec::new();
        while let Some(part) = lines.recv().await {
            text.extend_from_slice(&part.expect("a part"));
        }
        String::from_utf8(text).expect("text")
    }

    #[tokio::test]
    async fn tails_limits_and_partial_lines() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = dir.path().join("0.log");
        let partial = "2026-01-01T00:00:01Z stdout P b1\n2026-01-01T00:00:02Z stdout F b2\n";
        fs::write(&log, stamp("a") + partial + &stamp("c")).expect("a log");
        assert_eq!(read(&log, Options::default()).await, "a\nb1b2\nc\n");
        let tail = Options { tail_lines: Some(2), ..Options::default() };
        assert_eq!(read(&log, tail).await, "b1b2\nc\n");
        let limit = Options { limit_bytes: Some(3), ..Options::default() };
        assert_eq!(read(&log, limit).await, "a\nb");
        let since = Options { since: "2026-01-01T00:00:01Z".parse().ok(), timestamps: true, ..Options::default() };
        assert_eq!(read(&log, since).await, "2026-01-01T00:00:01Z b1b2\n");
    }

    #[tokio::test]
    async fn following_survives_rotation_with_every_line_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = dir.path().join("0.log");
        fs::write(&log, stamp("0")).expect("a log");
        let (out, mut lines) = mpsc::channel(1000);
        let alive = Arc::new(AtomicBool::new(true));
        let seen_alive = Arc::clone(&alive);
        let path = log.clone();
        let follower = tokio::spawn(async move {
            let options = Options { follow: true, ..Options::default() };
            send(&path, &options, &out, || std::future::ready(seen_alive.load(Ordering::SeqCst))).await
        });
        let first = lines.recv().await.expect("a line").expect("a part");
        assert_eq!(&first[..], b"0\n");
        let mut file = fs::OpenOptions::new().append(true).open(&log).expect("a log");
        for number in 1..=30 {
            if number % 10 == 0 {
                fs::rename(&log, dir.path().join(format!("0.log.{number}"))).expect("a rename");
                // The writer goes on in the old file until it opens the new one.
                file.write_all(stamp(&format!("{number}-old")).as_bytes()).expect("a write");
                file = File::create(&log).expect("a log");
            }
            file.write_all(stamp(&number.to_string()).as_bytes()).expect("a write");
        }
        alive.store(false, Ordering::SeqCst);
        follower.await.expect("the task").expect("a log");
        let mut got = Vec::new();
        while let Some(part) = lines.recv().await {
            got.push(String::from_utf8_lossy(&part.expect("a part")).trim_end().to_owned());
        }
        let mut expected = Vec::new();
        for number in 1..=30 {
            if number % 10 == 0 {
                expected.push(format!("{number}-old"));
            }
            expected.push(number.to_string());
        }
        assert_eq!(got, expected);
    }
}
