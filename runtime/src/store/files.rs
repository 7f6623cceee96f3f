//! Files that appear whole or not at all.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::linkat;

use crate::error::{Context, Failure};

/// Replaces a file so that a reader sees the old one or the new one. No sync: after a power loss there is no
/// container left to know about.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let temporary = beside(path)?;
    std::fs::write(&temporary, bytes).at("write", temporary.display())?;
    std::fs::rename(&temporary, path).at("rename", temporary.display())
}

/// The path with `.new` at its end.
fn beside(path: &Path) -> Result<PathBuf, Failure> {
    let mut name: OsString = path.file_name().ok_or(Errno::EINVAL).at("write", path.display())?.to_owned();
    name.push(".new");
    Ok(path.with_file_name(name))
}

/// Makes a file of somebody else's folder appear whole or not at all, and leaves no other one there whenever it
/// is cut off: it has no name until it is written. Not every filesystem has such files.
pub(crate) fn publish(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut options = OpenOptions::new();
    let Ok(mut file) = options.write(true).mode(0o644).custom_flags(libc::O_TMPFILE).open(folder) else {
        // This says what is wrong with a folder, too.
        return publish_by_name(path, bytes);
    };
    file.write_all(bytes).at("write", path.display())?;
    let unnamed = crate::path::fd_path(file.as_fd());
    let link = || linkat(AT_FDCWD, unnamed.as_str(), AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW);
    let linked = link().or_else(|errno| {
        if errno == Errno::EEXIST {
            let _ = std::fs::remove_file(path);
            return link();
        }
        Err(errno)
    });
    linked.at("write", path.display())
}

/// The same under another name first. Others may make files there: what they have put in the way is removed, and never
/// written to (a link), and so is what an earlier call has left that was cut off.
fn publish_by_name(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let temporary = beside(path)?;
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).at("remove", temporary.display()),
        _ => (),
    }
    let made = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&temporary);
    let mut file = made.at("make", temporary.display())?;
    let written = file.write_all(bytes).at("write", temporary.display());
    let renamed = written.and_then(|()| std::fs::rename(&temporary, path).at("rename", temporary.display()));
    renamed.inspect_err(|_| drop(std::fs::remove_file(&temporary)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_in_the_way_is_not_followed() {
        let folder = std::env::temp_dir().join(format!("orlop-publish-{}", std::process::id()));
        std::fs::create_dir(&folder).expect("folder");
        let (victim, path) = (folder.join("victim"), folder.join("pid"));
        std::fs::write(&victim, "own").expect("file");
        std::os::unix::fs::symlink(&victim, folder.join("pid.new")).expect("link");
        publish_by_name(&path, b"42").expect("publish");
        let read = |path: &Path| std::fs::read_to_string(path).expect("read");
        assert_eq!((read(&victim), read(&path)), ("own".to_owned(), "42".to_owned()));
        assert!(!folder.join("pid.new").exists());
        // What was left by one that was cut off, and what cannot be replaced.
        std::fs::write(folder.join("pid.new"), "4").expect("file");
        publish_by_name(&path, b"43").expect("publish");
        assert_eq!(read(&path), "43");
        std::fs::create_dir(folder.join("taken")).expect("folder");
        assert!(publish_by_name(&folder.join("taken"), b"44").is_err());
        assert!(!folder.join("taken.new").exists());
        std::fs::remove_dir_all(folder).expect("remove");
    }
}
