//! The async client of the shim protocol: spawn a shim or connect to one that lives, ask it, hear its events.
//!
//! Calls may run at the same time; each takes a connection of its own, so that one that waits (for another
//! OCI runtime, for a shutdown) holds up no other. A call that is dropped or runs out of time closes its
//! connection; the shim finishes what it had begun, and `list` tells what came of it.

mod connection;
mod error;
mod events;
mod reactor;
mod requests;
mod spawn;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

pub use error::Error;
pub use events::EventStream;
pub use orlop_shim::protocol::{
    ContainerInfo, ContainerState, Create, Event, ExecInfo, ExitStatus, Failure, FailureKind, Init, Listed,
    PodNamespaces, Rootfs,
};
pub use requests::{Attached, Execed, Stdio};

use connection::Connection;

/// Idle connections kept for the next call; each costs the shim a descriptor.
const IDLE_CONNECTIONS: usize = 2;

/// How to start a shim.
#[derive(Debug, Clone)]
pub struct ShimConfig {
    /// The program `orlop-shim`.
    pub binary: PathBuf,
    pub init: Init,
}

/// A shim, to be asked. Clones share its connections.
#[derive(Debug, Clone)]
pub struct ShimClient {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    socket: PathBuf,
    pid: i32,
    idle: Mutex<Vec<Connection>>,
}

impl ShimClient {
    /// Starts a shim and waits until the pod's namespaces are pinned and its socket listens.
    ///
    /// # Errors
    /// [`Error::Spawn`] when the program cannot be run, [`Error::Refused`] with the shim's own reason;
    /// then no process and no pin is left.
    pub async fn spawn(config: ShimConfig) -> Result<ShimClient, Error> {
        let (connection, pid) = spawn::spawn(&config).await?;
        let socket = config.init.dir.join(orlop_shim::protocol::SOCKET);
        Ok(ShimClient::new(socket, pid, vec![connection]))
    }

    /// Connects to the shim of the pod whose folder is `dir`.
    ///
    /// # Errors
    /// [`Error::Gone`] when there is no such shim any more: see "A shim that died" in docs/ARCHITECTURE.md.
    pub async fn connect(dir: &Path) -> Result<ShimClient, Error> {
        let mut client = ShimClient::new(dir.join(orlop_shim::protocol::SOCKET), 0, Vec::new());
        let listed = client.list().await?;
        if let Some(shared) = Arc::get_mut(&mut client.shared) {
            shared.pid = listed.pid;
        }
        Ok(client)
    }

    fn new(socket: PathBuf, pid: i32, idle: Vec<Connection>) -> ShimClient {
        let idle = Mutex::new(idle);
        ShimClient { shared: Arc::new(Shared { socket, pid, idle }) }
    }

    /// The shim's process id.
    pub fn pid(&self) -> i32 {
        self.shared.pid
    }

    /// What ends in this pod from now on, and first what has ended before. The stream connects again by
    /// itself when the shim drops it for being slow, and then repeats what ended before; it ends with
    /// [`Error::Gone`] once the shim is no more.
    pub fn events(&self) -> EventStream {
        EventStream::open(self.shared.socket.clone())
    }

    async fn connection(&self) -> Result<Connection, Error> {
        let idle = {
            let mut idle = self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner);
            std::iter::from_fn(|| idle.pop()).find(Connection::is_open)
        };
        match idle {
            Some(connection) => Ok(connection),
            None => Connection::open(&self.shared.socket).await,
        }
    }

    fn give_back(&self, connection: Connection) {
        let mut idle = self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_CONNECTIONS {
            idle.push(connection);
        }
    }
}
