//! Reading and writing the files of a group.

use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::error::{Context, Failure};
use crate::procfs;

/// Writes a file of a control group, in one write(2).
pub(super) fn write_file(path: &Path, value: &str) -> Result<(), Failure> {
    let object = || format!("{:?} to {}", value, path.display());
    let file = open(path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty()).at("write", object())?;
    nix::unistd::write(&file, value.as_bytes()).at("write", object()).map(drop)
}

pub(super) fn read_file(path: &Path) -> Result<String, Failure> {
    procfs::read_text(path).at("read", path.display())
}
