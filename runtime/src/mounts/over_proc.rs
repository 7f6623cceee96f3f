//! What may be mounted on and below /proc. Programs take what they read there for the kernel's word, and write
//! there to the kernel, as for labels: a volume of an image must not stand in its place (CVE-2019-16884,
//! CVE-2019-19921). This runtime itself does not look at the container's /proc at all.

use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use nix::sys::stat::fstat;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use super::{Kind, PlannedMount};
use crate::error::{Context, Error, Failure};
use crate::procfs::PROC_ROOT_INODE;

/// Files that tell of the host and that lxcfs has for a container, below /proc. runc allows the same.
const ALLOWED: [&str; 11] = [
    "cpuinfo",
    "diskstats",
    "meminfo",
    "stat",
    "swaps",
    "uptime",
    "loadavg",
    "slabinfo",
    "net/dev",
    "sys/kernel/ns_last_pid",
    "sys/crypto/fips_enabled",
];

/// Refuses what cannot be right whatever is mounted.
pub(super) fn check(destination: &Path, kind: &Kind) -> Result<(), Error> {
    let refused = |why: &str| Err(Error::invalid(format!("mounts[{}]", destination.display()), why));
    match (below_proc(destination), kind) {
        (None, _) | (_, Kind::Remount { .. }) => Ok(()),
        (Some(below), Kind::Bind { .. }) if below.as_os_str().is_empty() => Ok(()),
        (Some(below), Kind::Filesystem(name)) if below.as_os_str().is_empty() && name == "proc" => Ok(()),
        (Some(below), _) if below.as_os_str().is_empty() => refused("only a procfs can be mounted at /proc"),
        (Some(below), _) if ALLOWED.iter().any(|allowed| below == Path::new(allowed)) => Ok(()),
        _ => refused("nothing can be mounted inside /proc but files that lxcfs emulates"),
    }
}

/// Refuses a bind mount at /proc of what is not a whole procfs.
pub(super) fn check_source(mount: &PlannedMount, tree: &OwnedFd) -> Result<(), Failure> {
    if below_proc(&mount.destination).is_none_or(|below| !below.as_os_str().is_empty()) {
        return Ok(());
    }
    let object = || format!("{} at {}", mount.source.display(), mount.destination.display());
    let kind = fstatfs(tree).at("mount", object())?.filesystem_type();
    if kind != PROC_SUPER_MAGIC || fstat(tree).at("mount", object())?.st_ino != PROC_ROOT_INODE {
        return Err(Failure::refused("mount", object(), "only a procfs can be mounted at /proc"));
    }
    Ok(())
}

/// The path below /proc that a destination is, if it is there, by its text alone.
fn below_proc(destination: &Path) -> Option<PathBuf> {
    let mut plain = PathBuf::new();
    for component in destination.components() {
        match component {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => drop(plain.pop()),
            _ => (),
        }
    }
    plain.strip_prefix("proc").map(Path::to_path_buf).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations() {
        let tmpfs = Kind::Filesystem("tmpfs".to_owned());
        let bind = Kind::Bind { recursive: true };
        let fits = |path: &str, kind: &Kind| check(Path::new(path), kind).is_ok();
        assert!(fits("/proc", &Kind::Filesystem("proc".to_owned())));
        assert!(fits("/proc", &bind), "its source is looked at later");
        assert!(fits("/proc/uptime", &bind) && fits("/proc/net/./dev", &bind) && fits("/processes", &tmpfs));
        assert!(fits("/proc/sys", &Kind::Remount { bind: true }));
        for path in ["/proc", "/proc/", "/../proc", "/tmp/../proc/self", "//proc/./self/attr", "/proc/sys"] {
            assert!(!fits(path, &tmpfs), "{path}");
        }
        assert!(!fits("/proc/self/attr/exec", &bind));
    }
}
