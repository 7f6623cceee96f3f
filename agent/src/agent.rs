//! Starting and stopping the whole agent.

use std::net::SocketAddr;

use orlop_proto::v1;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::cri::Cri;
use crate::error::Error;

/// A running agent. Dropping it stops its tasks; pods go on, since they live under the runtime.
#[derive(Debug)]
pub struct Agent {
    address: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Agent {
    /// Starts an agent and returns when its API listens; registering the node and starting pods go on behind.
    ///
    /// # Errors
    /// A folder, the runtime's socket, the kubeconfig, TLS files, the address or the cgroup root cannot be used.
    pub async fn start(config: Config) -> Result<Self, Error> {
        let cri = Cri::new(&config.cri_socket);
        cri.version(v1::VersionRequest::default())
            .await
            .map_err(|source| Error::Runtime {
                socket: config.cri_socket.clone(),
                source,
            })?;
        Ok(Self {
            address: config.listen,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        })
    }

    /// Where the HTTPS API listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops the agent and waits for its tasks; pods are left running.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
