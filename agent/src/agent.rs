//! Starting and stopping the whole agent.

use std::fs::{self, DirBuilder};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use orlop_proto::v1;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cgroups::Cgroups;
use crate::config::Config;
use crate::container::config::NodeFacts;
use crate::context::{ClientHandle, Context};
use crate::cri::Cri;
use crate::error::Error;
use crate::events;
use crate::logs;
use crate::node::{self, info};
use crate::objects::Objects;
use crate::pods::manager::Manager;
use crate::pods::registry::Registry;
use crate::pods::source_runtime::follow_runtime;
use crate::pods::{source_api, source_file};
use crate::server::{self, tls};
use crate::services::Services;

/// A running agent. Dropping it stops its tasks; pods go on, since they live under the runtime.
#[derive(Debug)]
pub struct Agent {
    address: SocketAddr,
    ctx: Arc<Context>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Agent {
    /// Starts an agent and returns when its API listens; registering the node and starting pods go on behind.
    ///
    /// # Errors
    /// A folder, the runtime's socket, the kubeconfig, TLS files, the address or the cgroup root cannot be used.
    pub async fn start(config: Config) -> Result<Self, Error> {
        make_dir(&config.state_dir, 0o700)?;
        make_dir(&config.pod_logs_dir, 0o755)?;
        if let Some(folder) = &config.static_pod_dir {
            make_dir(folder, 0o755)?;
        }
        let cri = Cri::new(&config.cri_socket);
        let version = cri.version(v1::VersionRequest::default()).await;
        let version = version.map_err(|source| Error::Runtime { socket: config.cri_socket.clone(), source })?;
        let client = match &config.kubeconfig {
            Some(path) => Some(client(path).await?),
            None => None,
        };
        let node_ip = config.node_address().ok_or(Error::NoAddress)?;
        let acceptor = tls::acceptor(&config, vec![config.node_name.clone(), node_ip.to_string()])?;
        let listen = config.listen;
        let failed = |source| Error::Listen { address: listen, source };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (recorder, writer) = events::recorder(&config.node_name);
        let ctx = Arc::new(context(config, cri, client, node_ip, version.runtime_name, recorder)?);
        let agent = Self { address, ctx: Arc::clone(&ctx), stop: CancellationToken::new(), tasks: TaskTracker::new() };
        let api = ctx.api().cloned();
        agent.tasks.spawn(writer.run(api, agent.stop.clone()));
        let registry = Arc::new(Registry::default());
        agent.spawn_pods(&registry);
        if let Some(client) = ctx.api() {
            agent.spawn(node::run(Arc::clone(&ctx), client.clone(), address.port()));
            let services = Arc::clone(&ctx);
            let client = client.clone();
            agent.spawn(async move { services.services.run(client).await });
        }
        agent.spawn(logs::rotate::run(Arc::clone(&ctx)));
        let state = Arc::new(server::State::new(ctx, registry));
        agent.tasks.spawn(server::serve(listener, acceptor, state, agent.stop.clone()));
        Ok(agent)
    }

    fn spawn_pods(&self, registry: &Arc<Registry>) {
        let ctx = &self.ctx;
        let (sender, messages) = mpsc::unbounded_channel();
        let sources = usize::from(ctx.client.is_some()) + usize::from(ctx.config.static_pod_dir.is_some());
        let manager = Manager::new(
            Arc::clone(ctx),
            Arc::clone(registry),
            sender.clone(),
            sources,
            self.tasks.clone(),
            self.stop.clone(),
        );
        self.tasks.spawn(manager.run(messages));
        let name = ctx.config.node_name.clone();
        if let Some(folder) = ctx.config.static_pod_dir.clone() {
            self.spawn(source_file::run(folder, name.clone(), sender.clone()));
        }
        if let Some(client) = ctx.api() {
            let (client, sender, mut node) = (client.clone(), sender.clone(), ctx.node.subscribe());
            self.spawn(async move {
                // Without the node there is no telling whether a pod fits on it.
                if node.wait_for(Option::is_some).await.is_ok() {
                    source_api::run(client, name, sender).await;
                }
            });
        }
        self.spawn(follow_runtime(Arc::clone(ctx), sender));
    }

    /// Runs something until the agent stops.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = work => {}
            }
        });
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
        self.ctx.cgroups.remove_if_empty();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn make_dir(path: &Path, mode: u32) -> Result<(), Error> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    made.and_then(|()| fs::metadata(path).map(drop)).map_err(|source| Error::File {
        action: "make",
        path: path.to_owned(),
        source,
    })
}

async fn client(path: &Path) -> Result<Client, Error> {
    let failed = |source| Error::Kubeconfig { path: path.to_owned(), source: Box::new(source) };
    let file = Kubeconfig::read_from(path).map_err(failed)?;
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(file, &options).await.map_err(failed)?;
    Client::try_from(config).map_err(|e| Error::Client(Box::new(e)))
}

fn context(
    config: Config,
    cri: Cri,
    client: Option<Client>,
    node_ip: IpAddr,
    runtime_name: String,
    events: events::Recorder,
) -> Result<Context, Error> {
    let cgroups = Cgroups::new(&config.cgroup_root).map_err(Error::Cgroup)?;
    let oom_floor = info::oom_floor();
    if oom_floor > -1000 {
        tracing::warn!(oom_floor, "without CAP_SYS_RESOURCE oom_score_adj is not set below this");
    }
    Ok(Context {
        allocatable: info::capacity(config.max_pods, &config.state_dir),
        facts: NodeFacts { memory: info::memory(), oom_floor, memory_v2: cgroups.memory_is_v2() },
        objects: Objects::new(client.clone()),
        services: Services::new(client.is_some()),
        client: client.map(ClientHandle),
        node_ips: vec![node_ip.to_string()],
        node: watch::Sender::new(None),
        config,
        cri,
        events,
        cgroups,
        runtime_name,
    })
}
