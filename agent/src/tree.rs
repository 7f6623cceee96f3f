//! Folder trees with mounts in them: unmounting what is below a folder, and removal that never follows a mount.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{UnlinkatFlags, unlinkat};

const FOLDER: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Unmounts all that is mounted below `folder`, innermost first; an absent folder is success.
///
/// # Errors
/// The first step that failed, with its path; the others were tried all the same.
pub fn unmount_below(folder: &Path) -> io::Result<()> {
    // The table of mounts knows no symbolic links.
    let folder = match fs::canonicalize(folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        found => found.map_err(told("find", folder))?,
    };
    let table = "/proc/self/mountinfo";
    let mounts = fs::read(table).map_err(told("read", Path::new(table)))?;
    let mut first = Ok(());
    // A mount made later may be on an earlier one, and is listed behind it.
    for point in mount_points(&mounts).into_iter().rev().filter(|p| *p != folder && p.starts_with(&folder)) {
        match umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // EINVAL: it went away with the mount that held it.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(errno) => first = first.and(Err(told("unmount", &point)(errno.into()))),
        }
    }
    first
}

/// Removes all that is in `folder`; an absent folder is success. Where something is mounted it stops.
///
/// # Errors
/// The first thing that could not be removed, with its path. What was removed until then is gone.
pub fn clear(folder: &Path) -> io::Result<()> {
    match open(folder, FOLDER, Mode::empty()) {
        Err(Errno::ENOENT) => Ok(()),
        opened => empty(opened.map_err(|e| told("open the folder", folder)(e.into()))?, folder),
    }
}

/// Removes `folder` and all in it, like [`clear`].
pub fn remove_tree(folder: &Path) -> io::Result<()> {
    clear(folder)?;
    match fs::remove_dir(folder) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(told("remove the folder", folder)(e)),
        _ => Ok(()),
    }
}

/// Empties a folder. One folder is open at a time: a container decides how deep its folders are nested.
fn empty(top: OwnedFd, path: &Path) -> io::Result<()> {
    let mut path = path.to_owned();
    let mut above = Vec::new();
    let mut here = top;
    loop {
        if let Some(name) = remove_files(&here, &path)? {
            path.push(&name);
            above.push(identity(&here)?);
            here = enter(&here, &name).map_err(|e| not_entered(e, &path))?;
            continue;
        }
        let Some(parent) = above.pop() else { return Ok(()) };
        here = enter(&here, OsStr::new("..")).map_err(|e| not_entered(e, &path))?;
        if identity(&here)? != parent {
            return Err(told("remove the folder", &path)(io::Error::other("it was moved meanwhile")));
        }
        let name = path.file_name().unwrap_or_default();
        unlinkat(&here, name, UnlinkatFlags::RemoveDir).map_err(|e| told("remove the folder", &path)(e.into()))?;
        path.pop();
    }
}

/// Removes what is no folder; the name of the first folder there is.
fn remove_files(folder: &OwnedFd, path: &Path) -> io::Result<Option<OsString>> {
    let list = || told("list", path);
    let mut entries = Dir::openat(folder.as_fd(), ".", FOLDER, Mode::empty()).map_err(|e| list()(e.into()))?;
    for entry in entries.iter() {
        let entry = entry.map_err(|e| list()(e.into()))?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        if entry.file_type() == Some(Type::Directory) {
            return Ok(Some(name.to_owned()));
        }
        match unlinkat(folder, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            // Not every file system tells the type in the list.
            Err(Errno::EISDIR) => return Ok(Some(name.to_owned())),
            Err(e) => return Err(told("remove", &path.join(name))(e.into())),
        }
    }
    Ok(None)
}

fn enter(folder: &OwnedFd, name: &OsStr) -> nix::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_SYMLINKS;
    openat2(folder, name, OpenHow::new().flags(FOLDER).resolve(resolve))
}

fn not_entered(errno: Errno, path: &Path) -> io::Error {
    let told = told("remove the folder", path);
    match errno {
        Errno::EXDEV => told(io::Error::other("something is mounted there; unmount it first")),
        errno => told(errno.into()),
    }
}

