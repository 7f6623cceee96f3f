//! Removing a pod's volumes and its whole folder.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

/// Unmounts what is mounted below the pod's folder and removes it; an absent folder is success.
///
/// # Errors
/// The first step that failed, with its path; the others were tried all the same.
pub(crate) fn tear_down(pod_dir: &Path) -> io::Result<()> {
    let mut first = Ok(());
    let mounts = fs::read("/proc/self/mountinfo")?;
    // Inner mounts come later in the list than what they are on.
    for point in mount_points(&mounts).into_iter().rev() {
        if !point.starts_with(pod_dir) {
            continue;
        }
        match umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(e) if first.is_ok() => {
                first = Err(io::Error::other(format!("cannot unmount {}: {e}", point.display())));
            }
            Err(_) => {}
        }
    }
    // With something still mounted, removal would reach into it.
    first?;
    match fs::remove_dir_all(pod_dir) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(io::Error::new(e.kind(), format!("cannot remove {}: {e}", pod_dir.display())))
        }
        _ => Ok(()),
    }
}

fn mount_points(mountinfo: &[u8]) -> Vec<PathBuf> {
    let lines = mountinfo.split(|b| *b == b'\n');
    lines
        .filter_map(|line| line.split(|b| *b == b' ').nth(4))
        .map(|field| PathBuf::from(OsString::from_vec(unescape(field))))
        .collect()
}

/// Undoes the octal escapes of proc_pid_mountinfo(5).
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = (byte == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        out.push(octal.unwrap_or(byte));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        let text = b"1 2 0:1 / / rw - ext4 x rw\n3 1 0:2 / /a\\040b rw - tmpfs tmpfs rw\n";
        assert_eq!(mount_points(text), [PathBuf::from("/"), PathBuf::from("/a b")]);
    }

    #[test]
    fn absent_is_done() {
        assert!(tear_down(Path::new("/nonexistent/pods/x")).is_ok());
    }
}
