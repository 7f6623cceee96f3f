//! The CRI socket: only root may connect; what a killed daemon left is replaced.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use tokio::net::{UnixListener, UnixStream};

use crate::error::{Context, Error, Kind, Result};
use crate::store::private_folder;

pub(super) async fn listen(path: &Path) -> Result<UnixListener> {
    if let Some(folder) = path.parent() {
        private_folder(folder)?;
    }
    replace(path).await?;
    let listener = UnixListener::bind(path).step(|| format!("listen on {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).step(|| format!("protect {}", path.display()))?;
    Ok(listener)
}

/// Removes a socket that nobody answers on; refuses anything else.
async fn replace(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(metadata) if metadata.file_type().is_socket() => {}
        Ok(_) => {
            return Err(Error::new(Kind::InvalidArgument, format!("{} is there and is no socket", path.display())));
        }
        Err(error) => return Err(error).step(|| format!("look at {}", path.display())),
    }
    if UnixStream::connect(path).await.is_ok() {
        return Err(Error::new(Kind::Unavailable, format!("another daemon serves on {}", path.display())));
    }
    remove(path)
}

/// Already gone is success.
pub(super) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).step(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
