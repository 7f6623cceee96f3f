//! The view that overlayfs gives of the layers below one, by looking at their folders: what a path names there.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, readlinkat};
use nix::sys::stat::fstatat;

use super::entry::{join, parts};
use super::root::{is_opaque, is_whiteout, open_in};

const MAX_LINKS: u32 = 40;

pub(super) struct Merged {
    /// Roots, top first.
    layers: Vec<File>,
}

/// What a name is in the merged view.
pub(super) enum Found {
    /// A folder: its true path, and the topmost layer's folder.
    Directory(Vec<u8>, File),
    Symlink,
    /// Anything else: the folder of the layer that has it, and its name there.
    File(File, Vec<u8>),
    Nothing,
}

/// A folder of the merged view: the layers' folders that make it up, top first.
struct Folder {
    path: Vec<u8>,
    parts: Vec<File>,
}

impl Merged {
    pub(super) fn open(layers: &[PathBuf]) -> io::Result<Merged> {
        Ok(Merged { layers: layers.iter().map(File::open).collect::<io::Result<_>>()? })
    }

    /// What `path` is, with symlinks followed nowhere.
    pub(super) fn lookup(&self, path: &[u8]) -> io::Result<Found> {
        self.walk(path, false, false)
    }

    /// What `path` is, with symlinks followed in its folders but not at its end.
    pub(super) fn lookup_file(&self, path: &[u8]) -> io::Result<Found> {
        self.walk(path, true, false)
    }

    /// What `path` is in the end, with symlinks followed.
    pub(super) fn resolve(&self, path: &[u8]) -> io::Result<Found> {
        self.walk(path, true, true)
    }

    fn walk(&self, path: &[u8], follow: bool, follow_last: bool) -> io::Result<Found> {
        let mut links = 0;
        let mut stack = vec![self.root()?];
        let mut rest: Vec<Vec<u8>> = parts(path);
        while let Some(name) = rest.pop() {
            if name == b".." {
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            let Some(folder) = stack.last() else { return Ok(Found::Nothing) };
            match folder.child(&name)? {
                Child::Directory(next) => stack.push(next),
                Child::Symlink(target) if follow && (follow_last || !rest.is_empty()) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Ok(Found::Nothing);
                    }
                    if target.starts_with(b"/") {
                        stack.truncate(1);
                    }
                    rest.extend(parts(&target));
                }
                Child::Symlink(_) if rest.is_empty() => return Ok(Found::Symlink),
                Child::Other(dir) if rest.is_empty() => return Ok(Found::File(dir, name)),
                Child::Symlink(_) | Child::Other(_) | Child::Nothing => return Ok(Found::Nothing),
            }
        }
        let found = stack.pop().and_then(|folder| Some((folder.path, folder.parts.into_iter().next()?)));
        Ok(found.map_or(Found::Nothing, |(path, top)| Found::Directory(path, top)))
    }

    fn root(&self) -> io::Result<Folder> {
        let parts = self.layers.iter().map(File::try_clone).collect::<io::Result<_>>()?;
        Ok(Folder { path: Vec::new(), parts })
    }
}

enum Child {
    Directory(Folder),
    Symlink(Vec<u8>),
    Other(File),
    Nothing,
}

impl Folder {
    fn child(&self, name: &[u8]) -> io::Result<Child> {
        let mut merged = Vec::new();
        for part in &self.parts {
            let stat = match fstatat(part, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::ENOENT) => continue,
                Err(errno) => return Err(errno.into()),
            };
            match stat.st_mode & libc::S_IFMT {
                libc::S_IFDIR => {
                    let dir = open_in(part, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW)?;
                    let opaque = is_opaque(&dir)?;
                    merged.push(dir);
                    if opaque {
                        break;
                    }
                }
                // A file ends the folders above it; alone it is what is seen.
                _ if !merged.is_empty() || is_whiteout(&stat) => break,
                libc::S_IFLNK => return Ok(Child::Symlink(readlinkat(part, name)?.into_vec())),
                _ => return Ok(Child::Other(part.try_clone()?)),
            }
        }
        if merged.is_empty() {
            return Ok(Child::Nothing);
        }
        Ok(Child::Directory(Folder { path: join(&self.path, name), parts: merged }))
    }
}
