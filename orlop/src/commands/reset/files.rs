//! The folders of a node.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use anyhow::{Context, Result};
use orlop_agent::tree;

/// Unmounts all that is below `folder`, and deletes it with all in it. What the user made of the folder itself, a
/// link to another place or a mount point, stays as an empty folder.
pub(super) fn remove(folder: &Path) -> Result<()> {
    let found = match fs::canonicalize(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        found => found.with_context(|| format!("find {}", folder.display()))?,
    };
    tree::unmount_below(&found)?;
    tree::clear(&found)?;
    match fs::remove_dir(folder) {
        Err(error) if !matches!(error.kind(), ErrorKind::NotADirectory | ErrorKind::ResourceBusy) => {
            Err(error).with_context(|| format!("remove the folder {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Removes a folder that may also hold what is not ours: only when it is empty.
pub(super) fn remove_if_empty(folder: &Path) -> Result<()> {
    let gone_or_used = |error: &io::Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty);
    match fs::remove_dir(folder) {
        Err(error) if !gone_or_used(&error) => {
            Err(error).with_context(|| format!("remove the folder {}", folder.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_behind_a_link_is_emptied_and_the_link_stays() {
        let root = std::env::temp_dir().join(format!("orlop-reset-{}", std::process::id()));
        let (real, link) = (root.join("real"), root.join("link"));
        fs::create_dir_all(real.join("a/b")).unwrap();
        fs::write(real.join("a/file"), "x").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        remove(&link).unwrap();
        assert_eq!(fs::read_dir(&link).unwrap().count(), 0);
        remove(&root).unwrap();
        assert!(!root.exists());
        remove(&root).unwrap();
    }
}
