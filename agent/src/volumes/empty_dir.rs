//! `emptyDir`: a folder of the pod, on disk or in memory.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use k8s_openapi::api::core::v1::EmptyDirVolumeSource;
use nix::mount::{MsFlags, mount};

use super::{Reason, make_dir};
use crate::quantity::Amount;

/// Makes the volume; `pod_memory` (bytes) bounds one in memory.
pub(super) fn set_up(path: &Path, source: &EmptyDirVolumeSource, pod_memory: Option<i64>) -> Result<(), Reason> {
    match source.medium.as_deref().unwrap_or_default() {
        "" => make_dir(path)?,
        "Memory" => {
            let limit = source.size_limit.as_ref().and_then(Amount::of).map(Amount::value);
            let size = [limit.filter(|l| *l > 0), pod_memory].into_iter().flatten().min();
            mount_tmpfs(path, size)?;
        }
        _ => return Err(Reason::Unsupported("emptyDir with medium HugePages")),
    }
    let mode = fs::metadata(path).map_err(|e| Reason::system("look at", path, e))?.mode();
    if mode & 0o777 != 0o777 {
        let open = fs::Permissions::from_mode(mode | 0o777);
        fs::set_permissions(path, open).map_err(|e| Reason::system("chmod", path, e))?;
    }
    Ok(())
}

/// Mounts a tmpfs of at most `size` bytes, unless one is mounted already.
pub(super) fn mount_tmpfs(path: &Path, size: Option<i64>) -> Result<(), Reason> {
    make_dir(path)?;
    if is_mount_point(path)? {
        return Ok(());
    }
    let data = size.map_or_else(|| "mode=0755".to_owned(), |s| format!("mode=0755,size={s}"));
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(data.as_str()))
        .map_err(|e| Reason::system("mount a tmpfs on", path, e))
}

fn is_mount_point(path: &Path) -> Result<bool, Reason> {
    let look = |p: &Path| fs::metadata(p).map_err(|e| Reason::system("look at", p, e));
    let parent = path.parent().unwrap_or(path);
    Ok(look(path)?.dev() != look(parent)?.dev())
}
