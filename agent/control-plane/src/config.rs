//! What a control plane is told when it starts.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;

/// Settings of one control plane.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder of the database and of `pki/`; made with mode 0700 when missing.
    pub state_dir: PathBuf,
    /// Where the API server listens. With port 0 the kernel picks one; see [`crate::ControlPlane::local_addr`].
    pub listen: SocketAddr,
    /// The address that kubeconfigs and the `kubernetes` service carry. Without it, the listening address,
    /// or loopback when that is unspecified.
    pub advertise_address: Option<IpAddr>,
    /// More names and addresses for the serving certificate.
    pub extra_sans: Vec<String>,
    /// Where cluster IPs of services come from.
    pub service_cidr: Ipv4Net,
    /// Whether the certificate of a kubelet must come from this cluster's CA (see
    /// [`crate::ControlPlane::issue_kubelet_serving`]). Turn it off for kubelets with self-signed certificates.
    pub verify_kubelets: bool,
}

impl Config {
    /// The defaults, with state in `state_dir`: port 6443 on every address, services in 10.96.0.0/16.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 6443),
            advertise_address: None,
            extra_sans: Vec::new(),
            service_cidr: Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16),
            verify_kubelets: true,
        }
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.state_dir.join("orlop.db")
    }

    pub(crate) fn pki_dir(&self) -> PathBuf {
        self.state_dir.join("pki")
    }

    /// The address that clients are told to connect to.
    pub(crate) fn advertised(&self) -> IpAddr {
        match self.advertise_address {
            Some(address) => address,
            None if self.listen.ip().is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            None => self.listen.ip(),
        }
    }

    /// The first address of the service range: the `kubernetes` service's.
    pub(crate) fn kubernetes_service_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.service_cidr.network()).wrapping_add(1))
    }

    pub(crate) fn ca_path(&self) -> PathBuf {
        self.pki_dir().join("ca.crt")
    }
}

/// Makes `dir` and its parents, the last one readable by its owner only.
pub(crate) fn private_dir(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
}
