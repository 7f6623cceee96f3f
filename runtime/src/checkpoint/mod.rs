//! Checkpoint and restore, by CRIU: the processes of a container are written to files, and made anew from them.
//!
//! CRIU is a program of its own (`criu swrk`), asked over a socket in the way that runc asks it, so that the files
//! are of one form: a container that runc wrote down can go on here, and the other way round.
//!
//! ```text
//! checkpoint: running, paused --> files; then deleted, or goes on as before
//! restore:    files --> creating --> running
//! ```
//! A restore is a create whose process CRIU makes: record first, then cgroups, then the process, which is on record
//! before it goes on. It lives in the container's cgroups, and so does CRIU meanwhile: whoever removes those ends
//! what was left half restored.

mod criu;
mod dump;
mod images;
mod restore;
mod shared;
mod wire;

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::str::FromStr;

use crate::options::CreateOptions;

/// What CRIU does about cgroups (criu(8), `--manage-cgroups`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupsMode {
    /// Restore properties of groups that it makes.
    #[default]
    Soft,
    /// Restore all groups and their properties.
    Full,
    /// As full, and fail when a group is there already.
    Strict,
    /// Leave cgroups alone.
    Ignore,
}

impl FromStr for CgroupsMode {
    type Err = String;

    fn from_str(text: &str) -> Result<CgroupsMode, String> {
        match text {
            "" | "soft" => Ok(CgroupsMode::Soft),
            "full" => Ok(CgroupsMode::Full),
            "strict" => Ok(CgroupsMode::Strict),
            "ignore" => Ok(CgroupsMode::Ignore),
            _ => Err(format!("unknown mode {text:?}: use soft, full, strict or ignore")),
        }
    }
}

/// What is said to CRIU in both directions; the names are those of its options (criu(8)).
#[derive(Clone, Debug)]
pub struct CriuOptions {
    /// The program, looked for in `PATH` when it is a plain name.
    pub program: PathBuf,
    /// The folder of the files.
    pub images: PathBuf,
    /// The folder of logs and what else is only for the time being; without it that of the files.
    pub work: Option<PathBuf>,
    /// Take established TCP connections along.
    pub tcp_established: bool,
    /// Allow unix sockets whose other end is outside of the container.
    pub ext_unix_sk: bool,
    /// Allow a session and a terminal from outside of the container.
    pub shell_job: bool,
    /// Take file locks along.
    pub file_locks: bool,
    /// Bring memory over when it is needed.
    pub lazy_pages: bool,
    /// Keep each page of memory in one set of files only.
    pub auto_dedup: bool,
    /// What to do about cgroups.
    pub cgroups: CgroupsMode,
}

impl CriuOptions {
    /// Files in this folder, and all options off.
    pub fn new(images: impl Into<PathBuf>) -> CriuOptions {
        CriuOptions {
            program: PathBuf::from("criu"),
            images: images.into(),
            work: None,
            tcp_established: false,
            ext_unix_sk: false,
            shell_job: false,
            file_locks: false,
            lazy_pages: false,
            auto_dedup: false,
            cgroups: CgroupsMode::Soft,
        }
    }
}

/// What [`crate::Runtime::checkpoint`] writes, and what becomes of the container.
#[derive(Clone, Debug)]
pub struct CheckpointOptions {
    /// How CRIU does it.
    pub criu: CriuOptions,
    /// The files of an earlier pre-dump, relative to the folder of the files.
    pub parent: Option<PathBuf>,
    /// Let the container go on afterwards; else it is deleted.
    pub leave_running: bool,
    /// Write only memory, as a parent of a later checkpoint; the container goes on.
    pub pre_dump: bool,
    /// Leave out TCP connections that are being made.
    pub tcp_skip_in_flight: bool,
    /// Give files that were removed while open a name again.
    pub link_remap: bool,
    /// A page server, by address and port, that gets the memory.
    pub page_server: Option<(String, u16)>,
    /// A descriptor that gets one zero byte when the server of lazy pages is ready.
    pub status_fd: Option<RawFd>,
}

impl CheckpointOptions {
    /// A whole checkpoint, after which the container is deleted.
    pub fn new(criu: CriuOptions) -> CheckpointOptions {
        CheckpointOptions {
            criu,
            parent: None,
            leave_running: false,
            pre_dump: false,
            tcp_skip_in_flight: false,
            link_remap: false,
            page_server: None,
            status_fd: None,
        }
    }
}

/// What [`crate::Runtime::restore`] makes a container from.
#[derive(Debug)]
pub struct RestoreOptions {
    /// How CRIU does it.
    pub criu: CriuOptions,
    /// The container; what concerns its first process before its program runs is not looked at.
    pub container: CreateOptions,
    /// Another LSM label than was written, as in `selinux:LABEL`.
    pub lsm_profile: Option<String>,
    /// Another SELinux context for mounts that have one.
    pub lsm_mount_context: Option<String>,
}
