//! A private "host": every test runs on a thread in a network namespace of its own, with its containers in
//! further ones. Nothing reaches the machine's own network, and all is gone with the last descriptor.
#![allow(dead_code, unreachable_pub)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use orlop_cni::netlink::Route;
use orlop_cni::{Attachment, CniResult, NetworkConfigList, Runner};
use serde_json::{Value, json};

/// A connection that must not come about is given up after this.
pub const REFUSED_AFTER: Duration = Duration::from_millis(700);
const CONNECTED_WITHIN: Duration = Duration::from_secs(5);

pub struct Host {
    pub dir: tempfile::TempDir,
    pub table: String,
}

/// Runs the test on a host of its own.
pub fn on_a_host(test: impl FnOnce(&Host) + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIP: network namespaces need root");
        return;
    }
    let body = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace for the host");
        let host = Host { dir: tempfile::tempdir().unwrap(), table: "orlop-test".to_owned() };
        let mut route = Route::open().unwrap();
        let lo = route.link("lo").unwrap().unwrap();
        route.set_up(&lo).unwrap();
        test(&host);
    });
    if let Err(panic) = body.join() {
        std::panic::resume_unwind(panic);
    }
}

impl Host {
    pub fn runner(&self) -> Runner {
        Runner::new(vec![self.bin()], self.dir.path().join("cni"), true)
    }

    /// A runner that executes every plugin, ours too.
    pub fn executing_runner(&self) -> Runner {
        let installed = std::process::Command::new(env!("CARGO_BIN_EXE_orlop-cni"))
            .arg("install")
            .arg(self.bin())
            .status()
            .unwrap();
        assert!(installed.success());
        Runner::new(vec![self.bin()], self.dir.path().join("cni"), false)
    }

    pub fn bin(&self) -> PathBuf {
        self.dir.path().join("bin")
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("networks")
    }

    /// A `bridge` plugin with a default route and masquerading.
    pub fn bridge(&self, bridge: &str, subnets: &[&str]) -> Value {
        let ranges: Vec<Value> = subnets.iter().map(|s| json!([{ "subnet": s }])).collect();
        json!({
            "type": "bridge", "bridge": bridge, "isDefaultGateway": true, "ipMasq": true, "nftTable": self.table,
            "ipam": { "type": "host-local", "dataDir": self.data_dir(), "ranges": ranges },
        })
    }

    pub fn portmap(&self) -> Value {
        json!({ "type": "portmap", "nftTable": self.table, "capabilities": { "portMappings": true } })
    }

    /// The usual pod network: bridge and portmap.
    pub fn pod_network(&self, subnets: &[&str]) -> NetworkConfigList {
        list("pods", &[self.bridge("cni0", subnets), self.portmap()])
    }

    /// A container of a network beside the host, `192.0.2.0/24`, whose router the host is not: it stands for
    /// another machine. The host is 192.0.2.1 there.
    pub fn neighbour(&self) -> (Pod, IpAddr) {
        let mut bridge = self.bridge("ext0", &["192.0.2.0/24", "2001:db8::/64"]);
        bridge["isDefaultGateway"] = json!(false);
        bridge["isGateway"] = json!(true);
        bridge["ipMasq"] = json!(false);
        let pod = Pod::new();
        let result = self.runner().add(&list("outside", &[bridge]), &pod.attachment("neighbour"));
        let address = result.unwrap().ips[0].address.addr();
        (pod, address)
    }

    /// The interfaces of the host that the thread is on.
    #[allow(clippy::unused_self)]
    pub fn links(&self) -> Vec<String> {
        let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let mut names: Vec<String> =
            text.lines().skip(2).filter_map(|line| line.split(':').next().map(|n| n.trim().to_owned())).collect();
        names.sort();
        names
    }

