//! An overlay for another OCI runtime, which wants to find its root filesystem mounted: in a mount namespace
//! of that program alone. The host never sees it, and it goes when the container's own goes.
#![allow(unsafe_code)]

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use orlop_shim::protocol::{Failure, FailureKind};

use crate::failure::failure;
use crate::proc::Proc;

/// mount(2) takes a page of options.
const OPTIONS: usize = 4095;

/// Has `command` begin with the overlay mounted at `target`.
pub(crate) fn mount_for(
    command: &mut Command,
    proc: &Proc,
    target: &Path,
    lower: &[PathBuf],
    upper: Option<&Path>,
    work: Option<&Path>,
) -> Result<(), Failure> {
    let options = options(lower, upper, work)?;
    let parent = parent_mount(&proc.read_own("mountinfo")?, target);
    let target = target.to_owned();
    let prepare = move || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        // What is mounted on this one mount from here on stays in here. The others keep propagating, as
        // volumes with bidirectional propagation need.
        mount(None::<&str>, &parent, None::<&str>, MsFlags::MS_SLAVE, None::<&str>)?;
        mount(Some("overlay"), &target, Some("overlay"), MsFlags::empty(), Some(options.as_str()))?;
        Ok(())
    };
    // SAFETY: runs in the child of a process with one thread, which may do all that a process may.
    unsafe { command.pre_exec(prepare) };
    Ok(())
}

fn options(lower: &[PathBuf], upper: Option<&Path>, work: Option<&Path>) -> Result<String, Failure> {
    let text = |path: &Path| -> Result<String, Failure> {
        let text = path
            .to_str()
            .ok_or_else(|| failure(FailureKind::Invalid, format!("overlay: {} is not UTF-8", path.display())))?;
        // overlayfs.rst: a backslash escapes; the comma is mount(2)'s own separator.
        Ok(text.chars().flat_map(|c| matches!(c, '\\' | ':' | ',').then_some('\\').into_iter().chain([c])).collect())
    };
    let layers = lower.iter().map(|layer| text(layer)).collect::<Result<Vec<_>, _>>()?;
    let lower_option = format!("lowerdir={}", layers.join(":"));
    let options = match (upper, work) {
        (Some(upper), Some(work)) => {
            format!("{lower_option},upperdir={},workdir={},volatile", text(upper)?, text(work)?)
        }
        _ => lower_option,
    };
    if options.len() > OPTIONS {
        let message = format!(
            "{} layers are too many for another OCI runtime: their paths need {} bytes of {OPTIONS}",
            lower.len(),
            options.len()
        );
        return Err(failure(FailureKind::Unsupported, message));
    }
    Ok(options)
}

/// The mount point that holds `target`: the longest in /proc/self/mountinfo that is above it.
fn parent_mount(mounts: &str, target: &Path) -> PathBuf {
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
    let above = points.filter(|point| target.starts_with(point) && *point != target);
    above.max_by_key(|point| point.components().count()).unwrap_or(Path::new("/")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_escaped_and_bounded() {
        let lower = [PathBuf::from("/a:b"), PathBuf::from("/c,d\\e")];
        let both = options(&lower, Some(Path::new("/u")), Some(Path::new("/w")));
        assert_eq!(both.as_deref(), Ok(r"lowerdir=/a\:b:/c\,d\\e,upperdir=/u,workdir=/w,volatile"));
        assert_eq!(options(&lower[..1], None, None).as_deref(), Ok(r"lowerdir=/a\:b"));
        let many = vec![PathBuf::from("/x".repeat(50)); 50];
        assert_eq!(options(&many, None, None).map_err(|error| error.kind), Err(FailureKind::Unsupported));
    }

    #[test]
    fn the_nearest_mount_above() {
        let mounts = "\
22 1 8:1 / / rw - ext4 /dev/root rw
30 22 0:30 / /run rw shared:1 - tmpfs tmpfs rw
31 30 0:31 / /run/other rw - tmpfs tmpfs rw
32 30 0:32 / /run/b/rootfs rw - tmpfs tmpfs rw
";
        assert_eq!(parent_mount(mounts, Path::new("/run/b/rootfs")), Path::new("/run"));
        assert_eq!(parent_mount(mounts, Path::new("/runner/b")), Path::new("/"));
    }
}
