//! Bytes and inodes of a folder tree.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};

/// Folders kept open on the way down; the way up from deeper ones is by "..".
const KEPT_OPEN: usize = 64;
/// Of the time that passes, one part in this many is for walking one tree.
const SHARE: u32 = 20;
/// Of what stat(2) counts.
const BLOCK: u64 = 512;

/// What a tree takes on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DiskUsage {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

/// The last measure of a tree, kept the longer the longer it took.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    last: Mutex<Option<Measure>>,
    walking: Mutex<()>,
}

#[derive(Debug, Clone, Copy)]
struct Measure {
    usage: DiskUsage,
    good_until: Instant,
}

impl Disk {
    /// What the tree takes, by a measure that is recent for its size. One walk at a time: who comes meanwhile gets the
    /// last one. Blocks.
    pub(crate) fn usage(&self, root: &Path) -> DiskUsage {
        let last = *lock(&self.last);
        if let Some(last) = last.filter(|last| Instant::now() < last.good_until) {
            return last.usage;
        }
        let Ok(_walking) = self.walking.try_lock() else {
            return last.map(|last| last.usage).unwrap_or_default();
        };
        let begun = Instant::now();
        let usage = usage_of(root);
        let now = Instant::now();
        let rest = (now - begun).checked_mul(SHARE).unwrap_or(Duration::MAX);
        let good_until = now.checked_add(rest).unwrap_or(now);
        *lock(&self.last) = Some(Measure { usage, good_until });
        usage
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds up a tree on one file system, of any depth, an inode once. What goes away meanwhile is left out.
fn usage_of(root: &Path) -> DiskUsage {
    let mut sum = Sum::default();
    if let Ok(top) = File::open(root) {
        // What cannot be read is not counted.
        drop(sum.walk(top));
    }
    sum.usage
}

#[derive(Default)]
struct Sum {
    usage: DiskUsage,
    /// Files with more than one name that have been counted.
    linked: HashSet<(u64, u64)>,
}

/// A folder on the way to the one that is read.
struct Level {
    id: (u64, u64),
    /// Unless it is too deep.
    open: Option<File>,
    /// The folders in it that are not read yet.
    left: Vec<Vec<u8>>,
}

impl Sum {
    fn walk(&mut self, top: File) -> io::Result<()> {
        let stat = fstat(&top)?;
        self.count(&stat);
        let device = stat.st_dev;
        let mut above: Vec<Level> = Vec::new();
        let mut level = Level { id: id(&stat), left: self.read(&top, device)?, open: None };
        let mut folder = top;
        loop {
            let Some(name) = level.left.pop() else {
                let Some((next, parent)) = up(&mut above, folder) else { return Ok(()) };
                (level, folder) = (next, parent);
                continue;
            };
            let Ok((child, stat)) = enter(&folder, &name) else { continue };
            if stat.st_dev != device {
                continue;
            }
            let Ok(left) = self.read(&child, device) else { continue };
            level.open = (above.len() < KEPT_OPEN).then_some(folder);
            above.push(std::mem::replace(&mut level, Level { id: id(&stat), left, open: None }));
            folder = child;
        }
    }

    /// Counts what is in a folder; the names of the folders among it.
    fn read(&mut self, folder: &File, device: u64) -> io::Result<Vec<Vec<u8>>> {
        let mut folders = Vec::new();
        for entry in
            Dir::openat(folder, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?.iter()
        {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            let Ok(stat) = fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW) else { continue };
            if matches!(name, b"." | b"..") || stat.st_dev != device {
                continue;
            }
            self.count(&stat);
            if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
                folders.push(name.to_vec());
            }
        }
        Ok(folders)
    }

    fn count(&mut self, stat: &FileStat) {
        let folder = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
        if folder || stat.st_nlink == 1 || self.linked.insert(id(stat)) {
            self.usage.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK;
            self.usage.inodes += 1;
        }
    }
}

fn id(stat: &FileStat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn enter(folder: &File, name: &[u8]) -> io::Result<(File, FileStat)> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let child = File::from(openat(folder, name, flags, Mode::empty())?);
    let stat = fstat(&child)?;
    Ok((child, stat))
}

/// The folder above, to go on with. When `from` was moved elsewhere meanwhile, the nearest one that is open.
fn up(above: &mut Vec<Level>, from: File) -> Option<(Level, File)> {
    let mut level = above.pop()?;
    if level.open.is_none()
        && let Ok(parent) = openat(&from, "..", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        && fstat(&parent).is_ok_and(|stat| id(&stat) == level.id)
    {
        return Some((level, File::from(parent)));
    }
    loop {
        if let Some(open) = level.open.take() {
            return Some((level, open));
        }
        level = above.pop()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_counts_once_and_depth_hides_nothing() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let root = folder.path();
        let file = root.join("file");
        std::fs::write(&file, vec![1; 1 << 20]).unwrap();
        let one = usage_of(root);
        assert!(one.bytes >= 1 << 20 && one.inodes == 2, "{one:?}");
        for name in ["a", "b", "c"] {
            std::fs::hard_link(&file, root.join(name)).unwrap();
        }
        std::os::unix::fs::symlink("/", root.join("link")).unwrap();
        assert_eq!(usage_of(root).inodes, one.inodes + 1);

        let mut deep = File::open(root).unwrap();
        for _ in 0..3000 {
            for name in ["d", "e"] {
                nix::sys::stat::mkdirat(&deep, name, Mode::from_bits_truncate(0o700)).unwrap();
            }
            deep = openat(&deep, "d", OFlag::O_RDONLY, Mode::empty()).unwrap().into();
        }
        let flags = OFlag::O_CREAT | OFlag::O_WRONLY;
        let mut hidden = File::from(openat(&deep, "hidden", flags, Mode::from_bits_truncate(0o600)).unwrap());
        io::Write::write_all(&mut hidden, &vec![1; 1 << 20]).unwrap();
        let disk = Disk::default();
        let all = disk.usage(root);
        assert!(all.bytes >= 2 << 20 && all.inodes == one.inodes + 1 + 6000 + 1, "{all:?}");
        assert_eq!(disk.usage(root), all);
        crate::tree::clear(root).unwrap();
    }
}
