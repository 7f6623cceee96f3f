//! The store: every object in memory, every acknowledged change on disk, one strictly increasing revision.
//!
//! ```text
//! requests ──write──> writer thread: check, number, commit a batch, publish ──> cache + per-resource event log
//!     ^                                     │                                         │ wakes
//!     └──────────── answer ─────────────────┘                                     watchers, each with a cursor
//! ```
//! Reads never touch the disk. Writes that arrive while a commit is under way share the next one. A watcher holds
//! a revision, not a queue: a slow one finds its place gone from the log (`Expired`) and costs nothing meanwhile.

mod cache;
mod kept;
mod sqlite;
mod watch;
mod writer;

use std::path::Path;
use std::sync::{Arc, RwLock};

use serde_json::Value;

pub(crate) use cache::Event;
pub(crate) use watch::Watcher;
pub(crate) use writer::{Durability, Expect, Write, WriteError};

use cache::Cache;
use kept::Kept;

/// Where an object is: `/registry/<group>/<resource>/<namespace>/<name>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// `core/pods`, `apps/deployments`: the registry's storage name.
    pub(crate) resource: &'static str,
    /// Empty for cluster-scoped resources.
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    fn path(&self) -> String {
        if self.namespace.is_empty() {
            format!("/registry/{}/{}", self.resource, self.name)
        } else {
            format!("/registry/{}/{}/{}", self.resource, self.namespace, self.name)
        }
    }
}

/// The database failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// SQLite refused.
    #[error("database {path}: {step}")]
    Sqlite {
        /// The database file.
        path: String,
        /// What was tried.
        step: &'static str,
        /// SQLite's error.
        source: rusqlite::Error,
    },
    /// The file was written by a newer orlop.
    #[error("database {path} has format {found}, this program knows {known}; use the newer program")]
    Format {
        /// The database file.
        path: String,
        /// The format found.
        found: i64,
        /// The format this program writes.
        known: i64,
    },
    /// A stored object is not JSON.
    #[error("database {path}: object {key} is damaged")]
    Damaged {
        /// The database file.
        path: String,
        /// The object's key.
        key: String,
        /// The parser's error.
        source: serde_json::Error,
    },
    /// The writer thread could not be started.
    #[error("starting the store's writer thread")]
    Thread(#[source] std::io::Error),
}

/// One row to write; no value means to delete it.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) key: String,
    pub(crate) revision: u64,
    pub(crate) value: Option<Arc<Value>>,
}

/// What a backend holds when it is opened.
#[derive(Debug)]
pub(crate) struct Contents {
    /// Every object: key, revision, value.
    pub(crate) objects: Vec<(String, u64, Value)>,
    /// Revisions up to this one may have been given out.
    pub(crate) ceiling: u64,
}

/// Durable storage of rows. One thread uses it.
pub(crate) trait Backend: Send {
    /// Everything stored.
    fn load(&mut self) -> Result<Contents, Error>;
    /// Writes all rows or none. With `sync` they are on the disk when this returns. `ceiling`, if given, becomes
    /// the new [`Contents::ceiling`].
    fn commit(&mut self, rows: &[Row], ceiling: Option<u64>, sync: bool) -> Result<(), Error>;
}

/// Objects and the revision they were read at.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) items: Vec<Arc<Value>>,
    pub(crate) revision: u64,
}

impl Listing {
    fn of((kept, revision): (Vec<Kept>, u64)) -> Listing {
        Listing { items: kept.iter().map(Kept::value).collect(), revision }
    }
}

/// The store's handle; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    cache: Arc<RwLock<Cache>>,
    writer: writer::Handle,
}

impl Store {
    /// Opens the database at `path` for these resources.
    pub(crate) fn open(path: &Path, resources: &[&'static str]) -> Result<Self, Error> {
        Self::with_backend(Box::new(sqlite::Sqlite::open(path)?), resources)
    }

    fn with_backend(mut backend: Box<dyn Backend>, resources: &[&'static str]) -> Result<Self, Error> {
        let contents = backend.load()?;
        let cache = Arc::new(RwLock::new(Cache::load(contents, resources)));
        let writer = writer::start(backend, Arc::clone(&cache))?;
        Ok(Self { cache, writer })
    }

    /// One object.
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Value>> {
        self.read(|cache| cache.get(key))
    }

    /// Objects of a resource, of one namespace or of all, in key order, with the revision they were read at.
    pub(crate) fn list(&self, resource: &str, namespace: Option<&str>) -> Listing {
        Listing::of(self.read(|cache| cache.list(resource, namespace)))
    }

    /// Like [`Store::list`], as it was at `revision`; `None` when that is no longer known.
    pub(crate) fn list_at(&self, resource: &str, namespace: Option<&str>, revision: u64) -> Option<Listing> {
        self.read(|cache| cache.list_at(resource, namespace, revision)).map(Listing::of)
    }

    /// The newest revision.
    pub(crate) fn revision(&self) -> u64 {
        self.read(|cache| cache.revision)
    }

    /// Watches changes of a resource after `revision`.
    pub(crate) fn watch(&self, resource: &'static str, revision: u64) -> Watcher {
        let wake = self.read(|cache| cache.subscribe(resource));
        Watcher::new(Arc::clone(&self.cache), resource, revision, wake)
    }

    /// Checks, numbers and stores a change; returns the object as stored (or, deleted, as it was last).
    pub(crate) async fn write(&self, write: Write) -> Result<Arc<Value>, WriteError> {
        self.writer.write(write).await
    }

    /// Writes what is still only in memory and stops the writer. Later writes fail.
    pub(crate) async fn close(&self) {
        self.writer.close().await;
    }

    fn read<T>(&self, f: impl FnOnce(&Cache) -> T) -> T {
        f(&self.cache.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests;
