//! `hostPath`: a path of the host, checked against its type.

use std::fs::{self, DirBuilder, Metadata, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::HostPathVolumeSource;

use super::Reason;

/// Checks the path, or makes it where the type says so.
pub(super) fn check(source: &HostPathVolumeSource) -> Result<PathBuf, Reason> {
    let path = PathBuf::from(&source.path);
    if !path.is_absolute() || source.path.split('/').any(|part| part == "..") {
        return Err(Reason::Path(source.path.clone()));
    }
    let kind = source.type_.as_deref().unwrap_or_default();
    if kind.is_empty() {
        return Ok(path);
    }
    let found = match fs::metadata(&path) {
        Ok(meta) => Some(meta),
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(e) => return Err(Reason::system("look at", &path, e)),
    };
    match (kind, &found) {
        ("DirectoryOrCreate", None) => {
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(&path)
                .map_err(|e| Reason::system("make", &path, e))?;
        }
        ("FileOrCreate", None) => make_file(&path)?,
        _ => expect(kind, &path, found.as_ref())?,
    }
    Ok(path)
}

fn make_file(path: &Path) -> Result<(), Reason> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path);
    made.map(drop).map_err(|e| Reason::system("make", path, e))
}

fn expect(kind: &str, path: &Path, found: Option<&Metadata>) -> Result<(), Reason> {
    let is = |test: fn(&fs::FileType) -> bool| found.is_some_and(|m| test(&m.file_type()));
    let (fits, expected) = match kind {
        "Directory" | "DirectoryOrCreate" => (is(fs::FileType::is_dir), "a directory"),
        "File" | "FileOrCreate" => (is(fs::FileType::is_file), "a file"),
        "Socket" => (is(FileTypeExt::is_socket), "a socket file"),
        "CharDevice" => (is(FileTypeExt::is_char_device), "a character device"),
        "BlockDevice" => (is(FileTypeExt::is_block_device), "a block device"),
        _ => (false, "of a known hostPath type"),
    };
    if fits {
        return Ok(());
    }
    Err(Reason::HostPath { path: path.to_owned(), expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_type(path: &Path, kind: &str) -> Result<PathBuf, String> {
        let source = HostPathVolumeSource { path: path.to_string_lossy().into_owned(), type_: Some(kind.to_owned()) };
        check(&source).map_err(|e| e.to_string())
    }

    #[test]
    fn types_are_checked_and_made() {
        let dir = tempfile::tempdir().expect("a folder");
        let sub = dir.path().join("a/b");
        assert!(check_type(&sub, "Directory").is_err());
        assert!(check_type(&sub, "DirectoryOrCreate").is_ok());
        assert!(check_type(&sub, "Directory").is_ok());
        let message = format!("hostPath type check failed: {} is not a file", sub.display());
        assert_eq!(check_type(&sub, "File"), Err(message));
        assert!(check_type(&sub.join("f"), "FileOrCreate").is_ok());
        assert!(check_type(&sub.join("f"), "File").is_ok());
        assert!(check_type(Path::new("/dev/null"), "CharDevice").is_ok());
        assert!(check_type(Path::new("/dev/null"), "BlockDevice").is_err());
        assert!(check_type(Path::new("/a/../b"), "").is_err());
    }
}