fn identity(folder: &OwnedFd) -> io::Result<(u64, u64)> {
    let stat = fstat(folder)?;
    Ok((stat.st_dev, stat.st_ino))
}

fn told(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> io::Error + use<> {
    let path = path.to_owned();
    move |e| io::Error::new(e.kind(), format!("cannot {action} {}: {e}", path.display()))
}

/// The fifth field of each line of proc_pid_mountinfo(5).
fn mount_points(mountinfo: &[u8]) -> Vec<PathBuf> {
    let lines = mountinfo.split(|b| *b == b'\n');
    lines
        .filter_map(|line| line.split(|b| *b == b' ').nth(4))
        .map(|field| PathBuf::from(OsString::from_vec(unescape(field))))
        .collect()
}

/// Undoes the octal escapes of proc_pid_mountinfo(5).
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = (byte == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        out.push(octal.unwrap_or(byte));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    out
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::mount::{MsFlags, mount};
    use nix::sys::stat::mkdirat;

    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        let text = b"1 2 0:1 / / rw - ext4 x rw\n3 1 0:2 / /a\\040b\\134c rw - tmpfs tmpfs rw\n4 1 0:2 / /\\04";
        assert_eq!(mount_points(text), ["/", "/a b\\c", "/\\04"].map(PathBuf::from));
    }

    #[test]
    fn absent_is_done() {
        assert!(unmount_below(Path::new("/nonexistent/x")).is_ok());
        assert!(remove_tree(Path::new("/nonexistent/x")).is_ok());
    }

    #[test]
    fn a_tree_of_any_depth_goes_and_links_are_not_followed() {
        let dir = tempfile::tempdir().expect("a folder");
        let (tree, kept) = (dir.path().join("tree"), dir.path().join("kept"));
        fs::create_dir(&kept).expect("a folder");
        fs::write(kept.join("f"), "x").expect("a file");
        fs::create_dir(&tree).expect("a folder");
        symlink(&kept, tree.join("link")).expect("a link");
        // Deeper than there are descriptors.
        let mut here = open(&tree, FOLDER, Mode::empty()).expect("the folder");
        for _ in 0..2000 {
            mkdirat(&here, "d", Mode::from_bits_truncate(0o700)).expect("a folder");
            here = enter(&here, OsStr::new("d")).expect("the folder");
        }
        remove_tree(&tree).expect("the removal");
        assert!(!tree.exists() && kept.join("f").exists());
        symlink(&kept, &tree).expect("a link");
        assert!(remove_tree(&tree).is_err());
        assert!(kept.join("f").exists());
    }

    /// A bind mount within one file system, its folder named by way of a symbolic link.
    #[test]
    fn a_mount_is_never_entered_and_is_found_behind_a_link() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIP: not root");
            return;
        }
        let dir = tempfile::tempdir().expect("a folder");
        let path = |name: &str| dir.path().join(name);
        for folder in ["host", "real/pod/volume", "real/pod/a"] {
            fs::create_dir_all(path(folder)).expect("a folder");
        }
        fs::write(path("host/data"), "x").expect("a file");
        symlink("real", path("link")).expect("a link");
        let bind = |point: &Path| {
            mount(Some(&path("host")), point, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("a mount");
        };
        bind(&path("real/pod/volume"));
        let error = remove_tree(&path("link/pod")).expect_err("something is mounted").to_string();
        assert!(error.contains("link/pod/volume") && error.contains("mounted"), "{error}");
        assert!(path("host/data").exists());
        unmount_below(&path("link/pod")).expect("unmounted");
        remove_tree(&path("link/pod")).expect("the removal");
        assert!(path("host/data").exists() && !path("real/pod").exists());
        // The folder itself may be where a disk is mounted: that stays.
        fs::create_dir(path("disk")).expect("a folder");
        bind(&path("disk"));
        unmount_below(&path("disk")).expect("nothing below");
        assert!(path("disk/data").exists());
        umount2(&path("disk"), MntFlags::MNT_DETACH).expect("unmounted");
    }
}
