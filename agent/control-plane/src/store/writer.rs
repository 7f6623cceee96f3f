//! The one thread that changes anything: it checks each write against the newest state, numbers it, commits as
//! many as are waiting in one transaction, and only then publishes and answers.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::oneshot;

use super::cache::Cache;
use super::{Backend, Error, Key, Row};

/// Writes in one transaction at most.
const BATCH: usize = 256;
/// Revisions reserved at a time: a crash skips at most so many, and none is ever given out twice.
const RESERVE: u64 = 1_000_000;

/// When a change must be on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Before the answer.
    Full,
    /// Within seconds: events, whose loss in a power cut is no harm.
    Relaxed,
    /// Within minutes and at shutdown: heartbeats, which are made again anyway and would wear flash out.
    Heartbeat,
}

impl Durability {
    fn delay(self) -> Duration {
        match self {
            Self::Full => Duration::ZERO,
            Self::Relaxed => Duration::from_secs(5),
            Self::Heartbeat => Duration::from_mins(10),
        }
    }
}

/// What must be true of the present object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expect {
    /// There is none.
    Absent,
    /// There is none, and the object that it is to live in is there and not being deleted.
    AbsentWithin(Key),
    /// It has this resourceVersion.
    Revision(u64),
}

/// A change.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) key: Key,
    pub(crate) expect: Expect,
    /// The new object, whose resourceVersion will be set; none deletes.
    pub(crate) value: Option<Value>,
    pub(crate) durability: Durability,
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error("there is such an object already")]
    Exists,
    #[error("there is no such object")]
    Missing,
    #[error("what the object is to live in is gone or going")]
    Ending,
    #[error("the object has changed")]
    Changed,
    #[error("storing failed: {0}")]
    Storage(String),
    #[error("the store is closed")]
    Closed,
}

enum Message {
    Write(Write, oneshot::Sender<Result<Arc<Value>, WriteError>>),
    Close(oneshot::Sender<()>),
}

/// Sends writes to the thread.
#[derive(Debug, Clone)]
pub(super) struct Handle(Sender<Message>);

impl Handle {
    pub(super) async fn write(&self, write: Write) -> Result<Arc<Value>, WriteError> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Message::Write(write, answer)).map_err(|_| WriteError::Closed)?;
        answered.await.map_err(|_| WriteError::Closed)?
    }

    pub(super) async fn close(&self) {
        let (answer, answered) = oneshot::channel();
        if self.0.send(Message::Close(answer)).is_ok() {
            // An error means that the thread is gone, which is what was wanted.
            let _ = answered.await;
        }
    }
}

pub(super) fn start(backend: Box<dyn Backend>, cache: Arc<RwLock<Cache>>) -> Result<Handle, Error> {
    let (sender, receiver) = channel();
    let revision = cache.read().unwrap_or_else(PoisonError::into_inner).revision;
    let mut writer = Writer { backend, cache, revision, ceiling: revision, deferred: BTreeMap::new() };
    writer.reserve()?;
    std::thread::Builder::new()
        .name("store-writer".into())
        .spawn(move || writer.run(&receiver))
        .map_err(Error::Thread)?;
    Ok(Handle(sender))
}

struct Deferred {
    row: Row,
    due: Instant,
}

/// A write that passed its checks and has its number.
struct Staged {
    key: Key,
    revision: u64,
    value: Arc<Value>,
    deleted: bool,
    durability: Durability,
    answer: oneshot::Sender<Result<Arc<Value>, WriteError>>,
}

/// What the writes of a batch that are staged already leave of each object.
type Staging = HashMap<Key, Option<Arc<Value>>>;

struct Writer {
    backend: Box<dyn Backend>,
    cache: Arc<RwLock<Cache>>,
    revision: u64,
    ceiling: u64,
    deferred: BTreeMap<String, Deferred>,
}

