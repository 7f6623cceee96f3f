//! Writing the mappings of a new user namespace.

use nix::errno::Errno;
use nix::unistd::Pid;
use oci_spec::runtime::{Linux, LinuxIdMapping};

use super::subordinate::{self, Ids};
use super::{Caller, hinder, is_nested};
use crate::error::{Context, Failure};
use crate::mounts::id_map_lines;

/// Maps the ids of the new user namespace that the process `pid` is the first in.
pub(crate) fn map(pid: Pid, linux: &Linux, caller: Caller) -> Result<(), Failure> {
    let uids = linux.uid_mappings().as_deref().unwrap_or_default();
    let gids = linux.gid_mappings().as_deref().unwrap_or_default();
    if caller.is_ordinary() && is_only(gids, caller.gid) {
        let path = format!("/proc/{pid}/setgroups");
        std::fs::write(&path, "deny").at("write", &path)?;
    }
    write(pid, uids, Ids::users(caller), caller)?;
    write(pid, gids, Ids::groups(caller), caller)
}

/// Whether a mapping has one id, and it is this one of the host.
pub(super) fn is_only(mappings: &[LinuxIdMapping], own: u32) -> bool {
    matches!(mappings, [only] if only.size() == 1 && only.host_id() == own)
}

fn write(pid: Pid, mappings: &[LinuxIdMapping], ids: Ids, caller: Caller) -> Result<(), Failure> {
    let path = format!("/proc/{pid}/{}", ids.map);
    match std::fs::write(&path, id_map_lines(mappings)).at("write", &path) {
        Err(failure) if failure.errno == Errno::EPERM as i32 && caller.is_ordinary() && !is_only(mappings, ids.own) => {
            subordinate::map(pid, mappings, &ids)
        }
        Err(failure) => Err(explain(failure, &ids, caller)),
        Ok(()) => Ok(()),
    }
}

fn explain(failure: Failure, ids: &Ids, caller: Caller) -> Failure {
    let refused = failure.errno == Errno::EPERM as i32;
    if refused && !caller.is_ordinary() && is_nested() {
        let note = format!("{}: the host ids must be mapped in the caller's own /proc/self/{}", ids.field, ids.map);
        return failure.note(note);
    }
    let note = format!("{}: the kernel does not take it", ids.field);
    match failure.errno {
        errno if errno == Errno::EINVAL as i32 => failure.note(format!("{note}; ranges must not overlap")),
        errno if errno == Errno::EPERM as i32 || errno == Errno::EACCES as i32 => hinder(failure),
        _ => failure.note(note),
    }
}
