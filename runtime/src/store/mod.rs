//! The runtime's memory: `<root>/<id>/`, which holds `state.json` (replaced by rename), `config.json` as it
//! was at create, and the start gate, if another than who made it is to start it. The folder itself is the lock: whoever changes the container holds
//! flock(2) on it, and it goes with its holder.
//!
//! `state.json` names the cgroups before they are made; `config.json` comes when all of them are. Until then
//! what is in a cgroup of that name may be somebody else's. `removed.json` is what `state.json` becomes when
//! all that it names is gone and only the poststop hooks are left to run.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hooks, Spec};
use serde::Deserialize;

use crate::config;
use crate::error::{Context, Error, Failure};
use crate::handshake::GATE;
use crate::resctrl::Resctrl;
use crate::status::Status;

mod busy;
mod date;
mod files;
mod record;

pub use date::rfc3339;
pub(crate) use files::{publish, replace};
use record::read_record_file;
pub(crate) use record::{Edition, Record, read_edition, read_record};

const STATE: &str = "state.json";
const CONFIG: &str = "config.json";

/// The record of a container that nobody is told about any more, while its poststop hooks run.
const WITHDRAWN: &str = "removed.json";

/// A container's folder, locked.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    lock: File,
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }
}

/// Refuses names that are not plain file names.
pub(crate) fn check_id(id: &str) -> Result<(), Error> {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || "_+-.".contains(letter);
    if id.is_empty() || id.len() > 255 || !id.chars().all(fits) || id.chars().all(|letter| letter == '.') {
        return Err(Error::InvalidId(id.to_owned()));
    }
    Ok(())
}

impl Folder {
    /// Makes the folder of a new container.
    pub(crate) fn create(root: &Path, id: &str) -> Result<Folder, Error> {
        check_id(id)?;
        let path = root.join(id);
        let mut builder = std::fs::DirBuilder::new();
        builder.mode(0o700);
        match builder.create(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                std::fs::DirBuilder::new().recursive(true).mode(0o700).create(root).at("make", root.display())?;
                builder.create(&path).at("make", path.display())?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(Error::AlreadyExists(id.to_owned()));
            }
            result => result.at("make", path.display())?,
        }
        Folder::lock(path, id, None)
    }

    /// Locks the folder of a container, waiting for whoever holds it. One that is only being made, or not there any
    /// more but for its hooks, is not waited for: a hook of its own may be who asks.
    pub(crate) fn open(root: &Path, id: &str, verb: &'static str) -> Result<Folder, Error> {
        check_id(id)?;
        Folder::lock(root.join(id), id, Some(verb))
    }

    /// The same to whoever removes a container, at any point of its life.
    pub(crate) fn open_to_remove(root: &Path, id: &str) -> Result<Folder, Error> {
        check_id(id)?;
        Folder::lock(root.join(id), id, None)
    }

    fn lock(path: PathBuf, id: &str, verb: Option<&'static str>) -> Result<Folder, Error> {
        let lock = match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(Error::NotFound(id.to_owned())),
            result => result.at("open", path.display())?,
        };
        busy::wait(&lock, &path, || match verb {
            Some(verb) if read_record(&path, id)?.pid == 0 => {
                Err(Error::WrongStatus { verb, id: id.to_owned(), status: Status::Creating })
            }
            _ => Ok(()),
        })?;
        // It may have been deleted while we waited, and even be a new container of the same name by now.
        let same = |file: &File| -> Option<(u64, u64)> {
            use std::os::unix::fs::MetadataExt;
            file.metadata().ok().filter(|meta| meta.nlink() > 0).map(|meta| (meta.dev(), meta.ino()))
        };
        let now = File::open(&path).ok();
        if now.as_ref().and_then(same).is_none_or(|there| Some(there) != same(&lock)) {
            return Err(Error::NotFound(id.to_owned()));
        }
        Ok(Folder { path, lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn record(&self, id: &str) -> Result<Record, Error> {
        read_record(&self.path, id)
    }

    /// Whether create got as far as writing the record, before it made anything.
    pub(crate) fn has_record(&self) -> bool {
        self.path.join(STATE).exists()
    }

    /// Replaces the record.
    pub(crate) fn write_record(&self, record: &Record) -> Result<(), Failure> {
        let path = self.path.join(STATE);
        let bytes =
            serde_json::to_vec(record).map_err(|error| Failure::refused("write", path.display(), error.to_string()))?;
        replace(&path, &bytes)
    }

    /// Lets the container be one that does not exist, to all but the delete that is to finish this one.
    pub(crate) fn withdraw_record(&self) -> Result<(), Failure> {
        let path = self.path.join(STATE);
        match std::fs::rename(&path, self.path.join(WITHDRAWN)) {
            // It was withdrawn before.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            result => result.at("rename", path.display()),
        }
    }

    /// The record of a container that holds nothing any more.
    pub(crate) fn withdrawn_record(&self, id: &str) -> Result<Record, Error> {
        read_record_file(&self.path.join(WITHDRAWN), id)
    }

    /// Keeps the configuration: what happens to the bundle's file after create must not matter.
    pub(crate) fn write_config(&self, config: &[u8]) -> Result<(), Failure> {
        let path = self.path.join(CONFIG);
        std::fs::write(&path, config).at("write", path.display())
    }

    /// Kills what is in the container's cgroups and removes them, as far as they are the container's, and its
    /// groups of Intel RDT.
    pub(crate) fn release_groups(&self, record: &Record) -> Result<(), Failure> {
        let released = self.release_cgroups(record);
        released.and(record.resctrl.as_ref().map_or(Ok(()), Resctrl::remove))
    }

    fn release_cgroups(&self, record: &Record) -> Result<(), Failure> {
        let made = self.path.join(CONFIG).exists();
        if let Some(unit) = &record.unit {
            return unit.release(&record.cgroups, made);
        }
        if !made {
            return record.cgroups.remove_unused();
        }
        let killed = record.cgroups.kill_all();
        let removed = record.cgroups.remove();
        killed.and(removed)
    }

    /// Removes the folder; whatever of it is gone already is fine.
    pub(crate) fn remove(self) -> Result<(), Failure> {
        // What is in there as a rule, and then what else there is, if the folder will not go.
        for name in [GATE, CONFIG, STATE] {
            let _ = std::fs::remove_file(self.path.join(name));
        }
        if std::fs::remove_dir(&self.path).is_ok() {
            return Ok(());
        }
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).at("remove", self.path.display()),
            _ => Ok(()),
        }
    }
}

