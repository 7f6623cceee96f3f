//! Unpacks one layer by itself, without the layers below it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, fstatat, makedev, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, LinkatFlags, Uid, fchownat, linkat, symlinkat};

use super::super::error::UnpackError;
use super::super::settings::Limits;
use super::super::types::Usage;
use super::entry::{Name, classify, clean, split};
use super::root::{Metadata, Root, is_dir, is_whiteout, make_opaque, make_whiteout, open_in, set};
use super::tar::{Entry, Kind, TarReader};

const BUFFER: usize = 128 << 10;
const PAGE: u64 = 4096;
/// What keeping a path costs beside its bytes, about.
const KEPT: u64 = 64;

/// What unpacking left for when the layers below are known.
#[derive(Debug, Default)]
pub(crate) struct Unpacked {
    /// Folders that the layer needs but does not describe: they take after the layers below.
    pub(super) implied: BTreeSet<Vec<u8>>,
    /// Hard links (path, target) to files of the layers below.
    pub(super) links: Vec<(Vec<u8>, Vec<u8>)>,
    /// What the layer takes on disk, counted in whole pages.
    pub(crate) usage: Usage,
}

/// Unpacks a tar into the empty folder `root`. `discard` is a folder for what entries replace. The source is read up
/// to the end of the archive; padding may follow.
pub(crate) fn unpack<R: Read>(
    source: R,
    root: &Path,
    discard: &Path,
    limits: &Limits,
) -> Result<Unpacked, UnpackError> {
    let root = Root::open(root, discard).map_err(|source| at("open", b"", source))?;
    let mut tar = TarReader::new(source);
    let mut unpacker = Unpacker {
        root,
        limits,
        entries: 0,
        out: Unpacked::default(),
        folder: None,
        times: BTreeMap::new(),
        kept: 0,
        buffer: vec![0; BUFFER],
    };
    unpacker.out.implied.insert(Vec::new());
    unpacker.out.usage.inodes = 1;
    while let Some(entry) = tar.next()? {
        unpacker.apply(&entry, &mut tar)?;
    }
    unpacker.set_times();
    Ok(unpacker.out)
}

struct Unpacker<'a> {
    root: Root,
    limits: &'a Limits,
    entries: u64,
    out: Unpacked,
    /// The folder of the entry before: entries come folder by folder.
    folder: Option<(Vec<u8>, File)>,
    /// Times of folders, set last: making files in a folder changes its time.
    times: BTreeMap<Vec<u8>, (i64, i64)>,
    /// Bytes of the paths in `times` and `out`.
    kept: u64,
    buffer: Vec<u8>,
}

