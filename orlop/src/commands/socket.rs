//! A gRPC connection over a unix socket.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// Connects to the daemon that listens at `path`.
pub(crate) async fn connect(path: &Path) -> Result<Channel> {
    let socket: PathBuf = path.into();
    // The address is never used: the connector always goes to the socket.
    Endpoint::from_static("http://localhost")
        .connect_with_connector(service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
        .await
        .with_context(|| format!("connect to {} (does the daemon run?)", path.display()))
}
