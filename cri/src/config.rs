//! What a daemon is told: its folders, its sockets and the programs it uses.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The handlers that mean the built-in runtime.
pub(crate) const BUILT_IN_HANDLERS: [&str; 2] = ["", "orlop"];

/// The configuration of a [`crate::Daemon`]. As TOML it is the section `[cri]` of the node's file.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Outlives a reboot: images, records, writable layers.
    pub state: PathBuf,
    /// Gone at reboot (a tmpfs): sockets, pinned namespaces, bundles.
    pub run: PathBuf,
    /// The CRI socket; `RUN/cri.sock` unless given.
    pub socket: Option<PathBuf>,
    /// The program `orlop-shim`. Unless given: `$ORLOP_SHIM`, then the folder of the running program.
    pub shim: Option<PathBuf>,
    /// Where the streaming server listens. Port 0 takes a free one.
    pub streaming: SocketAddr,
    /// Above the cgroups of pods that name no `cgroup_parent`.
    pub cgroup_parent: String,
    /// The pod network.
    pub cni: CniConfig,
    /// Folders with a `hosts.toml` per registry, in containerd's format.
    pub registry_config: PathBuf,
    /// OCI runtimes by `RuntimeClass` handler: the path of a program with runc's command line. The handlers
    /// "" and "orlop" are the built-in runtime.
    pub runtimes: BTreeMap<String, PathBuf>,
}

/// Where CNI configurations and plugins are.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CniConfig {
    /// The first `.conflist` or `.conf` by name in this folder is the pod network.
    pub conf_dir: PathBuf,
    /// Folders with plugin programs.
    pub bin_dirs: Vec<PathBuf>,
    /// Results of ADD are kept here; `STATE/cni` unless given.
    pub cache: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            state: PathBuf::from("/var/lib/orlop"),
            run: PathBuf::from("/run/orlop"),
            socket: None,
            shim: None,
            streaming: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            cgroup_parent: "/orlop".to_owned(),
            cni: CniConfig::default(),
            registry_config: PathBuf::from("/etc/orlop/certs.d"),
            runtimes: BTreeMap::new(),
        }
    }
}

impl Default for CniConfig {
    fn default() -> CniConfig {
        CniConfig {
            conf_dir: PathBuf::from("/etc/cni/net.d"),
            bin_dirs: vec![PathBuf::from("/opt/cni/bin")],
            cache: None,
        }
    }
}

impl Config {
    /// The path of the CRI socket.
    #[must_use]
    pub fn socket_path(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| self.run.join("cri.sock"))
    }

    /// The path of the shim program, if one is found.
    #[must_use]
    pub fn shim_path(&self) -> Option<PathBuf> {
        if let Some(path) = &self.shim {
            return Some(path.clone());
        }
        if let Some(path) = std::env::var_os("ORLOP_SHIM") {
            return Some(PathBuf::from(path));
        }
        let beside = std::env::current_exe().ok()?.parent().map(|folder| folder.join("orlop-shim"))?;
        beside.is_file().then_some(beside)
    }

    /// Where results of CNI ADD are kept.
    #[must_use]
    pub fn cni_cache(&self) -> PathBuf {
        self.cni.cache.clone().unwrap_or_else(|| self.state.join("cni"))
    }

    pub(crate) fn cri_state(&self) -> PathBuf {
        self.state.join("cri")
    }

    pub(crate) fn pods(&self) -> PathBuf {
        self.run.join("pods")
    }

    pub(crate) fn pod_dir(&self, sandbox: &str) -> PathBuf {
        self.pods().join(sandbox)
    }

    pub(crate) fn bundle(&self, sandbox: &str, container: &str) -> PathBuf {
        self.pod_dir(sandbox).join("c").join(container)
    }

    pub(crate) fn runtime_root(&self) -> PathBuf {
        self.run.join("runtime")
    }

    pub(crate) fn uppers(&self) -> PathBuf {
        self.cri_state().join("upper")
    }

    pub(crate) fn trash(&self) -> PathBuf {
        self.cri_state().join("trash")
    }

    /// The folder of one container's writable layer.
    pub(crate) fn upper(&self, container: &str) -> PathBuf {
        self.uppers().join(container)
    }

    /// Where the image store lives.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.state.join("images")
    }

    /// There is a runtime for this handler.
    pub(crate) fn knows_handler(&self, name: &str) -> bool {
        BUILT_IN_HANDLERS.contains(&name) || self.runtimes.contains_key(name)
    }

    /// The program of a handler; none for the built-in runtime.
    pub(crate) fn oci_runtime(&self, handler: &str) -> Option<&Path> {
        if BUILT_IN_HANDLERS.contains(&handler) { None } else { self.runtimes.get(handler).map(PathBuf::as_path) }
    }
}
