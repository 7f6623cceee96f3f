//! Removing folder trees that strangers shaped: of any depth, with a bounded number of descriptors, and never across
//! a mount point.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2, renameat};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Removes everything in the folder `parent`, which itself stays. Others may move things in meanwhile.
pub(crate) fn clear(parent: &Path) -> io::Result<()> {
    let top = File::open(parent)?;
    let mut fresh = 0;
    let mut result = Ok(());
    // Each round flattens: a folder in a folder is moved to the top, and meets a later round there.
    loop {
        let before = names(&top)?;
        let mut progress = false;
        for name in &before {
            match remove(&top, name, &mut fresh) {
                Ok(()) => progress = true,
                Err(Errno::ENOENT) => {}
                Err(errno) => result = Err(io::Error::from(errno)),
            }
        }
        if before.is_empty() || !progress {
            return if before.is_empty() { Ok(()) } else { result };
        }
    }
}

fn remove(top: &File, name: &[u8], fresh: &mut u64) -> Result<(), Errno> {
    match unlinkat(top, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::EISDIR | Errno::EPERM) => {}
        other => return other,
    }
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let dir = File::from(openat2(top, name, how)?);
    for child in names(&dir).map_err(errno)? {
        match unlinkat(&dir, &child[..], UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR | Errno::EPERM) => lift(&dir, &child, top, fresh)?,
            other => other?,
        }
    }
    unlinkat(top, name, UnlinkatFlags::RemoveDir)
}

/// Removes an empty folder, moves one that is not to the top under a new name.
fn lift(dir: &File, child: &[u8], top: &File, fresh: &mut u64) -> Result<(), Errno> {
    match unlinkat(dir, child, UnlinkatFlags::RemoveDir) {
        Err(Errno::ENOTEMPTY | Errno::EEXIST) => loop {
            *fresh += 1;
            match renameat(dir, child, top, format!(".lifted-{fresh}").as_str()) {
                // A name that an interrupted removal used.
                Err(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR) => {}
                other => return other,
            }
        },
        other => other,
    }
}

fn names(dir: &File) -> io::Result<Vec<Vec<u8>>> {
    let mut entries =
        Dir::openat(dir, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())?;
    let mut names = Vec::new();
    for entry in entries.iter() {
        let entry = entry?;
        let name = std::ffi::OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            names.push(name.as_bytes().to_vec());
        }
    }
    Ok(names)
}

fn errno(error: io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_deeper_than_any_stack_is_removed() {
        let folder = std::env::temp_dir().join(format!("orlop-tree-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let canary = folder.with_extension("canary");
        std::fs::write(&canary, "here").unwrap();
        let mut dir = File::open(&folder).unwrap();
        for _ in 0..15_000 {
            nix::sys::stat::mkdirat(&dir, "d", nix::sys::stat::Mode::from_bits_truncate(0o700)).unwrap();
            nix::unistd::symlinkat(&canary, &dir, "link").unwrap();
            dir = nix::fcntl::openat(&dir, "d", OFlag::O_RDONLY, nix::sys::stat::Mode::empty()).unwrap().into();
        }
        clear(&folder).unwrap();
        std::fs::remove_dir(&folder).unwrap();
        assert_eq!(std::fs::read_to_string(&canary).unwrap(), "here");
        std::fs::remove_file(&canary).unwrap();
    }
}