impl Unpacker<'_> {
    fn apply<R: Read>(&mut self, entry: &Entry, content: &mut TarReader<R>) -> Result<(), UnpackError> {
        self.entries += 1;
        if self.entries > self.limits.layer_entries {
            return Err(UnpackError::Limit { what: "entries", limit: self.limits.layer_entries });
        }
        let refuse = |reason| UnpackError::Refused { name: lossy(&entry.path), reason };
        let path = clean(&entry.path).map_err(refuse)?;
        let (folder, name) = split(&path);
        if name.is_empty() {
            return self.root_entry(entry);
        }
        let parent = self.folder(folder).map_err(|errno| at("make the folder of", &path, errno.into()))?;
        let result = match classify(name).map_err(refuse)? {
            Name::Ignored => Ok(()),
            Name::Opaque => make_opaque(&parent),
            Name::Whiteout(hidden) => self.whiteout(&parent, hidden),
            Name::Plain if entry.kind == Kind::HardLink => {
                self.hard_link(&parent, &path, entry).map_err(io::Error::from)
            }
            Name::Plain => self.create(&parent, &path, entry, content),
        };
        result.map_err(|source| at(verb(entry.kind), &path, source))?;
        if self.kept > self.limits.layer_names {
            return Err(UnpackError::Limit { what: "bytes of names", limit: self.limits.layer_names });
        }
        self.folder = Some((folder.to_vec(), parent));
        Ok(())
    }

    /// The folder that an entry goes into, made if the layer did not describe it.
    fn folder(&mut self, path: &[u8]) -> Result<File, Errno> {
        if let Some((cached, dir)) = self.folder.take()
            && cached == path
        {
            return Ok(dir);
        }
        let mut made = BTreeSet::new();
        let dir = self.root.ensure_dir(path, &mut made)?;
        self.count(made.len() as u64, made.len() as u64 * PAGE);
        self.kept += made.iter().map(|path| path.len() as u64 + KEPT).sum::<u64>();
        self.out.implied.extend(made);
        Ok(dir)
    }

    fn set_time_later(&mut self, path: &[u8], mtime: (i64, i64)) {
        if self.times.insert(path.to_vec(), mtime).is_none() {
            self.kept += path.len() as u64 + KEPT;
        }
    }

    fn link_later(&mut self, path: &[u8], target: Vec<u8>) {
        self.kept += (path.len() + target.len()) as u64 + KEPT;
        self.out.links.push((path.to_vec(), target));
    }

    fn root_entry(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        if entry.kind != Kind::Directory {
            return Err(UnpackError::Refused { name: lossy(&entry.path), reason: "the root must be a folder" });
        }
        let dir = self.root.dir(b"").map_err(|errno| at("open", b"", errno.into()))?;
        set(&dir, &meta(entry)).map_err(|source| at("set the attributes of", b"", source))?;
        self.out.implied.remove(&b""[..]);
        self.set_time_later(b"", entry.mtime);
        Ok(())
    }

    fn create<R: Read>(
        &mut self,
        parent: &File,
        path: &[u8],
        entry: &Entry,
        content: &mut TarReader<R>,
    ) -> io::Result<()> {
        let (_, name) = split(path);
        match entry.kind {
            Kind::Directory => self.directory(parent, path, entry),
            Kind::File => self.file(parent, name, entry, content),
            Kind::Symlink => {
                self.place(parent, name, |parent| symlinkat(&entry.link[..], parent, name))?;
                finish_special(parent, name, entry, false)
            }
            Kind::CharDevice { major, minor } => {
                self.device(parent, name, entry, SFlag::S_IFCHR, makedev(major, minor))
            }
            Kind::BlockDevice { major, minor } => {
                self.device(parent, name, entry, SFlag::S_IFBLK, makedev(major, minor))
            }
            Kind::Fifo => self.device(parent, name, entry, SFlag::S_IFIFO, 0),
            Kind::HardLink => Ok(()),
        }
    }

    /// Makes something new under a name, after moving away what had it.
    fn place<T>(&mut self, parent: &File, name: &[u8], make: impl Fn(&File) -> Result<T, Errno>) -> Result<T, Errno> {
        let made = match make(parent) {
            Err(Errno::EEXIST) => {
                self.root.discard(parent, name)?;
                make(parent)?
            }
            other => other?,
        };
        self.count(1, 0);
        Ok(made)
    }

    fn directory(&mut self, parent: &File, path: &[u8], entry: &Entry) -> io::Result<()> {
        let (_, name) = split(path);
        let make = || mkdirat(parent, name, Mode::from_bits_truncate(0o700));
        let mut hides = false;
        match make() {
            Err(Errno::EEXIST) if is_dir(parent, name)? => {}
            Err(Errno::EEXIST) => {
                hides = self.root.discard(parent, name)?;
                make()?;
                self.count(1, PAGE);
            }
            other => {
                other?;
                self.count(1, PAGE);
            }
        }
        let dir = open_in(parent, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW)?;
        set(&dir, &meta(entry))?;
        // A whiteout and a folder of one name: the folder is there, and what it hid stays hidden.
        if hides {
            make_opaque(&dir)?;
        }
        if !self.out.implied.is_empty() {
            let described = self.root.true_path(&dir)?;
            self.out.implied.remove(&described);
        }
        self.set_time_later(path, entry.mtime);
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        parent: &File,
        name: &[u8],
        entry: &Entry,
        content: &mut TarReader<R>,
    ) -> io::Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let make = |parent: &File| nix::fcntl::openat(parent, name, flags, Mode::from_bits_truncate(0o600));
        let mut file = File::from(self.place(parent, name, make)?);
        loop {
            let got = content.read(&mut self.buffer)?;
            if got == 0 {
                break;
            }
            file.write_all(&self.buffer[..got])?;
        }
        self.count(0, entry.size.next_multiple_of(PAGE));
        set(&file, &meta(entry))
    }

    fn device(&mut self, parent: &File, name: &[u8], entry: &Entry, kind: SFlag, device: u64) -> io::Result<()> {
        self.place(parent, name, |parent| mknodat(parent, name, kind, Mode::from_bits_truncate(0o600), device))?;
        finish_special(parent, name, entry, true)
    }

    /// A link to a file of this layer, or a note of one to a file below.
    fn hard_link(&mut self, parent: &File, path: &[u8], entry: &Entry) -> Result<(), Errno> {
        let target = clean(&entry.link).map_err(|_| Errno::EXDEV)?;
        let (_, name) = split(path);
        let (target_folder, target_name) = split(&target);
        let source = match self.root.dir(target_folder) {
            Ok(dir) => dir,
            Err(Errno::ENOENT | Errno::ENOTDIR) => {
                self.link_later(path, target);
                return Ok(());
            }
            Err(errno) => return Err(errno),
        };
        match fstatat(&source, target_name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) if is_whiteout(&stat) => return Err(Errno::ENOENT),
            Ok(stat) => {
                let present = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW);
                if present.is_ok_and(|p| (p.st_dev, p.st_ino) == (stat.st_dev, stat.st_ino)) {
                    return Ok(());
                }
            }
            Err(Errno::ENOENT) => {
                self.link_later(path, target);
                return Ok(());
            }
            Err(errno) => return Err(errno),
        }
        let inodes = self.out.usage.inodes;
        self.place(parent, name, |parent| linkat(&source, target_name, parent, name, LinkatFlags::empty()))?;
        self.out.usage.inodes = inodes;
        Ok(())
    }

    /// Hides a name of the layers below. What this layer itself has under the name stays, as the spec has it.
    fn whiteout(&mut self, parent: &File, hidden: &[u8]) -> io::Result<()> {
        match fstatat(parent, hidden, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => {
                make_whiteout(parent, hidden)?;
                self.count(1, 0);
                Ok(())
            }
            Ok(stat) if stat.st_mode & libc::S_IFMT == libc::S_IFDIR => {
                make_opaque(&open_in(parent, hidden, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW)?)
            }
            Ok(_) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// A folder that was replaced later has lost its time; that is no error.
    fn set_times(&self) {
        for (path, mtime) in &self.times {
            if let Ok(dir) = self.root.dir(path) {
                let mtime = TimeSpec::new(mtime.0, mtime.1);
                if let Err(errno) = nix::sys::stat::futimens(&dir, &TimeSpec::new(0, libc::UTIME_NOW), &mtime) {
                    tracing::debug!(path = %lossy(path), %errno, "cannot set a folder's time");
                }
            }
        }
    }

    fn count(&mut self, inodes: u64, bytes: u64) {
        self.out.usage.inodes += inodes;
        self.out.usage.bytes += bytes;
    }
}

/// Owner, mode and time of what cannot be opened. The name was made by us in a folder nobody else can reach.
fn finish_special(parent: &File, name: &[u8], entry: &Entry, mode: bool) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    fchownat(parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    if mode {
        fchmodat(parent, name, Mode::from_bits_truncate(entry.mode), FchmodatFlags::FollowSymlink)?;
    }
    let (now, mtime) = (TimeSpec::new(0, libc::UTIME_NOW), TimeSpec::new(entry.mtime.0, entry.mtime.1));
    utimensat(parent, name, &now, &mtime, UtimensatFlags::NoFollowSymlink)?;
    Ok(())
}

fn meta(entry: &Entry) -> Metadata {
    let xattrs = entry.xattrs.clone();
    Metadata { uid: entry.uid, gid: entry.gid, mode: entry.mode, mtime: entry.mtime, xattrs }
}

pub(super) fn at(op: &'static str, path: &[u8], source: io::Error) -> UnpackError {
    UnpackError::Entry { op, name: lossy(path), source }
}

pub(super) fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn verb(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "write file",
        Kind::Directory => "make folder",
        Kind::Symlink => "make symlink",
        Kind::HardLink => "make hard link",
        Kind::CharDevice { .. } | Kind::BlockDevice { .. } => "make device",
        Kind::Fifo => "make fifo",
    }
}
