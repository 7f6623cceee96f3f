//! Why an agent could not start.

use std::path::PathBuf;

/// An error of [`crate::Agent::start`]: what stands in the way, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A folder or file the agent needs.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The runtime's socket does not answer as a CRI runtime.
    #[error("no CRI runtime answers on {}; is it running?", socket.display())]
    Runtime {
        /// The socket.
        socket: PathBuf,
        /// The failed call.
        #[source]
        source: crate::cri::CriError,
    },
    /// The kubeconfig cannot be used.
    #[error("cannot use the kubeconfig {}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    /// No client could be made from the kubeconfig.
    #[error("cannot make a client for the API server")]
    Client(#[source] Box<kube::Error>),
    /// Certificates and keys of the HTTPS API.
    #[error("cannot set up TLS for the agent's API: {step}: {reason}")]
    Tls {
        /// Which step.
        step: &'static str,
        /// What the TLS library said.
        reason: String,
    },
    /// The address of the HTTPS API is taken or not ours.
    #[error("cannot listen on {address}: {source}; is another kubelet running?")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The pods' cgroups cannot be made.
    #[error("cannot make the pods' cgroup: {0}")]
    Cgroup(#[source] crate::cgroups::CgroupError),
    /// No address of this node could be found.
    #[error("no route tells this node's address; give it in the configuration: node.ip")]
    NoAddress,
}
