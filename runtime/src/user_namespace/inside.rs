//! In a user namespace: becoming its root, and groups where they may not be changed.

use nix::errno::Errno;

use crate::error::{Context, Failure};
use crate::procfs::ProcFs;
use crate::sys;

/// Makes the calling process root of the user namespace that it has come into; where 0 is not mapped, the first
/// id that is. Either has all capabilities there.
pub(crate) fn become_root(proc: &ProcFs) -> Result<(), Failure> {
    let (step, object) = ("become", "root of the user namespace");
    set_groups(proc, &[])?;
    if let Err(errno) = sys::set_gid(0) {
        sys::set_gid(first_id(proc, "self/gid_map", errno).at(step, object)?).at(step, object)?;
    }
    if let Err(errno) = sys::set_uid(0) {
        sys::set_uid(first_id(proc, "self/uid_map", errno).at(step, object)?).at(step, object)?;
    }
    Ok(())
}

fn first_id(proc: &ProcFs, map: &str, errno: Errno) -> nix::Result<u32> {
    if errno != Errno::EINVAL {
        return Err(errno);
    }
    proc.read(map)?.split_whitespace().next().and_then(|id| id.parse().ok()).ok_or(errno)
}

/// Sets the supplementary groups. Where setgroups(2) is forbidden, no groups are those that the caller has: they
/// cannot be dropped.
pub(crate) fn set_groups(proc: &ProcFs, groups: &[u32]) -> Result<(), Failure> {
    let (step, object) = ("set", "supplementary groups");
    match sys::set_groups(groups) {
        Err(Errno::EPERM) if proc.read("self/setgroups").is_ok_and(|text| text.trim() == "deny") => {
            if groups.is_empty() {
                return Ok(());
            }
            let note = "process.user.additionalGids: cannot set any additional groups in a rootless container whose \
                        linux.gidMappings have the own group only";
            Err(Failure::new(step, object, Errno::EPERM).note(note))
        }
        Err(errno @ Errno::EINVAL) => Err(Failure::new(step, object, errno)
            .note("process.user.additionalGids: one of them is not mapped in the user namespace")),
        result => result.at(step, object),
    }
}
