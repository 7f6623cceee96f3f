//! Folders on their way out: renamed here at once, deleted behind. What a crash leaves is deleted at the next start.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tokio::sync::Notify;

use crate::error::{Context, Result};
use crate::store::private_folder;
use crate::tree;

/// `STATE/cri/trash`.
#[derive(Debug)]
pub(crate) struct TrashBin {
    folder: PathBuf,
    filled: Notify,
}

impl TrashBin {
    pub(crate) fn open(folder: PathBuf) -> Result<TrashBin> {
        private_folder(&folder)?;
        Ok(TrashBin { folder, filled: Notify::new() })
    }

    /// Takes `path` out of the way. Already gone is success.
    pub(crate) fn put(&self, path: &Path) -> Result<()> {
        let name = format!("{:032x}", rand::random::<u128>());
        match fs::rename(path, self.folder.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.step(|| format!("move {} to the trash", path.display()))?,
        }
        self.filled.notify_one();
        Ok(())
    }

    /// Deletes what is in the bin, now and whenever something is put in: trees that containers shaped. Never returns.
    pub(crate) async fn keep_empty(&self) {
        loop {
            let folder = self.folder.clone();
            match tokio::task::spawn_blocking(move || tree::clear(&folder)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(folder = %self.folder.display(), %error, "the trash cannot be emptied");
                }
                Err(error) => tracing::warn!(%error, "emptying the trash panicked"),
            }
            self.filled.notified().await;
        }
    }
}
