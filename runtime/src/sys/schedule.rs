//! When and where a process runs and where its memory is: sched_setattr(2), sched_setaffinity(2),
//! set_mempolicy(2).

use super::check;

/// `struct sched_attr` of linux/sched/types.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SchedAttr {
    /// Filled in when it is set.
    pub(crate) size: u32,
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
    pub(crate) util_min: u32,
    pub(crate) util_max: u32,
}

/// Sets how the calling thread is scheduled.
pub(crate) fn set_scheduler(attr: &SchedAttr) -> nix::Result<()> {
    let attr = SchedAttr { size: size_of::<SchedAttr>() as u32, ..*attr };
    // SAFETY: the structure says its size and lives through the call.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) }).map(drop)
}

/// Sets the CPUs that the calling thread may run on, a bit for each.
pub(crate) fn set_affinity(cpus: &[u64]) -> nix::Result<()> {
    // SAFETY: the mask is as long as said and lives through the call.
    check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(cpus), cpus.as_ptr()) }).map(drop)
}

/// The CPUs that the calling thread may run on, a bit for each of `words * 64`.
pub(crate) fn affinity(words: usize) -> nix::Result<Vec<u64>> {
    let mut cpus = vec![0_u64; words];
    let length = words * size_of::<u64>();
    // SAFETY: the mask is as long as said; the kernel writes no more.
    check(unsafe { libc::syscall(libc::SYS_sched_getaffinity, 0, length, cpus.as_mut_ptr()) })?;
    Ok(cpus)
}

/// Sets from which nodes the calling thread gets memory; `nodes` has a bit for each, and may be empty.
pub(crate) fn set_memory_policy(mode: u32, nodes: &[u64]) -> nix::Result<()> {
    // The kernel takes one more than the bits that it looks at.
    let (mask, bits) = if nodes.is_empty() { (std::ptr::null(), 0) } else { (nodes.as_ptr(), nodes.len() * 64 + 1) };
    // SAFETY: the mask has as many bits as said, or is null, and lives through the call.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) }).map(drop)
}
