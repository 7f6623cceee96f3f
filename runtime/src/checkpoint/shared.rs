//! What both directions tell CRIU about a container.

use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};

use super::criu::{IMAGES, WORK};
use super::wire::Message;
use super::{CgroupsMode, CriuOptions};
use crate::cgroups::{Cgroups, Version};
use crate::devices;
use crate::error::{Context, Error, Failure};
use crate::mounts::MountOptions;
use crate::path::Root;

/// Numbers of fields of `criu_opts` (criu, images/rpc.proto).
pub(super) mod field {
    pub(crate) const IMAGES_DIR_FD: u64 = 1;
    pub(crate) const PID: u64 = 2;
    pub(crate) const LEAVE_RUNNING: u64 = 3;
    pub(crate) const EXT_UNIX_SK: u64 = 4;
    pub(crate) const TCP_ESTABLISHED: u64 = 5;
    pub(crate) const EVASIVE_DEVICES: u64 = 6;
    pub(crate) const SHELL_JOB: u64 = 7;
    pub(crate) const FILE_LOCKS: u64 = 8;
    pub(crate) const LOG_LEVEL: u64 = 9;
    pub(crate) const LOG_FILE: u64 = 10;
    pub(crate) const PAGE_SERVER: u64 = 11;
    pub(crate) const NOTIFY_SCRIPTS: u64 = 12;
    pub(crate) const ROOT: u64 = 13;
    pub(crate) const PARENT_IMG: u64 = 14;
    pub(crate) const TRACK_MEM: u64 = 15;
    pub(crate) const AUTO_DEDUP: u64 = 16;
    pub(crate) const WORK_DIR_FD: u64 = 17;
    pub(crate) const LINK_REMAP: u64 = 18;
    pub(crate) const EXT_MNT: u64 = 23;
    pub(crate) const MANAGE_CGROUPS: u64 = 24;
    pub(crate) const CG_ROOT: u64 = 25;
    pub(crate) const RST_SIBLING: u64 = 26;
    pub(crate) const INHERIT_FD: u64 = 27;
    pub(crate) const MANAGE_CGROUPS_MODE: u64 = 34;
    pub(crate) const EXTERNAL: u64 = 37;
    pub(crate) const EMPTY_NS: u64 = 38;
    pub(crate) const JOIN_NS: u64 = 39;
    pub(crate) const CGROUP_DUMP_CONTROLLER: u64 = 43;
    pub(crate) const FREEZE_CGROUP: u64 = 44;
    pub(crate) const TCP_SKIP_IN_FLIGHT: u64 = 46;
    pub(crate) const LAZY_PAGES: u64 = 48;
    pub(crate) const ORPHAN_PTS_MASTER: u64 = 50;
    pub(crate) const CONFIG_FILE: u64 = 51;
    pub(crate) const LSM_PROFILE: u64 = 53;
    pub(crate) const LSM_MOUNT_CONTEXT: u64 = 63;
    pub(crate) const NETWORK_LOCK: u64 = 64;
}

/// A value of `NETWORK_LOCK`.
pub(super) const NFTABLES: u64 = 2;

/// What masks files.
pub(super) const NULL: &str = "/dev/null";

/// Where the standard descriptors of the container led: what runc writes beside the files of CRIU, and reads.
pub(super) const DESCRIPTORS: &str = "descriptors.json";

/// The options of both directions, and where CRIU says what it does.
pub(super) fn begin(criu: &CriuOptions, spec: &Spec, log: &str) -> Result<(Message, Log), Failure> {
    let mut message = Message::default();
    message.number(field::IMAGES_DIR_FD, IMAGES);
    if let Some(path) = &criu.work {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(path).at("make", path.display())?;
        message.number(field::WORK_DIR_FD, WORK);
    }
    message.number(field::LOG_LEVEL, 4);
    message.bytes(field::LOG_FILE, log.as_bytes());
    message.flag(field::NOTIFY_SCRIPTS, true);
    message.flag(field::ORPHAN_PTS_MASTER, true);
    message.flag(field::TCP_ESTABLISHED, criu.tcp_established);
    message.flag(field::EXT_UNIX_SK, criu.ext_unix_sk);
    message.flag(field::SHELL_JOB, criu.shell_job);
    message.flag(field::FILE_LOCKS, criu.file_locks);
    message.flag(field::LAZY_PAGES, criu.lazy_pages);
    message.flag(field::AUTO_DEDUP, criu.auto_dedup);
    // The devices in a network namespace are somebody else's to make.
    message.number(field::EMPTY_NS, libc::CLONE_NEWNET as u64);
    let mode = match criu.cgroups {
        CgroupsMode::Ignore => 0,
        CgroupsMode::Soft => 3,
        CgroupsMode::Full => 4,
        CgroupsMode::Strict => 5,
    };
    message.flag(field::MANAGE_CGROUPS, true);
    message.number(field::MANAGE_CGROUPS_MODE, mode);
    // A file of an administrator's, or of who made the container, overrides all of this.
    let named = spec.annotations().as_ref().and_then(|all| all.get("org.criu.config"));
    match named.map_or("/etc/criu/runc.conf", String::as_str) {
        "" => (),
        path => message.bytes(field::CONFIG_FILE, path.as_bytes()),
    }
    Ok((message, Log(criu.work.as_ref().unwrap_or(&criu.images).join(log))))
}

