//! Fits a layer, unpacked by itself, onto the layers below. A tar may leave out the folders of its files, or name
//! them through a symlink of a lower layer (`bin/tool` where `bin` is a link to `usr/bin`), or hard link to a file
//! of a lower layer. Stacked by overlayfs as it is, such a layer would change the mode of a folder to that of
//! ours, or hide the link and all that is behind it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{LinkatFlags, linkat};

use super::super::error::UnpackError;
use super::entry::{join, split};
use super::merged::{Found, Merged};
use super::root::{Root, is_opaque, metadata, open_in, set};
use super::unpack::{Unpacked, at, lossy};

/// Completes the layer unpacked at `root`; `below` are the folders of the layers under it, top first.
pub(crate) fn settle(unpacked: &Unpacked, root: &Path, discard: &Path, below: &[PathBuf]) -> Result<(), UnpackError> {
    let opened = Root::open(root, discard).and_then(|root| Ok((root, Merged::open(below)?)));
    let (root, merged) = opened.map_err(|source| at("open", b"", source))?;
    let mut implied = unpacked.implied.clone();
    for (path, target) in &unpacked.links {
        link(&root, &merged, path, target, &mut implied)?;
    }
    while let Some(path) = implied.pop_first() {
        implied = adopt(&root, &merged, &path, implied).map_err(|source| at("settle folder", &path, source))?;
    }
    Ok(())
}

/// Makes a folder that the layer did not describe what it is below; gives the folders that are left to do.
fn adopt(root: &Root, merged: &Merged, path: &[u8], mut left: BTreeSet<Vec<u8>>) -> io::Result<BTreeSet<Vec<u8>>> {
    let dir = match root.dir(path) {
        Ok(dir) if root.true_path(&dir)? == path => dir,
        // A later entry replaced it.
        Ok(_) | Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(left),
        Err(errno) => return Err(errno.into()),
    };
    if hidden(root, path)? {
        return Ok(left);
    }
    match merged.lookup(path)? {
        Found::Directory(_, below) => set(&dir, &metadata(&below)?)?,
        Found::Symlink => {
            if let Found::Directory(target, _) = merged.resolve(path)? {
                root.merge(path, &target, &mut left)?;
                left = left.into_iter().map(|other| moved(&other, path, &target)).collect();
            }
        }
        Found::File(..) | Found::Nothing => {}
    }
    Ok(left)
}

/// Whether a folder above `path` hides what is below.
fn hidden(root: &Root, path: &[u8]) -> io::Result<bool> {
    let mut folder = path;
    while !folder.is_empty() {
        folder = split(folder).0;
        if is_opaque(&root.dir(folder)?)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// `path` after the folder `from` became `to`.
fn moved(path: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    match path.strip_prefix(from) {
        Some(rest) if rest.starts_with(b"/") => join(to, &rest[1..]),
        _ => path.to_vec(),
    }
}

/// Makes a hard link to a file of a lower layer, by copying the file up first.
fn link(
    root: &Root,
    merged: &Merged,
    path: &[u8],
    target: &[u8],
    made: &mut BTreeSet<Vec<u8>>,
) -> Result<(), UnpackError> {
    let missing = UnpackError::Refused { name: lossy(path), reason: "it is a hard link to a file that is not there" };
    let Found::File(dir, name) = merged.lookup_file(target).map_err(|source| at("look up", target, source))? else {
        return Err(missing);
    };
    let mut work = || -> io::Result<()> {
        let (target_folder, target_name) = split(target);
        let copies = root.ensure_dir(target_folder, made)?;
        copy_up(&dir, &name, &copies, target_name)?;
        let (folder, name) = split(path);
        let parent = root.ensure_dir(folder, made)?;
        if fstatat(&parent, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok() {
            root.discard(&parent, name)?;
        }
        Ok(linkat(&copies, target_name, &parent, name, LinkatFlags::empty())?)
    };
    work().map_err(|source| at("make hard link", path, source))
}

fn copy_up(from: &File, name: &[u8], to: &File, to_name: &[u8]) -> io::Result<()> {
    let stat = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "a hard link to a special file of a lower layer"));
    }
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut copy = match openat(to, to_name, flags, Mode::from_bits_truncate(0o600)) {
        Ok(fd) => File::from(fd),
        Err(Errno::EEXIST) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    let mut source = open_in(from, name, OFlag::O_RDONLY | OFlag::O_NOFOLLOW)?;
    io::copy(&mut source, &mut copy)?;
    set(&copy, &metadata(&source)?)
}
