//! The cgroups of a node: `kubepods` and `orlop` below its root, in every hierarchy.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result};

const MOUNT: &str = "/sys/fs/cgroup";

/// Removes them; and the root too, when it is one made for this node and now empty.
pub(super) fn remove(root: &str) -> Vec<Error> {
    let root = root.trim_matches('/');
    let hierarchies = match hierarchies() {
        Ok(hierarchies) => hierarchies,
        Err(error) => return vec![error],
    };
    let mut errors = Vec::new();
    for hierarchy in hierarchies {
        let top = hierarchy.join(root);
        for name in ["kubepods", "orlop"] {
            errors.extend(remove_below(&top.join(name)).err());
        }
        if !root.is_empty() {
            errors.extend(remove_one(&top).err());
        }
    }
    errors
}

/// The v2 tree, or each v1 hierarchy.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let mount = Path::new(MOUNT);
    if mount.join("cgroup.controllers").exists() {
        return Ok(vec![mount.into()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(mount).with_context(|| format!("list {MOUNT}"))? {
        let path = entry.with_context(|| format!("list {MOUNT}"))?.path();
        // A link is another name of a hierarchy, such as cpu for cpu,cpuacct.
        if path.is_dir() && !path.is_symlink() {
            found.push(path);
        }
    }
    Ok(found)
}

fn remove_below(cgroup: &Path) -> Result<()> {
    let entries = match fs::read_dir(cgroup) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("list the cgroup {}", cgroup.display())),
    };
    for entry in entries {
        let path = entry.with_context(|| format!("list the cgroup {}", cgroup.display()))?.path();
        if path.is_dir() {
            remove_below(&path)?;
        }
    }
    remove_one(cgroup)
}

fn remove_one(cgroup: &Path) -> Result<()> {
    match fs::remove_dir(cgroup) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove the cgroup {} (do processes live in it?)", cgroup.display()))
        }
        _ => Ok(()),
    }
}
