//! The mount option `remount`: no new mount but other options for the one that is there, as mount(2) has it
//! with `MS_REMOUNT`. What is not given is off again, except for the access times.

use nix::fcntl::OFlag;
use nix::mount::MsFlags;

use super::options::is_optional;
use super::{PlannedMount, set_attributes};
use crate::error::{Context, Failure};
use crate::path::{Root, fd_path};
use crate::sys::{MountAttr, attr};

/// Changes the mount at the destination, or with `bind` only how it is seen there.
pub(super) fn remount(root: &Root, mount: &PlannedMount, bind: bool) -> Result<(), Failure> {
    let step = "remount";
    let object = || mount.destination.display().to_string();
    let target = root.open(&mount.destination, OFlag::O_PATH).at(step, object())?;
    let mut flags = MsFlags::MS_REMOUNT | ms_flags(mount.options.attr.set);
    flags.set(MsFlags::MS_BIND, bind);
    if mount.options.attr.clear & attr::ATIME != 0 && mount.options.attr.set & attr::ATIME == attr::RELATIME {
        flags |= MsFlags::MS_RELATIME;
    }
    let pair = |(key, value): &(String, Option<String>)| match value {
        Some(value) => format!("{key}={value}"),
        None => key.clone(),
    };
    let data = mount.options.data.iter().filter(|(key, _)| !is_optional(key)).map(pair).collect::<Vec<_>>().join(",");
    let data = (!bind && !data.is_empty()).then_some(data.as_str());
    nix::mount::mount(None::<&str>, fd_path(&target).as_str(), None::<&str>, flags, data).at(step, object())?;
    set_attributes(&target, &MountAttr::default(), &mount.options).at(step, object())
}

fn ms_flags(set: u64) -> MsFlags {
    let pairs = [
        (attr::RDONLY, libc::MS_RDONLY),
        (attr::NOSUID, libc::MS_NOSUID),
        (attr::NODEV, libc::MS_NODEV),
        (attr::NOEXEC, libc::MS_NOEXEC),
        (attr::NOATIME, libc::MS_NOATIME),
        (attr::STRICTATIME, libc::MS_STRICTATIME),
        (attr::NODIRATIME, libc::MS_NODIRATIME),
        // `MS_NOSYMFOLLOW` of linux/mount.h.
        (attr::NOSYMFOLLOW, 0x100),
    ];
    let flags = pairs.into_iter().filter(|(attr, _)| set & attr != 0).fold(0, |all, (_, flag)| all | flag);
    MsFlags::from_bits_retain(flags)
}