impl Writer {
    fn run(&mut self, receiver: &Receiver<Message>) {
        loop {
            let first = match self.deferred.values().map(|d| d.due).min() {
                None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => receiver.recv_timeout(due.saturating_duration_since(Instant::now())),
            };
            match first {
                Ok(message) => {
                    let mut messages = vec![message];
                    messages.extend(receiver.try_iter().take(BATCH - 1));
                    if let Some(closed) = self.process(messages) {
                        self.flush(true);
                        // The closer may have gone away; the work is done either way.
                        let _ = closed.send(());
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.flush(false),
                Err(RecvTimeoutError::Disconnected) => {
                    self.flush(true);
                    return;
                }
            }
        }
    }

    /// Handles what has arrived; returns the closer if one asked to stop.
    fn process(&mut self, messages: Vec<Message>) -> Option<oneshot::Sender<()>> {
        let mut staged: Vec<Staged> = Vec::with_capacity(messages.len());
        let mut newest = Staging::new();
        let mut closed = None;
        for message in messages {
            match message {
                Message::Close(answer) => closed = Some(answer),
                Message::Write(write, answer) => match self.stage(write, &mut newest) {
                    Ok((key, revision, value, deleted, durability)) => {
                        staged.push(Staged { key, revision, value, deleted, durability, answer });
                    }
                    // Whoever asked may be gone (a closed connection); so be it, here and below.
                    Err(error) => drop(answer.send(Err(error))),
                },
            }
        }
        if !staged.is_empty() {
            self.commit(staged);
        }
        closed
    }

    fn stage(
        &mut self,
        write: Write,
        newest: &mut Staging,
    ) -> Result<(Key, u64, Arc<Value>, bool, Durability), WriteError> {
        let cache = self.cache.read().unwrap_or_else(PoisonError::into_inner);
        // As it will be when the writes before this one are done.
        let newest_of = |key: &Key| newest.get(key).cloned().unwrap_or_else(|| cache.get(key));
        let present = newest_of(&write.key);
        if let Expect::AbsentWithin(home) = &write.expect
            && newest_of(home).is_none_or(|home| !home["metadata"]["deletionTimestamp"].is_null())
        {
            return Err(WriteError::Ending);
        }
        drop(cache);
        match (&write.expect, present.as_deref().map(revision_of)) {
            (Expect::Absent | Expect::AbsentWithin(_), Some(_)) => return Err(WriteError::Exists),
            (Expect::Revision(_), None) => return Err(WriteError::Missing),
            (Expect::Revision(expected), Some(found)) if *expected != found => return Err(WriteError::Changed),
            _ => {}
        }
        let deleted = write.value.is_none();
        let Some(mut value) = write.value.or_else(|| present.as_deref().cloned()) else {
            return Err(WriteError::Missing);
        };
        self.revision += 1;
        value["metadata"]["resourceVersion"] = Value::String(self.revision.to_string());
        let value = Arc::new(value);
        newest.insert(write.key.clone(), (!deleted).then(|| Arc::clone(&value)));
        Ok((write.key, self.revision, value, deleted, write.durability))
    }

    fn commit(&mut self, staged: Vec<Staged>) {
        let now = Instant::now();
        let mut rows = Vec::new();
        let mut later = BTreeMap::new();
        for write in &staged {
            let value = (!write.deleted).then(|| Arc::clone(&write.value));
            let row = Row { key: write.key.path(), revision: write.revision, value };
            if write.durability == Durability::Full {
                // A row on disk must never be newer than one of the same object that is still waiting.
                later.remove(&row.key);
                rows.push(row);
            } else {
                // What changes all the time is written from time to time all the same.
                let put_off = self.deferred.get(&row.key).map(|deferred| deferred.due);
                let due = now + write.durability.delay();
                later.insert(row.key.clone(), Deferred { row, due: put_off.map_or(due, |first| first.min(due)) });
            }
        }
        let mut replaced: HashSet<String> = staged.iter().map(|write| write.key.path()).collect();
        let result = if rows.is_empty() && self.revision < self.ceiling {
            Ok(())
        } else {
            let mut due = self.due(now + Durability::Relaxed.delay());
            due.retain(|row| !replaced.contains(&row.key));
            replaced.extend(due.iter().map(|row| row.key.clone()));
            rows.extend(due);
            self.store(&rows)
        };
        match result {
            Ok(()) => {
                // Only now: had storing failed, what was put off would still be owed.
                self.deferred.retain(|key, _| !replaced.contains(key));
                self.deferred.append(&mut later);
                self.publish(staged);
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "storing failed; the writes are refused");
                let text = describe(&error);
                for write in staged {
                    let _ = write.answer.send(Err(WriteError::Storage(text.clone())));
                }
            }
        }
    }

    fn publish(&mut self, staged: Vec<Staged>) {
        let mut cache = self.cache.write().unwrap_or_else(PoisonError::into_inner);
        for write in &staged {
            cache.apply(&write.key, write.revision, Arc::clone(&write.value), write.deleted);
        }
        drop(cache);
        for write in staged {
            let _ = write.answer.send(Ok(write.value));
        }
    }

    /// The rows that are to be written by `until`.
    fn due(&self, until: Instant) -> Vec<Row> {
        self.deferred.values().filter(|d| d.due <= until).map(|d| d.row.clone()).collect()
    }

    /// Writes what was put off: what is due, or all.
    fn flush(&mut self, all: bool) {
        let now = Instant::now();
        let until = if all { now + Durability::Heartbeat.delay() * 2 } else { now + Durability::Relaxed.delay() };
        let rows = self.due(until);
        if rows.is_empty() {
            return;
        }
        match self.backend.commit(&rows, None, all) {
            Ok(()) => self.deferred.retain(|_, deferred| deferred.due > until),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "storing failed; trying again");
                let again = now + Durability::Relaxed.delay();
                for deferred in self.deferred.values_mut().filter(|deferred| deferred.due <= until) {
                    deferred.due = again;
                }
            }
        }
    }

    fn store(&mut self, rows: &[Row]) -> Result<(), Error> {
        if self.revision >= self.ceiling {
            self.reserve()?;
        }
        self.backend.commit(rows, None, true)
    }

    fn reserve(&mut self) -> Result<(), Error> {
        let ceiling = self.revision + RESERVE;
        self.backend.commit(&[], Some(ceiling), true)?;
        self.ceiling = ceiling;
        Ok(())
    }
}

fn revision_of(value: &Value) -> u64 {
    value["metadata"]["resourceVersion"].as_str().and_then(|r| r.parse().ok()).unwrap_or(0)
}

/// An error with its causes.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
