//! What this machine is.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;

use k8s_openapi::api::core::v1::NodeSystemInfo;

/// The architecture as Go names it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The address that the default route would use; nothing is sent.
pub(crate) fn default_address() -> Option<IpAddr> {
    // The address of a documentation network: connecting a datagram socket only looks up the route.
    let anywhere: SocketAddr = ([192, 0, 2, 1], 9).into();
    let socket = UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    socket.connect(anywhere).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified()).then_some(ip)
}

fn meminfo(key: &str) -> Option<i64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'))?;
    let kib: i64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib)
}

/// Bytes of memory.
pub(crate) fn memory() -> i64 {
    meminfo("MemTotal").unwrap_or(0) << 10
}

/// Bytes of memory that could be had.
pub(crate) fn memory_available() -> i64 {
    meminfo("MemAvailable").unwrap_or(0) << 10
}

/// The node's capacity, as quantities.
pub(crate) fn capacity(max_pods: u32, state_dir: &Path) -> BTreeMap<String, String> {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let disk = nix::sys::statvfs::statvfs(state_dir).map_or(0, |s| s.blocks() * s.fragment_size() / 1024);
    [
        ("cpu", cpus.to_string()),
        ("memory", format!("{}Ki", meminfo("MemTotal").unwrap_or(0))),
        ("ephemeral-storage", format!("{disk}Ki")),
        ("pods", max_pods.to_string()),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v))
    .collect()
}

fn line_of(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// `status.nodeInfo`.
pub(super) fn system(runtime: &str) -> NodeSystemInfo {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let image = release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    NodeSystemInfo {
        architecture: architecture().to_owned(),
        boot_id: line_of("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: runtime.to_owned(),
        kernel_version: line_of("/proc/sys/kernel/osrelease"),
        kube_proxy_version: String::new(),
        kubelet_version: format!("v1.36.0+orlop.{}", env!("CARGO_PKG_VERSION")),
        machine_id: line_of("/etc/machine-id"),
        operating_system: "linux".to_owned(),
        os_image: image.unwrap_or("Linux").trim_matches('"').to_owned(),
        system_uuid: line_of("/sys/class/dmi/id/product_uuid"),
        swap: None,
    }
}

/// The least `oom_score_adj` this host lets us give, and whether that is a limit at all.
pub(crate) fn oom_floor() -> i64 {
    const CAP_SYS_RESOURCE: u64 = 1 << 24;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let capabilities = effective.and_then(|t| u64::from_str_radix(t.trim(), 16).ok()).unwrap_or(0);
    if capabilities & CAP_SYS_RESOURCE != 0 {
        return -1000;
    }
    line_of("/proc/self/oom_score_adj").parse().unwrap_or(0)
}
