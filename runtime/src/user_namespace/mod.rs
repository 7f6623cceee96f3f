//! User namespaces (user_namespaces(7)): which ids are mapped and by whom, what an ordinary user cannot have, and
//! how a process becomes root in one.
//!
//! An ordinary user may map nobody but themselves, by writing the mapping. More than that is mapped by newuidmap
//! and newgidmap, programs with the privilege for it, as far as /etc/subuid and /etc/subgid allow. What the map
//! of groups leaves out must not be dropped either: with only the own group mapped the kernel wants setgroups(2)
//! forbidden in the namespace first, since a group can also take permissions away.

mod ahead;
mod check;
mod hindrance;
mod inside;
mod mapping;
mod subordinate;

pub(crate) use ahead::clone_ahead;
pub(crate) use check::{check, check_idmapped, host_id};
pub(crate) use hindrance::hinder;
pub(crate) use inside::{become_root, set_groups};
pub(crate) use mapping::map;

use std::sync::OnceLock;

/// Who calls the runtime, in the caller's own user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Caller {
    pub(crate) fn current() -> Caller {
        Caller { uid: uid(), gid: nix::unistd::getegid().as_raw() }
    }

    /// Whether the caller has no rights but those over their own: not root of any user namespace.
    pub(crate) fn is_ordinary(self) -> bool {
        self.uid != 0
    }
}

/// The effective user. Asked once: nobody who calls a runtime becomes another user between two calls.
pub(crate) fn uid() -> u32 {
    static UID: OnceLock<u32> = OnceLock::new();
    *UID.get_or_init(|| nix::unistd::geteuid().as_raw())
}

/// Whether the caller is in a user namespace below the host's: root may do less there than it seems
/// (user_namespaces(7)).
pub fn is_nested() -> bool {
    let whole = |text: String| text.split_whitespace().eq(["0", "0", "4294967295"]);
    // A kernel without user namespaces has no such file.
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|text| !whole(text))
}
