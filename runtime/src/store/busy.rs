//! Waiting for a container that somebody else works on.

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{Context, Error, Failure};
use crate::procfs;

/// Longer than any step of the runtime's own may take. A hook may run for ever, and wait for who waits here.
const WITHIN: Duration = Duration::from_secs(35);

/// From look to look the pause doubles, up to this one.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// Locks a container's folder. As long as it is busy `look` decides whether to wait for it.
pub(super) fn wait(lock: &File, path: &Path, mut look: impl FnMut() -> Result<(), Error>) -> Result<(), Error> {
    let (mut until, mut pause) = (None, Duration::from_millis(1));
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error).at("lock", path.display()).map_err(Error::from),
            Err(TryLockError::WouldBlock) => look()?,
        }
        if Instant::now() >= *until.get_or_insert_with(|| Instant::now() + WITHIN) {
            let who = holder(lock).unwrap_or_else(|| "another process".to_owned());
            let why = format!("{who} has been at work on this container for {} s; is it in a hook?", WITHIN.as_secs());
            return Err(Failure::refused("lock", path.display(), why).into());
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Who holds the lock, from /proc/locks (proc_locks(5)): the kernel does not tell it otherwise.
fn holder(lock: &File) -> Option<String> {
    let meta = lock.metadata().ok()?;
    let (device, inode) = (meta.dev(), meta.ino());
    let file = format!("{:02x}:{:02x}:{inode}", nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let locks = procfs::read_text("/proc/locks").ok()?;
    let fields = |line: &str| -> Option<i32> {
        let mut fields = line.split_whitespace().skip(1);
        let is_held = fields.next() == Some("FLOCK");
        let pid = fields.nth(2)?.parse().ok()?;
        (is_held && fields.next() == Some(&file)).then_some(pid)
    };
    let pid = locks.lines().find_map(fields).filter(|pid| *pid > 0)?;
    let name = procfs::read_text(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("process {pid} ({})", name.trim()))
}
