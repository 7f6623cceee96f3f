//! Folders and what is mounted in them.

use std::fs::{self, DirEntry};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, bail};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

/// Unmounts all that is mounted at or below `folder`, innermost first.
pub(super) fn unmount_below(folder: &Path) -> Vec<Error> {
    let table = match fs::read_to_string("/proc/self/mountinfo") {
        Ok(table) => table,
        Err(error) => return vec![Error::new(error).context("read /proc/self/mountinfo")],
    };
    let mut points: Vec<PathBuf> =
        table.lines().filter_map(mount_point).filter(|point| point.starts_with(folder)).collect();
    // A mount made later covers an earlier one, and is listed behind it.
    points.reverse();
    let mut errors = Vec::new();
    for point in points {
        match umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // EINVAL: it went away with the mount that held it.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(errno) => errors.push(Error::new(errno).context(format!("unmount {}", point.display()))),
        }
    }
    errors
}

/// The fifth field of a line of mountinfo (proc_pid_mountinfo(5)), its octal escapes undone.
fn mount_point(line: &str) -> Option<PathBuf> {
    let field = line.split(' ').nth(4)?.as_bytes();
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = (byte == b'\\').then(|| tail.get(..3)).flatten();
        let octal = escaped.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        if let Some(value) = octal {
            path.push(value);
            rest = &tail[3..];
        } else {
            path.push(byte);
            rest = tail;
        }
    }
    Some(std::ffi::OsString::from_vec(path).into())
}

/// Deletes `folder` and all in it, on its own file system only. That it is not there is no error.
pub(super) fn remove_tree(folder: &Path) -> Result<()> {
    match fs::symlink_metadata(folder) {
        Ok(metadata) if metadata.is_dir() => empty(folder, metadata.dev())?,
        Ok(_) => bail!("{} is not a folder; it was left as it is", folder.display()),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("look at {}", folder.display())),
    }
    fs::remove_dir(folder).with_context(|| format!("remove the folder {}", folder.display()))
}

fn empty(folder: &Path, device: u64) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        remove_entry(&entry, &path, device).with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

fn remove_entry(entry: &DirEntry, path: &Path, device: u64) -> Result<()> {
    let metadata = entry.metadata()?;
    if metadata.dev() != device {
        bail!("something is mounted there; unmount it first");
    }
    if metadata.is_dir() {
        empty(path, device)?;
        return Ok(fs::remove_dir(path)?);
    }
    Ok(fs::remove_file(path)?)
}

/// Removes a folder that may also hold what is not ours: only when it is empty.
pub(super) fn remove_if_empty(folder: &Path) -> Result<()> {
    let gone_or_used = |error: &io::Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty);
    match fs::remove_dir(folder) {
        Err(error) if !gone_or_used(&error) => {
            Err(error).with_context(|| format!("remove the folder {}", folder.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_the_fifth_field_with_its_escapes_undone() {
        let line = r"36 35 98:0 / /mnt/a\040b\134c rw,noatime master:1 - ext3 /dev/root rw";
        assert_eq!(mount_point(line), Some(PathBuf::from(r"/mnt/a b\c")));
        assert_eq!(mount_point(r"36 35 98:0 / /mnt/\04"), Some(PathBuf::from(r"/mnt/\04")));
        assert_eq!(mount_point("36 35"), None);
    }

    #[test]
    fn removing_what_is_not_there_is_no_error() {
        assert!(remove_tree(Path::new("/var/tmp/orlop-no-such-folder")).is_ok());
    }
}
