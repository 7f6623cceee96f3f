//! Reading a file out of the layers of an image, as the overlay mount of them would show it.
//!
//! Layers are written by strangers but change no more once unpacked, so looking at each component of a path
//! and never following a link is safe: a link is resolved here, inside the layers (CVE-2026-47262).

use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use nix::libc;

/// The most links that one path may lead through, as in path_resolution(7).
const MAX_LINKS: usize = 40;

/// Reads a regular file of at most `limit` bytes; `None` if the image has none by that path.
pub(super) fn read(layers: &[PathBuf], path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let Some(real) = resolve(layers, path)? else { return Ok(None) };
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(&real)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other(format!("{} in the image is not a regular file", path.display())));
    }
    if metadata.len() > limit {
        return Err(io::Error::other(format!(
            "{} in the image has {} bytes, and at most {limit} are read",
            path.display(),
            metadata.len()
        )));
    }
    let mut content = Vec::new();
    file.take(limit).read_to_end(&mut content)?;
    Ok(Some(content))
}

/// Where the merged `path` is on the host: never through a link, never outside the layers.
fn resolve(layers: &[PathBuf], path: &Path) -> io::Result<Option<PathBuf>> {
    let mut todo: Vec<OsString> = components(path);
    let mut done: Vec<OsString> = Vec::new();
    let mut links = 0;
    while let Some(name) = todo.pop() {
        if name == OsStr::new("..") {
            done.pop();
            continue;
        }
        done.push(name);
        let Some(found) = lookup(layers, &done)? else { return Ok(None) };
        if found.1.is_symlink() {
            links += 1;
            if links > MAX_LINKS {
                return Err(io::Error::from_raw_os_error(libc::ELOOP));
            }
            let target = fs::read_link(&found.0)?;
            done.pop();
            if target.is_absolute() {
                done.clear();
            }
            todo.extend(components(&target));
        } else if todo.is_empty() {
            return Ok(Some(found.0));
        } else if !found.1.is_dir() {
            return Ok(None);
        }
    }
    Ok(None)
}

/// The names of a path, the last one first.
fn components(path: &Path) -> Vec<OsString> {
    path.components()
        .rev()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            _ => None,
        })
        .collect()
}

/// What the merged view has at `names`, of which all but the last are directories in it.
fn lookup(layers: &[PathBuf], names: &[OsString]) -> io::Result<Option<(PathBuf, fs::FileType)>> {
    'layers: for layer in layers {
        let mut path = layer.clone();
        let mut opaque = false;
        for (depth, name) in names.iter().enumerate() {
            path.push(name);
            let kind = match fs::symlink_metadata(&path) {
                Ok(metadata) if is_whiteout(&metadata) => return Ok(None),
                Ok(metadata) => metadata.file_type(),
                Err(error) if error.kind() == io::ErrorKind::NotFound && opaque => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue 'layers,
                Err(error) => return Err(error),
            };
            if depth + 1 == names.len() {
                return Ok(Some((path, kind)));
            }
            if !kind.is_dir() {
                // A file here hides the directories of the layers below.
                return Ok(None);
            }
            opaque |= is_opaque(&path)?;
        }
    }
    Ok(None)
}

fn is_whiteout(metadata: &fs::Metadata) -> bool {
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

fn is_opaque(path: &Path) -> io::Result<bool> {
    Ok(xattr::get(path, "trusted.overlay.opaque")?.is_some_and(|value| value == b"y"))
}

#[cfg(test)]
mod tests {
    use super::read;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};

    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn layers(name: &str) -> (Folder, Vec<PathBuf>) {
        let root = std::env::temp_dir().join(format!("orlop-layers-{name}-{}", std::process::id()));
        let layers: Vec<_> = ["top", "bottom"].iter().map(|layer| root.join(layer)).collect();
        for layer in &layers {
            fs::create_dir_all(layer.join("etc")).unwrap();
        }
        (Folder(root), layers)
    }

    #[test]
    fn the_upper_layer_wins_and_links_stay_inside() {
        let (folder, layers) = layers("links");
        fs::write(layers[1].join("etc/passwd"), "low").unwrap();
        let get = |path: &str| read(&layers, Path::new(path), 100);
        assert_eq!(get("/etc/passwd").unwrap().unwrap(), b"low");
        fs::write(layers[0].join("etc/passwd"), "top").unwrap();
        assert_eq!(get("/etc/passwd").unwrap().unwrap(), b"top");
        fs::write(folder.0.join("secret"), "host").unwrap();
        symlink("../../../secret", layers[0].join("etc/up")).unwrap();
        symlink(folder.0.join("secret"), layers[0].join("etc/absolute")).unwrap();
        symlink("loop", layers[0].join("etc/loop")).unwrap();
        symlink("/etc/passwd", layers[1].join("etc/link")).unwrap();
        assert!(get("/etc/up").unwrap().is_none());
        assert!(get("/etc/absolute").unwrap().is_none());
        assert!(get("/etc/loop").is_err());
        assert_eq!(get("/etc/link").unwrap().unwrap(), b"top");
        assert!(get("/etc/none").unwrap().is_none());
        assert!(get("/etc/passwd/x").unwrap().is_none());
    }

    #[test]
    fn only_small_regular_files_are_read() {
        let (_folder, layers) = layers("kinds");
        fs::write(layers[0].join("etc/big"), vec![b'x'; 101]).unwrap();
        nix::unistd::mkfifo(&layers[0].join("etc/fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(read(&layers, Path::new("/etc/big"), 100).is_err());
        assert!(read(&layers, Path::new("/etc/fifo"), 100).is_err());
        assert!(read(&layers, Path::new("/etc"), 100).is_err());
    }
}
