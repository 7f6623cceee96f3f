//! Reading a container's log, and following it through rotations.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
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

/// How much is read at a time.
const BATCH: usize = 64 << 10;
/// No runtime writes longer lines; what is longer is taken for more than one.
const MAX_LINE: u64 = 1 << 20;

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
    let (path, tail_lines) = (path.to_owned(), options.tail_lines);
    let mut reader = blocking(move || Reader::open(path, tail_lines)).await?;
    let mut since = options.since;
    let mut alive = true;
    loop {
        let lines;
        (reader, lines) = blocking(move || reader.lines().map(|lines| (reader, lines))).await?;
        for raw in &lines {
            if let Some(start) = since
                && line::parse(raw).and_then(|l| l.timestamp()).is_some_and(|t| t < start)
            {
                continue;
            }
            if let Some(text) = printer.print(raw)
                && out.send(Ok(text)).await.is_err()
            {
                return Ok(());
            }
            if printer.is_full() {
                return Ok(());
            }
        }
        if !lines.is_empty() {
            continue;
        }
        // What comes from now on is new by itself.
        since = None;
        if !options.follow || !alive {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = out.closed() => return Ok(()),
        }
        // Asked before reading, so that what was written until the end is read after it.
        alive = running().await;
    }
}

/// Runs work on the disk where it holds up nothing else.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// A log of which one file is read at a time: rotated ones first, for a log is all of them.
struct Reader {
    path: PathBuf,
    file: BufReader<File>,
}

impl Reader {
    /// At the beginning of the log, or of its last lines.
    fn open(path: PathBuf, tail_lines: Option<usize>) -> io::Result<Self> {
        let mut files = Vec::new();
        for name in super::rotated(&path).iter().chain([&path]) {
            match File::open(name) {
                // Rotation goes on meanwhile.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                file => files.push(file?),
            }
        }
        let mut wanted = tail_lines;
        for mut file in files.iter().rev() {
            let Some(count) = &mut wanted else { break };
            if let Some(start) = tail_start(file, count)? {
                file.seek(SeekFrom::Start(start))?;
                return Ok(Self { path, file: BufReader::new(file.try_clone()?) });
            }
        }
        let mut oldest = files.into_iter().next().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        oldest.rewind()?;
        Ok(Self { path, file: BufReader::new(oldest) })
    }

    /// The next whole lines, some of many; none at what is the log's end now.
    fn lines(&mut self) -> io::Result<Vec<Vec<u8>>> {
        loop {
            // Looked for before reading: the old file is read to its end after the new one was there.
            let next = next_file(&self.path, self.file.get_ref())?;
            let lines = read_lines(&mut self.file)?;
            match next {
                Some(next) if lines.is_empty() => self.file = BufReader::new(next),
                _ => return Ok(lines),
            }
        }
    }
}

/// The file after this one, if it is not the one that has the log's name now.
fn next_file(path: &Path, current: &File) -> io::Result<Option<File>> {
    let here = match fs::metadata(path) {
        Ok(meta) => Some(meta),
        // Between the rename and the runtime's new file there is none.
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    let ours = current.metadata()?;
    let is_ours = |m: &fs::Metadata| (m.dev(), m.ino()) == (ours.dev(), ours.ino());
    if here.as_ref().is_some_and(is_ours) {
        return Ok(None);
    }
    let rotated = super::rotated(path);
    // A file that is not there any more was older than all that are.
    let after = rotated.iter().position(|p| fs::metadata(p).is_ok_and(|m| is_ours(&m))).map_or(0, |i| i + 1);
    for name in rotated[after..].iter().map(PathBuf::as_path).chain([path]) {
        match File::open(name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            file => return file.map(Some),
        }
    }
    Ok(None)
}

/// Reads whole lines, until there are enough for now; an unfinished one is left for the next time.
fn read_lines(reader: &mut BufReader<File>) -> io::Result<Vec<Vec<u8>>> {
    let mut lines = Vec::new();
    let mut bytes = 0;
    while bytes < BATCH {
        let mut raw = Vec::new();
        let read = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut raw)?;
        if raw.last() != Some(&b'\n') && (read as u64) < MAX_LINE {
            reader.seek(SeekFrom::Current(-(read as i64)))?;
            break;
        }
        bytes += read;
        lines.push(raw);
    }
    Ok(lines)
}

/// Where the last `count` full lines of a file begin; `None`, with `count` lowered, if it has not so many.
fn tail_start(file: &File, count: &mut usize) -> io::Result<Option<u64>> {
    let mut at = file.metadata()?.len();
    // What was read from `at` on, up to the end of a line.
    let mut text = Vec::new();
    while at > 0 {
        let size = at.min(BATCH as u64);
        at -= size;
        let mut block = vec![0; size as usize];
        file.read_exact_at(&mut block, at)?;
        block.append(&mut text);
        text = block;
        while let Some(end) = text[..text.len().saturating_sub(1)].iter().rposition(|b| *b == b'\n') {
            if is_full(&text[end + 1..]) {
                if *count == 0 {
                    return Ok(Some(at + text.len() as u64));
                }
                *count -= 1;
            }
            text.truncate(end + 1);
        }
        if text.len() as u64 > MAX_LINE {
            text.clear();
        }
    }
    if is_full(&text) {
        if *count == 0 {
            return Ok(Some(text.len() as u64));
        }
        *count -= 1;
    }
    Ok(None)
}

fn is_full(raw: &[u8]) -> bool {
    raw.last() == Some(&b'\n') && line::parse(raw).is_some_and(|l| !l.partial)
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
        let path = path.to_owned();
        let sender = tokio::spawn(async move {
            send(&path, &options, &out, || std::future::ready(false)).await.expect("a log");
        });
        let mut text = Vec::new();
        while let Some(part) = lines.recv().await {
            text.extend_from_slice(&part.expect("a part"));
        }
        sender.await.expect("the sender");
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
    async fn tails_reach_back_through_blocks_and_rotated_files() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = dir.path().join("0.log");
        let all: Vec<String> = (0..9000).map(|n| format!("{n} {}", "x".repeat(n % 50))).collect();
        let text = |part: &[String]| part.iter().map(|l| stamp(l)).collect::<String>();
        fs::write(dir.path().join("0.log.1"), text(&all[..4000])).expect("a log");
        fs::write(dir.path().join("0.log.2"), text(&all[4000..8000])).expect("a log");
        let unfinished = "2026-01-01T00:00:00Z stdout F unfin";
        fs::write(&log, text(&all[8000..]) + unfinished).expect("a log");
        for count in [0, 1, 999, 1000, 1001, 4999, 5000, 5001, 8999, 9000, 20_000] {
            let lines = &all[all.len().saturating_sub(count)..];
            let expected: String = lines.iter().flat_map(|l| [l.as_str(), "\n"]).collect();
            let options = Options { tail_lines: Some(count), ..Options::default() };
            assert!(read(&log, options).await == expected, "the last {count} lines");
        }
        // Killed between the rename and the new file, a rotation leaves none of the log's name.
        fs::remove_file(&log).expect("the log");
        let last = Options { tail_lines: Some(1), ..Options::default() };
        assert_eq!(read(&log, last).await, format!("{}\n", all[7999]));
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
