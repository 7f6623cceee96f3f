//! What all operations share: configuration, records, images, network, events.

use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use orlop_proto::v1;
use tokio::sync::{broadcast, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cgroups::Cgroups;
use crate::config::Config;
use crate::error::{Context, Error, Kind, Result};
use crate::foreign::Foreign;
use crate::host::Host;
use crate::image::ImageStore;
use crate::joining::Joining;
use crate::network::Network;
use crate::shim::ExitStatus;
use crate::store::Store;
use crate::streaming::StreamingServer;
use crate::trash::TrashBin;

/// Events that a slow reader of GetContainerEvents may lag behind before it loses some.
const EVENTS: usize = 1024;
/// For steps that touch files.
const STORAGE_DEADLINE: Duration = Duration::from_mins(1);

/// The daemon behind its server.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) config: Config,
    /// The shim program.
    pub(crate) shim: PathBuf,
    pub(crate) host: Host,
    pub(crate) store: Store,
    pub(crate) images: ImageStore,
    pub(crate) network: Network,
    pub(crate) cgroups: Cgroups,
    pub(crate) bin: TrashBin,
    pub(crate) events: broadcast::Sender<v1::ContainerEventResponse>,
    pub(crate) streaming: OnceLock<StreamingServer>,
    /// RunPodSandbox and CreateContainer in flight, by what they were asked to make.
    pub(crate) making: Joining<String>,
    /// Work on paths that are not the daemon's.
    pub(crate) foreign: Foreign,
    /// Who waits for the end of an exec.
    execs: Mutex<HashMap<(String, String), oneshot::Sender<ExitStatus>>>,
    /// Work that outlives its request.
    pub(crate) tasks: TaskTracker,
    /// Ends the background work when the daemon stops.
    pub(crate) stop: CancellationToken,
}

impl Engine {
    /// Opens what is on disk. Blocks.
    pub(crate) fn open(config: Config) -> Result<Engine> {
        let shim = config.shim_path().ok_or_else(|| {
            Error::new(
                Kind::InvalidArgument,
                "orlop-shim is not beside this program: say where it is with --shim or ORLOP_SHIM",
            )
        })?;
        let registry = crate::image::RegistryConfig {
            hosts_dir: Some(config.registry_config.clone()),
            ..crate::image::RegistryConfig::default()
        };
        let images = ImageStore::open(config.images(), registry).step(|| "open the image store".to_owned())?;
        Ok(Engine {
            host: Host::probe()?,
            store: Store::open(&config.cri_state())?,
            network: Network::new(&config),
            cgroups: Cgroups::find()?,
            bin: TrashBin::open(config.trash())?,
            images,
            shim,
            events: broadcast::Sender::new(EVENTS),
            streaming: OnceLock::new(),
            making: Joining::default(),
            foreign: Foreign::default(),
            execs: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            config,
        })
    }

    /// Runs `work` to its end, even if the caller goes away: a client that gives up must not leave half a step.
    pub(crate) async fn detached<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        self.tasks.spawn(work).await.step(|| "a task of the daemon panicked".to_owned())?
    }

    /// Runs work on files that may block, on a thread of its own, with a deadline.
    pub(crate) async fn blocking<T, F>(step: impl FnOnce() -> String, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T> + Send + 'static,
    {
        let step = step();
        match tokio::time::timeout(STORAGE_DEADLINE, tokio::task::spawn_blocking(work)).await {
            Ok(joined) => joined.step(|| format!("{step}: the thread panicked"))?,
            Err(_) => Err(Error::new(
                Kind::DeadlineExceeded,
                format!("{step}: not done after {} s; is its storage there?", STORAGE_DEADLINE.as_secs()),
            )),
        }
    }

    /// Waits for what a shim will tell. Once the daemon stops nobody hears the shims, and the wait ends at once.
    pub(crate) async fn told<T>(&self, news: impl Future<Output = T>) -> Result<T> {
        let told = self.stop.run_until_cancelled(news).await;
        told.ok_or_else(|| Error::new(Kind::Unavailable, "the daemon is stopping; ask again when it has started"))
    }

    /// Waits for the end of an exec; to be called before it is started.
    pub(crate) fn expect_exec(&self, container: &str, exec: &str) -> oneshot::Receiver<ExitStatus> {
        let (sender, receiver) = oneshot::channel();
        self.lock_execs().insert((container.to_owned(), exec.to_owned()), sender);
        receiver
    }

    /// Nobody waits for this exec any more.
    pub(crate) fn forget_exec(&self, container: &str, exec: &str) {
        self.lock_execs().remove(&(container.to_owned(), exec.to_owned()));
    }

    /// Tells who waits that an exec has ended.
    pub(crate) fn exec_ended(&self, container: &str, exec: &str, status: ExitStatus) {
        let waiting = self.lock_execs().remove(&(container.to_owned(), exec.to_owned()));
        if let Some(waiting) = waiting {
            // It may have given up meanwhile.
            let _ = waiting.send(status);
        }
    }

    /// The execs of a container end with it: who waits is told so by the closed channel.
    pub(crate) fn execs_of_container_ended(&self, container: &str) {
        self.lock_execs().retain(|(id, _), _| id != container);
    }

    fn lock_execs(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), oneshot::Sender<ExitStatus>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Renames a folder into the trash, to be deleted behind. One that is gone is fine.
    pub(crate) fn trash(&self, folder: &std::path::Path) -> Result<()> {
        self.bin.put(folder)
    }

    /// The streaming server, once the daemon has started it.
    pub(crate) fn streams(&self) -> Result<&StreamingServer> {
        self.streaming.get().ok_or_else(|| Error::new(Kind::Unavailable, "the streaming server has not started"))
    }
}

/// A new id: 64 hexadecimal digits, as clients expect them.
pub(crate) fn new_id() -> String {
    hex::encode(rand::random::<[u8; 32]>())
}

/// Nanoseconds since the epoch.
pub(crate) fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// The engine, as operations and tasks hold it.
pub(crate) type Shared = Arc<Engine>;
