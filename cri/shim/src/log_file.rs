//! The log file of a container.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::journal::note;

/// Read by the agent and by log collectors of root's group.
const MODE: u32 = 0o640;

/// A file that is only appended to. While it cannot be written (a full disk) what comes is thrown away and
/// counted, and each batch tries again: the container must not stand still for it.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: File,
    dropped: u64,
}

impl LogFile {
    pub(crate) fn open(path: &Path) -> io::Result<LogFile> {
        Ok(LogFile { path: path.to_owned(), file: open(path)?, dropped: 0 })
    }

    /// Goes on in a new file of the same path. On an error the old one stays.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        self.file = open(&self.path)?;
        Ok(())
    }

    /// Appends whole lines.
    pub(crate) fn append(&mut self, lines: &[u8]) {
        let mut written = 0;
        while written < lines.len() {
            match self.file.write(&lines[written..]) {
                Ok(0) => return self.drop_rest(lines, written, &ErrorKind::WriteZero.into()),
                Ok(more) => written += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return self.drop_rest(lines, written, &error),
            }
        }
        if self.dropped > 0 {
            note!("log {}: written again, after {} bytes that were dropped", self.path.display(), self.dropped);
            self.dropped = 0;
        }
    }

    fn drop_rest(&mut self, lines: &[u8], written: usize, error: &io::Error) {
        if self.dropped == 0 {
            note!("log {}: {error}; dropping output until it can be written", self.path.display());
        }
        let whole = lines[..written].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.dropped += (lines.len() - whole) as u64;
        if let Err(error) = self.cut_back((written - whole) as u64) {
            note!("log {}: cut off a torn line: {error}", self.path.display());
        }
    }

    /// Takes back the beginning of a line whose end found no room.
    fn cut_back(&self, torn: u64) -> io::Result<()> {
        if torn == 0 {
            return Ok(());
        }
        let length = self.file.metadata()?.len();
        self.file.set_len(length.saturating_sub(torn))
    }
}

/// The name must not be a link, which whoever may write to the folder could point at another file.
fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(MODE)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"));
    }
    if metadata.len() == 0 {
        // Whatever the umask that it was created under.
        file.set_permissions(Permissions::from_mode(MODE))?;
    }
    Ok(file)
}
