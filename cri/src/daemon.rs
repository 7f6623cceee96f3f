//! The daemon as a value: started with a configuration, stopped by [`Daemon::shutdown`].

use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::error::{Error, Result};

/// A CRI daemon that serves.
#[derive(Debug)]
pub struct Daemon {
    socket: PathBuf,
}

impl Daemon {
    /// Takes over what runs below the roots of `config`, and serves on its socket.
    ///
    /// Must be called in a tokio runtime. When it returns, the socket answers. Dropping the daemon stops it
    /// too, without waiting; pods go on in either case.
    pub async fn start(config: Config) -> Result<Daemon> {
        Err(Error::unimplemented(format!(
            "serve on {}",
            config.socket_path().display()
        )))
    }

    /// The socket it serves on.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Stops serving and waits until the calls in flight have ended. Pods go on.
    pub async fn shutdown(self) -> Result<()> {
        Ok(())
    }
}
