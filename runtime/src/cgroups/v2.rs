//! The version 2 tree.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use oci_spec::runtime::LinuxResources;

use super::detect::Layout;
use super::devices::{self, DevicePolicy};
use super::files::{read_file, write_file};
use super::folders::make_one;
use super::{Group, limits};
use crate::error::{Context, Error, Failure};
use crate::sys;

/// Beside version 1 hierarchies the version 2 tree holds what they do not: a limit of a controller that is
/// only here, `unified` settings, or the device list when version 1 has no devices controller.
pub(super) fn matters_beside_v1(
    mount: &Path,
    layout: &Layout,
    relative: &Path,
    resources: Option<&LinuxResources>,
) -> bool {
    let in_v1 = |name: &str| layout.v1().iter().flat_map(|hierarchy| &hierarchy.controllers).any(|known| known == name);
    let parent = relative.parent().filter(|parent| !parent.as_os_str().is_empty());
    let limited = resources.is_some_and(|resources| {
        let unified = resources.unified().as_ref().is_some_and(|unified| !unified.is_empty());
        let settings = limits::v1(resources).unwrap_or_default();
        unified || settings.iter().any(|setting| !setting.optional && !in_v1(setting.controller))
    });
    limited || !in_v1("devices") || parent.is_some_and(|parent| mount.join(parent).is_dir())
}

/// Makes the group's folder and those above it, with every controller that is to be had.
pub(super) fn make(group: &Group) -> Result<(), Failure> {
    let relative = group.folder.strip_prefix(&group.mount).unwrap_or(Path::new(""));
    let mut folder = group.mount.clone();
    for component in relative {
        enable_controllers(&folder)?;
        folder.push(component);
        make_one(&folder, group)?;
    }
    Ok(())
}

/// Has every controller that is to be had in a group that systemd made, which enables those that it knows itself.
pub(super) fn enable(group: &Group) -> Result<(), Failure> {
    let relative = group.folder.strip_prefix(&group.mount).unwrap_or(Path::new(""));
    let mut folder = group.mount.clone();
    for component in relative {
        enable_controllers(&folder)?;
        folder.push(component);
    }
    Ok(())
}

fn enable_controllers(folder: &Path) -> Result<(), Failure> {
    let available = read_file(&folder.join("cgroup.controllers"))?;
    let path = folder.join("cgroup.subtree_control");
    let enabled = read_file(&path)?;
    let missing: Vec<String> = available
        .split_whitespace()
        .filter(|name| !enabled.split_whitespace().any(|known| known == *name))
        .map(|name| format!("+{name}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    // One that cannot be enabled, such as cpu with real-time processes about, must not take the others along;
    // if it is needed, the file of its limit will be missing and say so.
    if write_file(&path, &missing.join(" ")).is_err() {
        for name in missing {
            let _ = write_file(&path, &name);
        }
    }
    Ok(())
}

/// With `checkBeforeUpdate` a limit that is used up already is refused; else the kernel would reclaim, and kill.
pub(super) fn check_usage(folder: &Path, resources: &LinuxResources) -> Result<(), Error> {
    let Some(memory) = resources.memory().as_ref().filter(|memory| memory.check_before_update() == Some(true)) else {
        return Ok(());
    };
    // A group without the file has no limit to set either.
    let Ok(text) = read_file(&folder.join("memory.current")) else { return Ok(()) };
    let usage: i64 = text.trim().parse().unwrap_or(0);
    for (field, limit) in [("swap", memory.swap()), ("limit", memory.limit())] {
        if let Some(limit) = limit.filter(|limit| *limit > 0 && *limit <= usage) {
            let reason = format!("{limit} is not more than the {usage} that the container uses");
            return Err(Error::invalid(format!("linux.resources.memory.{field}"), reason));
        }
    }
    Ok(())
}

/// Replaces the device control program of the group.
pub(super) fn set_devices(folder: &Path, policy: &DevicePolicy) -> Result<(), Failure> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let group = open(folder, flags, Mode::empty()).at("open cgroup", folder.display())?;
    let old = sys::device_programs(&group).at("list device programs of", folder.display())?;
    let program =
        sys::load_device_program(&devices::program(policy)).at("load device program for", folder.display())?;
    // The new one first: between the two calls both must allow an access.
    sys::attach_device_program(&group, &program).at("attach device program to", folder.display())?;
    for program in old {
        sys::detach_device_program(&group, &program).at("detach device program from", folder.display())?;
    }
    Ok(())
}

/// Kills every process of the group and below (Linux 5.14).
pub(super) fn kill(folder: &Path) -> Result<(), Failure> {
    write_file(&folder.join("cgroup.kill"), "1")
}

pub(super) fn is_frozen(folder: &Path) -> bool {
    read_file(&folder.join("cgroup.freeze")).is_ok_and(|state| state.trim() == "1")
}

/// Freezes or thaws, and waits until all processes are.
pub(super) fn freeze(folder: &Path, frozen: bool) -> Result<(), Failure> {
    write_file(&folder.join("cgroup.freeze"), if frozen { "1" } else { "0" })?;
    let wanted = format!("frozen {}", u8::from(frozen));
    let deadline = Instant::now() + Duration::from_secs(10);
    while !read_file(&folder.join("cgroup.events"))?.lines().any(|line| line == wanted) {
        if Instant::now() > deadline {
            write_file(&folder.join("cgroup.freeze"), "0")?;
            return Err(Failure::refused("freeze", folder.display(), "not frozen within 10 s; thawed again"));
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's verifier has the last word on the program.
    #[test]
    fn the_kernel_takes_the_device_program() {
        let Ok(layout) = Layout::detect() else { return println!("SKIP: /proc/self/mountinfo cannot be read") };
        let Some(mounted) = layout.v2() else { return println!("SKIP: no cgroup2 is mounted") };
        if !nix::unistd::geteuid().is_root() {
            return println!("SKIP: needs root");
        }
        struct Removed(std::path::PathBuf);
        impl Drop for Removed {
            fn drop(&mut self) {
                std::fs::remove_dir(&self.0).expect("remove cgroup");
            }
        }
        let folder = Removed(mounted.at.join(format!("orlop-test-devices-{}", std::process::id())));
        std::fs::create_dir(&folder.0).expect("make cgroup");
        let rules = r#"[{"allow":false},{"allow":true,"type":"b","major":8,"access":"r"},
                        {"allow":false,"type":"c","major":10,"minor":200,"access":"w"}]"#;
        let rules: Vec<_> = serde_json::from_str(rules).expect("test data");
        for _ in 0..2 {
            set_devices(&folder.0, &DevicePolicy::new(&rules).expect("policy")).expect("set devices");
        }
        let group = std::fs::File::open(&folder.0).expect("open cgroup");
        assert_eq!(sys::device_programs(&group).expect("programs").len(), 1, "the old program is replaced");
    }
}
