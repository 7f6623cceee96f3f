//! The daemon as a value: started with a configuration, stopped by [`Daemon::shutdown`].

mod lock;
mod socket;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use orlop_proto::admin::images_server::ImagesServer;
use orlop_proto::v1::image_service_server::ImageServiceServer;
use orlop_proto::v1::runtime_service_server::RuntimeServiceServer;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use self::lock::Lock;
use crate::backend::Streamed;
use crate::config::Config;
use crate::engine::{Engine, Shared};
use crate::error::{Context, Error, Result};
use crate::recovery;
use crate::server::Services;
use crate::store::private_folder;
use crate::streaming::StreamingServer;

/// The longest request, as the kubelet and containerd have it.
const MAX_MESSAGE: usize = 16 << 20;
/// What is in flight when the daemon stops may take this long; after, it is as if the daemon had been killed.
const DRAIN: Duration = Duration::from_secs(10);

/// A CRI daemon that serves.
#[derive(Debug)]
pub struct Daemon {
    socket: PathBuf,
    engine: Shared,
    server: JoinHandle<Result<()>>,
    /// Ends the server when the daemon is dropped.
    _closing: tokio_util::sync::DropGuard,
    /// Declared last: let go when all else has ended.
    _lock: Lock,
}

impl Daemon {
    /// Takes over what runs below the roots of `config`, and serves on its socket.
    ///
    /// Must be called in a tokio runtime. When it returns, the socket answers. Dropping the daemon stops it
    /// too, without waiting; pods go on in either case.
    ///
    /// # Errors
    /// [`crate::Kind::Unavailable`] when another daemon has one of the roots or the socket.
    pub async fn start(config: Config) -> Result<Daemon> {
        let config = absolute(config)?;
        for folder in [&config.state, &config.run, &config.cri_state(), &config.pods(), &config.uppers()] {
            private_folder(folder)?;
        }
        let lock = Lock::take(&config)?;
        let socket = config.socket_path();
        let listener = socket::listen(&socket).await?;
        let streaming = config.streaming;
        let engine = Engine::blocking(|| "open the state".to_owned(), move || Engine::open(config)).await?;
        let engine = Arc::new(engine);
        let server = StreamingServer::start(streaming, Arc::new(Streamed { engine: Arc::clone(&engine) }));
        let server = server.await.step(|| "start the streaming server".to_owned())?;
        engine.streaming.set(server).map_err(|_| Error::internal("the streaming server was started twice"))?;
        recovery::recover(&engine).await?;
        empty_trash(&engine);

        let closing = CancellationToken::new();
        let server = tokio::spawn(serve(Arc::clone(&engine), UnixListenerStream::new(listener), closing.clone()));
        tracing::info!(socket = %socket.display(), "serving");
        Ok(Daemon { socket, engine, server, _closing: closing.drop_guard(), _lock: lock })
    }

    /// The socket it serves on.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Stops serving and waits until the calls in flight have ended. Pods go on.
    pub async fn shutdown(self) -> Result<()> {
        let Daemon { socket, engine, server, _closing: closing, _lock: lock } = self;
        engine.stop.cancel();
        drop(closing);
        let served = match tokio::time::timeout(DRAIN, server).await {
            Ok(joined) => joined.step(|| "the server panicked".to_owned())?,
            Err(_) => Ok(()),
        };
        engine.tasks.close();
        if tokio::time::timeout(DRAIN, engine.tasks.wait()).await.is_err() {
            tracing::warn!("calls in flight did not end in time; the next start finishes or undoes them");
        }
        socket::remove(&socket)?;
        drop(lock);
        served
    }
}

impl Drop for Stopping {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Ends the background work of an engine whose server has ended.
struct Stopping(CancellationToken);

async fn serve(engine: Shared, clients: UnixListenerStream, closing: CancellationToken) -> Result<()> {
    let _stopping = Stopping(engine.stop.clone());
    let services = Services { engine };
    Server::builder()
        .add_service(RuntimeServiceServer::new(services.clone()).max_decoding_message_size(MAX_MESSAGE))
        .add_service(ImagesServer::new(services.clone()).max_decoding_message_size(MAX_MESSAGE))
        .add_service(ImageServiceServer::new(services).max_decoding_message_size(MAX_MESSAGE))
        .serve_with_incoming_shutdown(clients, closing.cancelled_owned())
        .await
        .step(|| "serve the CRI socket".to_owned())
}

fn empty_trash(engine: &Shared) {
    let stop = engine.stop.clone();
    let engine = Arc::clone(engine);
    engine.tasks.clone().spawn(async move { stop.run_until_cancelled(engine.bin.keep_empty()).await });
}

/// Paths travel to shims, whose working directory is another.
fn absolute(mut config: Config) -> Result<Config> {
    for folder in [&mut config.state, &mut config.run] {
        *folder = std::path::absolute(&*folder).step(|| format!("make {} absolute", folder.display()))?;
    }
    if let Some(socket) = &mut config.socket {
        *socket = std::path::absolute(&*socket).step(|| format!("make {} absolute", socket.display()))?;
    }
    if let Some(shim) = config.shim_path() {
        config.shim = Some(std::path::absolute(&shim).step(|| format!("make {} absolute", shim.display()))?);
    }
    config.cgroup_parent = format!("/{}", config.cgroup_parent.trim_matches('/'));
    Ok(config)
}