    /// The address files of a network.
    pub fn addresses(&self, network: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.data_dir().join(network)) else { return Vec::new() };
        let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.parse::<IpAddr>().is_ok()).collect()
    }

    pub fn cached_results(&self) -> usize {
        fs::read_dir(self.dir.path().join("cni/results")).map_or(0, Iterator::count)
    }

    /// A program in the plugin folder.
    pub fn install_script(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        fs::create_dir_all(self.bin()).unwrap();
        let path = self.bin().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

pub fn list(name: &str, plugins: &[Value]) -> NetworkConfigList {
    list_of("1.0.0", name, plugins)
}

pub fn list_of(version: &str, name: &str, plugins: &[Value]) -> NetworkConfigList {
    let text = json!({ "cniVersion": version, "name": name, "plugins": plugins }).to_string();
    NetworkConfigList::parse(text.as_bytes()).unwrap()
}

/// A container's network namespace; gone when dropped.
pub struct Pod {
    netns: File,
}

impl Pod {
    pub fn new() -> Pod {
        let open = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        };
        Pod { netns: thread::spawn(open).join().unwrap() }
    }

    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.netns.as_raw_fd()))
    }

    pub fn attachment(&self, id: &str) -> Attachment {
        Attachment::new(id, Some(self.path()), "eth0")
    }

    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(work).join().unwrap()
    }

    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let netns = self.netns.try_clone().unwrap();
        thread::spawn(move || {
            setns(&netns, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }

    /// Listens on every address; tells each client the address that it seems to come from.
    pub fn serve(&self, port: u16) {
        let bind = move || TcpListener::bind((IpAddr::from([0u16; 8]), port)).unwrap();
        let listener = self.run(bind);
        thread::spawn(move || serve(&listener));
    }

    /// Answers datagrams with the sender's address.
    pub fn serve_udp(&self, port: u16) {
        let socket = self.run(move || UdpSocket::bind(("0.0.0.0", port)).unwrap());
        thread::spawn(move || {
            let mut buffer = [0; 16];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(from.ip().to_string().as_bytes(), from);
            }
        });
    }

    pub fn ask(&self, ip: IpAddr, port: u16) -> String {
        self.run(move || ask(ip, port))
    }
}

fn serve(listener: &TcpListener) {
    while let Ok((mut stream, from)) = listener.accept() {
        let _ = stream.write_all(from.ip().to_canonical().to_string().as_bytes());
    }
}

/// A server of the host itself, on one address.
pub fn serve_on_host(address: &str) {
    let listener = TcpListener::bind(address).unwrap();
    thread::spawn(move || serve(&listener));
}

/// The address that a server sees a connection of this thread's host come from.
pub fn ask(ip: IpAddr, port: u16) -> String {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(ip, port), CONNECTED_WITHIN)
        .unwrap_or_else(|e| panic!("connect to {ip} port {port}: {e}"));
    stream.set_read_timeout(Some(CONNECTED_WITHIN)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

pub fn ask_udp(ip: IpAddr, port: u16) -> String {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(CONNECTED_WITHIN)).unwrap();
    socket.send_to(b"?", (ip, port)).unwrap();
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

pub fn can_connect(ip: IpAddr, port: u16) -> bool {
    TcpStream::connect_timeout(&SocketAddr::new(ip, port), REFUSED_AFTER).is_ok()
}

/// Connects, and answers how many of this thread's network's SYN packets had to be sent again so far.
#[track_caller]
pub fn connect_and_count_resent(ip: IpAddr, port: u16) -> u64 {
    TcpStream::connect_timeout(&SocketAddr::new(ip, port), CONNECTED_WITHIN).unwrap();
    let table = fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let mut lines = table.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, numbers) = (lines.next().unwrap(), lines.next().unwrap());
    let mut columns = names.split(' ').zip(numbers.split(' '));
    columns.find(|(name, _)| *name == "TCPSynRetrans").unwrap().1.parse().unwrap()
}

#[track_caller]
pub fn wait_until(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "in vain");
        thread::sleep(Duration::from_millis(1));
    }
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn address(result: &CniResult, index: usize) -> IpAddr {
    result.ips[index].address.addr()
}

pub fn exists(path: &Path) -> bool {
    path.exists()
}
