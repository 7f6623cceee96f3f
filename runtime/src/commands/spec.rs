//! spec

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use serde_json::{Value, json};

use super::Failure;

#[derive(Debug, clap::Args)]
pub(super) struct Spec {
    /// The bundle
    #[arg(short, long, default_value = ".", value_name = "FOLDER")]
    bundle: PathBuf,
}

impl Spec {
    /// `rootless` is for an ordinary user: with a user namespace that has the caller as its root.
    pub(super) fn run(self, rootless: bool) -> Result<ExitCode, Failure> {
        let path = self.bundle.join("config.json");
        // What is there may be somebody's work.
        let opened = OpenOptions::new().write(true).create_new(true).open(&path);
        let mut file = opened.map_err(|error| format!("create {}: {error}", path.display()))?;
        let mut config = example();
        if is_unified() {
            // As runc: where version 1 is there, what runs below may want to see its groups' whole paths.
            if let Some(namespaces) = config["linux"]["namespaces"].as_array_mut() {
                namespaces.push(json!({"type": "cgroup"}));
            }
        }
        if rootless {
            make_rootless(&mut config, nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        }
        writeln!(file, "{}", serde_json::to_string_pretty(&config)?)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Whether all controllers are in the hierarchy of version 2.
fn is_unified() -> bool {
    statfs("/sys/fs/cgroup").is_ok_and(|stat| stat.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

/// A shell in a container of its own: few capabilities, nothing of the host in sight.
fn example() -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    json!({
        "ociVersion": orlop_runtime::OCI_VERSION,
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "orlop",
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"])
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}
            ],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
                "/sys/devices/virtual/powercap"
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}

/// What an ordinary user cannot have goes: limits, a network namespace and the sysfs that needs one, and groups
/// other than the one that is mapped. The mount of cgroups stays: it covers those in the host's /sys, which are
/// writable where they are delegated (CVE-2023-25809).
fn make_rootless(config: &mut Value, uid: u32, gid: u32) {
    if let Some(mounts) = config["mounts"].as_array_mut() {
        for mount in &mut *mounts {
            if mount["destination"] == "/sys" {
                let options = ["rbind", "nosuid", "noexec", "nodev", "ro"];
                *mount = json!({"destination": "/sys", "type": "none", "source": "/sys", "options": options});
            }
            if let Some(options) = mount["options"].as_array_mut() {
                let owner = |text: &str| text.starts_with("uid=") || text.starts_with("gid=");
                options.retain(|option| !option.as_str().is_some_and(owner));
            }
        }
    }
    let linux = &mut config["linux"];
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({"type": "user"}));
    }
    linux["uidMappings"] = json!([{"containerID": 0, "hostID": uid, "size": 1}]);
    linux["gidMappings"] = json!([{"containerID": 0, "hostID": gid, "size": 1}]);
    if let Some(linux) = linux.as_object_mut() {
        linux.remove("resources");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rootless() {
        let mut config = example();
        make_rootless(&mut config, 1000, 50);
        let text = config.to_string();
        assert!(!text.contains("gid=5") && !text.contains("network") && !text.contains("resources"), "{text}");
        assert_eq!(config["linux"]["uidMappings"], json!([{"containerID": 0, "hostID": 1000, "size": 1}]));
        assert_eq!(config["linux"]["gidMappings"][0]["hostID"], 50);
        assert!(text.contains("/sys/fs/cgroup"), "{text}");
        serde_json::from_value::<orlop_runtime::Spec>(config).expect("a configuration");
    }
}
