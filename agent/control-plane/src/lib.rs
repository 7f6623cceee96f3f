//! A small Kubernetes control plane: API server, store, scheduler and controllers in one process.
//!
//! [`ControlPlane::start`] serves the Kubernetes REST API over TLS; its seam is that API and nothing else. The
//! scheduler and the controllers work in the same process through the same [`registry`] that requests go through.

mod admission;
mod config;
mod controllers;
mod error;
mod patch;
mod pki;
mod quantity;
mod registry;
mod scheduler;
mod selectors;
mod server;
pub mod status;
pub mod store;
mod time;
mod tokens;
mod user;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use config::Config;
pub use error::Error;
pub use pki::CertificateAndKey;

/// A running control plane. [`ControlPlane::shutdown`] stops it in order; dropping it stops it too, without waiting.
#[derive(Debug)]
pub struct ControlPlane {
    config: Config,
    local_addr: SocketAddr,
    authority: pki::Authority,
    store: store::Store,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl ControlPlane {
    /// Opens the state, makes what a new cluster needs, and serves.
    ///
    /// Returns when the API server accepts connections and the objects that every cluster has (namespaces, the
    /// `kubernetes` service) exist. Must run inside a tokio runtime.
    pub async fn start(config: Config) -> Result<Self, Error> {
        config::private_dir(&config.state_dir).map_err(|source| Error::File {
            step: "making",
            path: config.state_dir.clone(),
            source,
        })?;
        let authority = pki::Authority::open(&config.pki_dir())?;
        let signer = Arc::new(tokens::Signer::open(&config.pki_dir())?);
        let listen_error = |source| Error::Listen { address: config.listen, source };
        let listener = tokio::net::TcpListener::bind(config.listen).await.map_err(listen_error)?;
        let local_addr = listener.local_addr().map_err(listen_error)?;
        let serving = pki::api_server(&authority, &config)?;
        let tls = server::server_config(authority.certificate_pem(), &serving)?;
        let client = pki::kubelet_client(&authority)?;
        let kubelets = server::kubelet_client_config(authority.certificate_pem(), &client, config.verify_kubelets)?;
        let resources: Vec<&'static str> = registry::resource::ALL.iter().map(|r| r.storage).collect();
        let store = store::Store::open(&config.database(), &resources)?;
        let registry = Arc::new(registry::Registry::new(store.clone(), config.service_cidr));
        let address = SocketAddr::new(config.advertised(), local_addr.port());
        let endpoint = controllers::Endpoint {
            service_ip: config.kubernetes_service_ip(),
            address: address.ip(),
            port: address.port(),
        };
        controllers::bootstrap(&registry, endpoint).await.map_err(Error::Bootstrap)?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        controllers::start(&registry, authority.certificate_pem(), &stop, &tasks);
        tasks.spawn(scheduler::run(Arc::clone(&registry), stop.clone()));
        let api = Arc::new(server::Api { registry, signer, kubelets, stop: stop.clone(), address });
        tasks.spawn(server::serve(api, listener, tls));
        tasks.close();
        Ok(Self { config, local_addr, authority, store, stop, tasks })
    }

    /// The address that the API server listens on, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The URL for clients, as kubeconfigs carry it.
    pub fn url(&self) -> String {
        format!("https://{}", SocketAddr::new(self.config.advertised(), self.local_addr.port()))
    }

    /// The CA's certificate in PEM: what verifies this server, its kubelet client and the kubelets it issued for.
    pub fn ca_pem(&self) -> &str {
        self.authority.certificate_pem()
    }

    /// The file of the CA's certificate.
    pub fn ca_path(&self) -> PathBuf {
        self.config.ca_path()
    }

    /// Writes a kubeconfig with every right (group `system:masters`), mode 0600.
    pub fn write_admin_kubeconfig(&self, path: &Path) -> Result<(), Error> {
        self.write_kubeconfig(path, pki::Subject { user: "kubernetes-admin", groups: &["system:masters"] })
    }

    /// Writes the kubeconfig of the agent on node `name` (user `system:node:NAME`), mode 0600.
    pub fn write_node_kubeconfig(&self, name: &str, path: &Path) -> Result<(), Error> {
        let user = format!("system:node:{name}");
        self.write_kubeconfig(path, pki::Subject { user: &user, groups: &["system:nodes"] })
    }

    /// The client certificate that the API server shows to kubelets (user `kube-apiserver-kubelet-client`).
    pub fn issue_kubelet_client(&self) -> Result<CertificateAndKey, Error> {
        pki::kubelet_client(&self.authority)
    }

    /// A serving certificate for the agent on node `name`, which the API server will verify. `sans` are the
    /// addresses and names of the node; its name is added.
    pub fn issue_kubelet_serving(&self, name: &str, sans: &[String]) -> Result<CertificateAndKey, Error> {
        let user = format!("system:node:{name}");
        let mut names = vec![name.to_owned()];
        names.extend(sans.iter().filter(|san| *san != name).cloned());
        self.authority.issue_server(pki::Subject { user: &user, groups: &["system:nodes"] }, &names)
    }

    /// Stops accepting, ends watches, and closes the store with everything written.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.wait().await;
        self.store.close().await;
    }

    fn write_kubeconfig(&self, path: &Path, subject: pki::Subject<'_>) -> Result<(), Error> {
        let identity = self.authority.issue_client(subject)?;
        let text = pki::kubeconfig(&self.url(), self.ca_pem(), subject.user, &identity);
        pki::write_private(path, text.as_bytes())
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
