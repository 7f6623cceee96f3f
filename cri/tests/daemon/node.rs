//! A private node: its folders and names, its daemon, and a client.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use orlop_cri::image::{ImageStore, ImportOptions, RegistryConfig};
use orlop_proto::v1::image_service_client::ImageServiceClient;
use orlop_proto::v1::runtime_service_client::RuntimeServiceClient;
use tonic::transport::{Channel, Endpoint};

use crate::busybox;
use crate::inventory;

/// Nothing that a test waits for takes this long.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is a node's own.
#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) state: PathBuf,
    pub(crate) run: PathBuf,
    pub(crate) cgroup: String,
    pub(crate) bridge: String,
    pub(crate) network: String,
    pub(crate) table: String,
    subnet: String,
}

/// A node whose daemon runs until it is stopped or killed.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) names: Names,
    daemon: Option<Child>,
    _folders: [tempfile::TempDir; 2],
}

impl Names {
    fn new(state: &Path, run: &Path) -> Names {
        let random: u16 = rand::random();
        Names {
            state: state.to_owned(),
            run: run.to_owned(),
            cgroup: format!("/orlop-cri-test-{random:04x}-{}", std::process::id()),
            bridge: format!("oct{random:04x}"),
            network: format!("cri-test-{random:04x}"),
            table: format!("orlop-cri-test-{random:04x}"),
            subnet: format!("10.{}.{}.0/24", 100 + (random >> 8) % 100, random & 0xff),
        }
    }
}

impl Node {
    /// A node with the image of [`busybox`] and a daemon that serves.
    pub(crate) async fn start() -> Node {
        assert!(nix::unistd::geteuid().is_root(), "these tests need root");
        let state = tempfile::Builder::new().prefix("orlop-cri-").tempdir_in("/var/tmp").unwrap();
        // Short, for the paths of sockets.
        let run = tempfile::Builder::new().prefix("oc-").tempdir_in("/run").unwrap();
        let names = Names::new(state.path(), run.path());
        let mut node = Node { names, daemon: None, _folders: [state, run] };
        node.write_network();
        fs::write(node.names.state.join("cri.toml"), "[runtimes]\nrunc = \"/usr/sbin/runc\"\n").unwrap();
        node.import().await;
        node.start_daemon().await;
        node
    }

    fn write_network(&self) {
        let conflist = serde_json::json!({
            "cniVersion": "1.0.0",
            "name": self.names.network,
            "plugins": [
                { "type": "bridge", "bridge": self.names.bridge, "isDefaultGateway": true, "ipMasq": true,
                  "nftTable": self.names.table,
                  "ipam": { "type": "host-local", "dataDir": self.names.state.join("cni/networks"),
                            "ranges": [[{ "subnet": self.names.subnet }]] } },
                { "type": "portmap", "nftTable": self.names.table, "capabilities": { "portMappings": true } },
            ],
        });
        fs::create_dir_all(self.names.state.join("net.d")).unwrap();
        fs::write(self.names.state.join("net.d/10-test.conflist"), conflist.to_string()).unwrap();
    }

    async fn import(&self) {
        let archive = self.names.state.join("busybox.tar");
        busybox::write_archive(&archive);
        let store = ImageStore::open(self.names.state.join("images"), RegistryConfig::default()).unwrap();
        store.import(&archive, ImportOptions::default()).await.unwrap();
        drop(store);
        // Its last work behind the scenes still holds it.
        let lock = fs::File::open(self.names.state.join("images/lock")).unwrap();
        wait_for("the image store to be free", async || lock.try_lock().is_ok()).await;
    }

    /// The command line of a daemon on this node.
    pub(crate) fn command(&self) -> Command {
        let program = Path::new(env!("CARGO_BIN_EXE_orlop-cri"));
        let mut command = Command::new(program);
        command
            .arg("--config")
            .arg(self.names.state.join("cri.toml"))
            .arg("--state")
            .arg(&self.names.state)
            .arg("--run")
            .arg(&self.names.run)
            .arg("--cgroup-parent")
            .arg(&self.names.cgroup)
            .arg("--cni-conf-dir")
            .arg(self.names.state.join("net.d"))
            .arg("--shim")
            .arg(program.with_file_name("orlop-shim"))
            .stdin(Stdio::null());
        command
    }

    /// Starts the daemon and waits until it answers.
    pub(crate) async fn start_daemon(&mut self) {
        assert!(self.daemon.is_none(), "the daemon runs already");
        let log = fs::OpenOptions::new().append(true).create(true).open(self.names.state.join("daemon.log")).unwrap();
        self.daemon = Some(self.command().stderr(Stdio::from(log)).spawn().unwrap());
        wait_for("the daemon to answer", async || self.connect().await.is_some()).await;
    }

    async fn connect(&self) -> Option<Channel> {
        let socket = self.names.run.join("cri.sock");
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        Endpoint::from_static("http://cri").connect_with_connector(connector).await.ok()
    }

    pub(crate) async fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.connect().await.unwrap()).max_decoding_message_size(64 << 20)
    }

    pub(crate) async fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.connect().await.unwrap())
    }

    /// kill -9 of the daemon.
    pub(crate) fn kill_daemon(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    /// The daemon's resident memory, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let pid = self.daemon.as_ref().unwrap().id();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// Waits until nothing of any pod is left, and stops the daemon.
    pub(crate) async fn finish(mut self) {
        wait_for("all to be cleaned up", async || inventory::leftovers(&self.names).is_empty()).await;
        self.stop_daemon().await;
        assert!(!self.names.run.join("cri.sock").exists(), "the socket is gone");
    }

    /// Stops the daemon as its service manager would.
    pub(crate) async fn stop_daemon(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        kill(Pid::from_raw(daemon.id() as i32), Signal::SIGTERM).unwrap();
        // Clients of this thread must be able to let go meanwhile.
        let ended = tokio::task::spawn_blocking(move || daemon.wait()).await.unwrap().unwrap();
        assert!(ended.success(), "the daemon ends well");
    }
}

impl Drop for Node {
    /// Leaves the host as it was, after a failure too.
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        if std::thread::panicking() {
            for thing in inventory::leftovers(&self.names) {
                eprintln!("left: {thing}");
            }
            let log = fs::read_to_string(self.names.state.join("daemon.log")).unwrap_or_default();
            eprintln!("the daemon's log:\n{log}");
        }
        // A daemon that has no records finds only orphans, and removes them.
        for folder in ["cri/sandboxes", "cri/containers"] {
            let _ = fs::remove_dir_all(self.names.state.join(folder));
        }
        if !inventory::leftovers(&self.names).is_empty()
            && let Ok(mut daemon) = self.command().stderr(Stdio::null()).spawn()
        {
            let deadline = Instant::now() + PATIENCE;
            while Instant::now() < deadline && !inventory::leftovers(&self.names).is_empty() {
                std::thread::sleep(Duration::from_millis(50));
            }
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        if let Ok(list) = orlop_cni::NetworkConfigList::load(&self.names.state.join("net.d")) {
            let _ = orlop_cni::remove_network(&list);
        }
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = fs::remove_dir(hierarchy.path().join(self.names.cgroup.trim_start_matches('/')));
        }
    }
}

/// Waits until `condition` holds.
pub(crate) async fn wait_for(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited for {what} for {} s", PATIENCE.as_secs());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