/// Reads the configuration that the container of a record was created with, from its folder.
pub(crate) fn read_config(folder: &Path, record: &Record) -> Result<Spec, Error> {
    Ok(read_config_and_unknown(folder, record)?.0)
}

/// Likewise, with the names of unknown capabilities in it.
pub(crate) fn read_config_and_unknown(folder: &Path, record: &Record) -> Result<(Spec, Vec<String>), Error> {
    let path = folder.join(CONFIG);
    let (mut spec, unknown) = config::parse_spec(&std::fs::read(&path).at("read", path.display())?, &path)?;
    config::resolve_destinations(&mut spec, &record.rootfs);
    Ok((spec, unknown))
}

/// Reads the hooks of that configuration alone, which are all that start and delete need of it.
pub(crate) fn read_hooks(folder: &Path) -> Result<Option<Hooks>, Error> {
    #[derive(Deserialize)]
    struct OnlyHooks {
        hooks: Option<Hooks>,
    }
    let path = folder.join(CONFIG);
    let bytes = std::fs::read(&path).at("read", path.display())?;
    let config: OnlyHooks = serde_json::from_slice(&bytes)
        .map_err(|error| Error::invalid(path.display().to_string(), error.to_string()))?;
    Ok(config.hooks)
}

/// The names of all containers; none when the folder is not there.
pub(crate) fn names(root: &Path) -> Result<Vec<String>, Failure> {
    let entries = match std::fs::read_dir(root) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.at("read", root.display())?,
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| check_id(name).is_ok())
        .collect();
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_containers() {
        for id in ["a", "web-1_2+3.4", "...x"] {
            assert!(check_id(id).is_ok(), "{id}");
        }
        for id in ["", ".", "..", "a/b", "a b", "ä", &"x".repeat(256)] {
            assert!(check_id(id).is_err(), "{id}");
        }
    }
}