/// The file in which CRIU says what it does.
#[derive(Debug)]
pub(super) struct Log(PathBuf);

impl Log {
    /// Adds to an error of CRIU's what it wrote about it last.
    pub(super) fn explain(&self, error: Error) -> Error {
        let Error::Failed(failure) = &error else { return error };
        if failure.object != "criu" {
            return error;
        }
        let text = std::fs::read(&self.0).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut lines: Vec<&str> = text.lines().filter_map(|line| Some(line.split_once(") Error ")?.1)).collect();
        let last = lines.split_off(lines.len().saturating_sub(3));
        let why = if last.is_empty() { &failure.note } else { &last.join("; ") };
        failure.clone().note(format!("{why}; see {}", self.0.display()).trim_start_matches("; ")).into()
    }
}

/// A mount whose source CRIU is told, since it is not the container's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outside {
    /// Where it is in the container, which is its name in the files.
    pub(super) point: PathBuf,
    /// What is there.
    pub(super) source: PathBuf,
}

/// The mounts from outside: binds, groups of cgroups, and devices. What masks files is not among them.
pub(super) fn outside(spec: &Spec, cgroups: &Cgroups, bundle: &Path, rootfs: &Path) -> Result<Vec<Outside>, Failure> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = Root::new(open(rootfs, flags, Mode::empty()).at("open rootfs", rootfs.display())?);
    let host = std::fs::canonicalize(rootfs).at("resolve", rootfs.display())?;
    // Where a path leads in the container, whose folders may be links.
    let real = |path: &Path| {
        let found = root.open(path, OFlag::O_PATH).ok().and_then(|fd| {
            let there = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok()?;
            Some(Path::new("/").join(there.strip_prefix(&host).ok()?))
        });
        found.unwrap_or_else(|| path.to_path_buf())
    };
    let mut all = Vec::new();
    let mut add = |point: PathBuf, source: PathBuf| all.push(Outside { point, source });
    for mount in spec.mounts().iter().flatten() {
        let point = real(mount.destination());
        if let Some(source) = bound(mount, bundle) {
            add(point, source);
        } else if matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2")) {
            for group in &cgroups.0 {
                match (cgroups.0.len(), group.version, group.mount.file_name()) {
                    (1, Version::V2, _) => add(point.clone(), group.folder.clone()),
                    (_, _, Some(name)) => add(point.join(name), group.folder.clone()),
                    _ => (),
                }
            }
        }
    }
    let linux = spec.linux().as_ref();
    for path in devices::paths(linux.and_then(|linux| linux.devices().as_deref()).unwrap_or_default()) {
        add(path.clone(), path);
    }
    Ok(all)
}

/// What a mount binds, if it is a bind mount.
pub(super) fn bound(mount: &Mount, bundle: &Path) -> Option<PathBuf> {
    let options = MountOptions::parse(mount.options().as_deref().unwrap_or_default());
    let is_bind = options.bind.is_some() || mount.typ().as_deref() == Some("bind");
    (is_bind && !options.remount).then(|| bundle.join(mount.source().clone().unwrap_or_default()))
}

/// The bytes of a path.
pub(super) fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// The namespaces that the container joins, by kind, with their paths.
pub(super) fn joined(spec: &Spec) -> Vec<(LinuxNamespaceType, PathBuf)> {
    let all = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref()).into_iter().flatten();
    let path = |path: &Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
    all.filter_map(|namespace| Some((namespace.typ(), path(namespace.path())?))).collect()
}

/// The name of a kind of namespace to CRIU, and the one by which it finds one from outside that it does not make.
pub(super) fn names(kind: LinuxNamespaceType) -> (&'static str, Option<&'static str>) {
    match kind {
        LinuxNamespaceType::Network => ("net", Some("extRootNetNS")),
        LinuxNamespaceType::Pid => ("pid", Some("extRootPidNS")),
        LinuxNamespaceType::Mount => ("mnt", None),
        LinuxNamespaceType::Ipc => ("ipc", None),
        LinuxNamespaceType::Uts => ("uts", None),
        LinuxNamespaceType::User => ("user", None),
        LinuxNamespaceType::Time => ("time", None),
        LinuxNamespaceType::Cgroup => ("cgroup", None),
    }
}

/// What cannot be written down.
pub(super) fn check(spec: &Spec) -> Result<(), Error> {
    let linux = spec.linux().as_ref();
    if linux.is_some_and(crate::inherited::has_mounts_of_host) {
        let why = "CRIU needs a mount namespace of the container's own";
        return Err(Error::unsupported("checkpoint and restore without a mount namespace", why));
    }
    if joined(spec).iter().any(|(kind, _)| *kind == LinuxNamespaceType::Cgroup) {
        let why = "CRIU cannot join one";
        return Err(Error::unsupported("checkpoint and restore with linux.namespaces: cgroup by path", why));
    }
    Ok(())
}
