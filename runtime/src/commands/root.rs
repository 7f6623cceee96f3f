//! Where containers are recorded, and what `--rootless` says: as runc has both.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::Failure;

/// The folder for root of the host; a tmpfs.
const HOST: &str = "/run/orlop/runtime";

/// The folder when `--root` does not say: an ordinary user's is below XDG_RUNTIME_DIR, and so is that of root of a
/// user namespace, except where USER is root.
///
/// One below XDG_RUNTIME_DIR is made at once and is sticky: without that bit what is not used for a while may be
/// removed from there (XDG base directory specification).
pub(super) fn default() -> Result<PathBuf, Failure> {
    let Some(folder) = std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty()) else {
        return Ok(HOST.into());
    };
    if !is_rootless() {
        return Ok(HOST.into());
    }
    let root = Path::new(&folder).join("orlop/runtime");
    let make = |path: &Path| -> std::io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o1700))
    };
    let made = root.parent().map_or(Ok(()), make).and_then(|()| make(&root));
    made.map_err(|error| format!("make {}: {error}; XDG_RUNTIME_DIR must be the user's own", root.display()))?;
    Ok(root)
}

fn is_rootless() -> bool {
    if !nix::unistd::geteuid().is_root() {
        return true;
    }
    std::env::var_os("USER").is_none_or(|user| user != "root") && orlop_runtime::in_user_namespace()
}

/// `auto` is `None`.
pub(super) fn parse_rootless(text: &str) -> Result<Option<bool>, Failure> {
    match text {
        "" | "auto" => Ok(None),
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Some(true)),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Some(false)),
        _ => Err(format!("--rootless {text:?}: it is true, false or auto").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rootless() {
        assert_eq!(parse_rootless("auto").ok(), Some(None));
        assert_eq!(parse_rootless("T").ok(), Some(Some(true)));
        assert_eq!(parse_rootless("0").ok(), Some(Some(false)));
        assert!(parse_rootless("yes").is_err());
    }
}
