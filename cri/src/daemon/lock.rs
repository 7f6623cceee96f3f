//! One daemon per state root and per run root.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::config::Config;
use crate::error::{Context, Error, Kind, Result};

/// Held while a daemon lives; the kernel lets go of it with the process.
#[derive(Debug)]
pub(super) struct Lock {
    _files: Vec<Flock<File>>,
}

impl Lock {
    pub(super) fn take(config: &Config) -> Result<Lock> {
        let mut files = Vec::new();
        for path in [config.cri_state().join("lock"), config.run.join("cri.lock")] {
            let step = || format!("lock {}", path.display());
            let file =
                OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).step(step)?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(locked) => files.push(locked),
                Err((_, Errno::EWOULDBLOCK)) => {
                    return Err(Error::new(
                        Kind::Unavailable,
                        format!("{} is locked: another daemon has this root", path.display()),
                    ));
                }
                Err((_, errno)) => return Err(errno).step(step),
            }
        }
        Ok(Lock { _files: files })
    }
}
