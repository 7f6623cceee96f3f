//! `subPath`: a part of a volume, resolved so that a container cannot point it elsewhere.
//!
//! The path is walked with openat2(2) and RESOLVE_BENEATH, and what was opened is bind-mounted through its
//! descriptor to a place that no container can reach. The runtime gets that place.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, fchmod, fstat, mkdirat};

use super::{Reason, make_dir};

/// Binds `sub_path` of `volume` to `target` (in `pods/<uid>/volume-subpaths/`) and returns `target`.
///
/// A part that does not exist is made as a folder with the mode of the volume, like the kubelet does.
pub(crate) fn bind(volume: &Path, sub_path: &str, target: &Path) -> Result<PathBuf, Reason> {
    let relative = Path::new(sub_path);
    let plain = |c: Component<'_>| matches!(c, Component::Normal(_) | Component::CurDir);
    if !relative.components().all(plain) {
        return Err(Reason::Path(sub_path.to_owned()));
    }
    let source = open_beneath(volume, relative)?;
    let source = File::from(source);
    let meta = source.metadata().map_err(|e| Reason::system("look at", volume, e))?;
    if already_bound(target, meta.dev(), meta.ino()) {
        return Ok(target.to_owned());
    }
    prepare_target(target, meta.is_dir())?;
    let by_fd = format!("/proc/self/fd/{}", source.as_raw_fd());
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(by_fd.as_str()), target, None::<&str>, flags, None::<&str>)
        .map_err(|e| Reason::system("bind a subPath to", target, e))?;
    Ok(target.to_owned())
}

fn already_bound(target: &Path, dev: u64, ino: u64) -> bool {
    fs::symlink_metadata(target).is_ok_and(|m| m.dev() == dev && m.ino() == ino)
}

/// An empty mount point of the right kind; what an earlier container of this name had there goes.
fn prepare_target(target: &Path, is_dir: bool) -> Result<(), Reason> {
    let system = |action| move |e| Reason::system(action, target, e);
    while umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).is_ok() {}
    let gone = match fs::symlink_metadata(target) {
        Ok(meta) if meta.is_dir() => fs::remove_dir(target),
        Ok(_) => fs::remove_file(target),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    };
    gone.map_err(system("clear"))?;
    if is_dir {
        return make_dir(target);
    }
    if let Some(parent) = target.parent() {
        make_dir(parent)?;
    }
    let made = OpenOptions::new().write(true).create_new(true).open(target);
    made.map(drop).map_err(system("make"))
}

fn open_beneath(volume: &Path, relative: &Path) -> Result<OwnedFd, Reason> {
    let root = File::open(volume).map_err(|e| Reason::system("open", volume, e))?;
    let mut current = OwnedFd::from(root);
    // Links may lead to another part of the volume, so every step starts at the root anew.
    let mut walked = PathBuf::new();
    let root = current.try_clone().map_err(|e| Reason::system("open", volume, e))?;
    for part in relative.components() {
        let Component::Normal(part) = part else { continue };
        walked.push(part);
        current = match open_one(&root, &walked) {
            Err(Errno::ENOENT) => match make_like(&root, &current, part) {
                Ok(()) | Err(Errno::EEXIST) => open_one(&root, &walked),
                Err(e) => Err(e),
            },
            opened => opened,
        }
        .map_err(|e| Reason::system("open the subPath", &volume.join(&walked), e))?;
    }
    Ok(current)
}

/// A folder whose users may do in it what they may in the volume.
fn make_like(root: &OwnedFd, parent: &OwnedFd, name: &OsStr) -> nix::Result<()> {
    let mode = Mode::from_bits_truncate(fstat(root)?.st_mode & 0o7777);
    mkdirat(parent, name, mode)?;
    // The umask must not decide.
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    fchmod(openat(parent, name, flags, Mode::empty())?, mode)
}

fn open_one(root: &OwnedFd, path: &Path) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root, path, how)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_part_that_is_made_has_the_mode_of_the_volume() {
        let dir = tempfile::tempdir().expect("a folder");
        for mode in [0o777, 0o2775] {
            fs::set_permissions(dir.path(), Permissions::from_mode(mode)).expect("a mode");
            let name = format!("{mode:o}/deep");
            assert!(open_beneath(dir.path(), Path::new(&name)).is_ok());
            let made = fs::metadata(dir.path().join(name)).expect("a folder");
            assert_eq!(made.mode() & 0o7777, mode);
        }
    }

    #[test]
    fn links_may_not_leave_the_volume() {
        let dir = tempfile::tempdir().expect("a folder");
        let volume = dir.path().join("v");
        fs::create_dir_all(volume.join("in")).expect("a folder");
        fs::write(volume.join("in/f"), "x").expect("a file");
        symlink("in", volume.join("good")).expect("a link");
        symlink("../..", volume.join("up")).expect("a link");
        symlink("/etc", volume.join("abs")).expect("a link");
        assert!(open_beneath(&volume, Path::new("good/f")).is_ok());
        for bad in ["up", "up/x", "abs", "abs/passwd"] {
            assert!(open_beneath(&volume, Path::new(bad)).is_err(), "{bad}");
        }
        assert!(open_beneath(&volume, Path::new("new/deep")).is_ok());
        assert!(volume.join("new/deep").is_dir());
        assert!(matches!(bind(&volume, "../x", &dir.path().join("t")), Err(Reason::Path(_))));
    }
}
