//! Reading and writing the files of a group.

use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::error::{Context, Failure};
use crate::procfs;

/// Writes a file of a control group, in one write(2).
pub(super) fn write_file(path: &Path, value: &str) -> Result<(), Failure> {
    write_values(path, [value.to_owned()])
}

/// Writes values to a file of a control group, each in one write(2).
pub(super) fn write_values(path: &Path, values: impl IntoIterator<Item = String>) -> Result<(), Failure> {
    let mut file = None;
    for value in values {
        let object = || format!("{:?} to {}", value, path.display());
        let open = || open(path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty()).at("write", object());
        let file = match &file {
            Some(file) => file,
            None => file.insert(open()?),
        };
        nix::unistd::write(file, value.as_bytes()).at("write", object())?;
    }
    Ok(())
}

pub(super) fn read_file(path: &Path) -> Result<String, Failure> {
    procfs::read_text(path).at("read", path.display())
}
