//! `fsGroup`: volumes belong to the pod's group.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown};
use std::path::Path;

use k8s_openapi::api::core::v1::PodSpec;

use super::Reason;
use crate::resources::all_containers;

/// Who shall own the files of the pod's volumes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Owner {
    /// `fsGroup`.
    pub(crate) group: Option<u32>,
    /// The user all containers share, if they do.
    pub(crate) user: Option<u32>,
}

impl Owner {
    /// Reads the pod's and its containers' security contexts.
    pub(crate) fn of(spec: &PodSpec) -> Self {
        let pod = spec.security_context.as_ref();
        let pod_user = pod.and_then(|s| s.run_as_user);
        let mut users =
            all_containers(spec).map(|c| c.security_context.as_ref().and_then(|s| s.run_as_user).or(pod_user));
        let first = users.next().flatten();
        let shared = first.filter(|_| users.all(|user| user == first));
        let id = |id: i64| u32::try_from(id).ok();
        Self { group: pod.and_then(|s| s.fs_group).and_then(id), user: shared.and_then(id) }
    }
}

/// Gives a writable volume to the group once: a volume whose root is right already is left alone.
pub(super) fn apply_once(root: &Path, owner: Owner) -> Result<(), Reason> {
    let Some(group) = owner.group else {
        return Ok(());
    };
    let meta = fs::symlink_metadata(root).map_err(|e| Reason::system("look at", root, e))?;
    if meta.gid() == group && meta.mode() & 0o2000 != 0 {
        return Ok(());
    }
    apply(root, group, 0o660).map_err(|e| Reason::system("give to fsGroup", root, e))
}

/// Gives a tree to the group with `mask` added to its modes; the root last, since it is the mark.
pub(super) fn apply(path: &Path, group: u32, mask: u32) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if meta.is_symlink() {
        return lchown(path, None, Some(group));
    }
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            apply(&entry?.path(), group, mask)?;
        }
    }
    chown(path, None, Some(group))?;
    let extra = if meta.is_dir() { mask | 0o2110 } else { mask };
    fs::set_permissions(path, fs::Permissions::from_mode(meta.mode() | extra))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(spec: serde_json::Value) -> Owner {
        Owner::of(&serde_json::from_value(spec).expect("a spec"))
    }

    #[test]
    fn shared_user() {
        let both = serde_json::json!({"securityContext": {"runAsUser": 5, "fsGroup": 7},
            "containers": [{"name": "a"}, {"name": "b", "securityContext": {"runAsUser": 5}}]});
        assert_eq!(owner(both), Owner { group: Some(7), user: Some(5) });
        let differ = serde_json::json!({"containers": [
            {"name": "a"}, {"name": "b", "securityContext": {"runAsUser": 5}}]});
        assert_eq!(owner(differ), Owner::default());
    }
}
