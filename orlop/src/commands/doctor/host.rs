//! What the host has beside its kernel: privileges, room, ports, settings.

use std::env;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::sys::statvfs::statvfs;
use nix::unistd::Uid;

use super::Finding;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// Capabilities (linux/capability.h), and what becomes of a node without; none: there is no node.
const CAPABILITIES: &[(u32, &str, Option<&str>)] = &[
    (0, "CAP_CHOWN", None),
    (1, "CAP_DAC_OVERRIDE", None),
    (3, "CAP_FOWNER", None),
    (5, "CAP_KILL", None),
    (6, "CAP_SETGID", None),
    (7, "CAP_SETUID", None),
    (8, "CAP_SETPCAP", None),
    (12, "CAP_NET_ADMIN", None),
    (18, "CAP_SYS_CHROOT", None),
    (19, "CAP_SYS_PTRACE", None),
    (21, "CAP_SYS_ADMIN", None),
    (24, "CAP_SYS_RESOURCE", Some("the out-of-memory scores of pods cannot be lowered, nor hard limits raised")),
    (27, "CAP_MKNOD", None),
];

/// Who runs this, and what they may.
pub(super) fn privileges() -> Vec<Finding> {
    let user = Uid::effective();
    let root = if user.is_root() {
        Finding::ok("root", "running as root")
    } else {
        Finding::missing("root", format!("running as user {user}"), "run it with sudo; what follows is for this user")
    };
    vec![root, capabilities()]
}

pub(super) fn findings() -> Vec<Finding> {
    let mut findings = vec![port(6443, "control plane"), port(10250, "agent")];
    findings.extend([memory(), disk(Path::new("/var/lib/orlop")), run_folder(Path::new("/run"))]);
    findings.extend(SETTINGS.iter().map(setting));
    findings.extend([tool("kubectl", "apt-get install kubernetes-client"), tool("crictl", "see cri-tools")]);
    findings
}

fn capabilities() -> Finding {
    const NAME: &str = "capabilities";
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let Some(effective) = effective_capabilities(&status) else {
        return Finding::missing(NAME, "/proc/self/status does not tell them", "mount /proc");
    };
    let absent: Vec<_> = CAPABILITIES.iter().filter(|(bit, ..)| effective & (1 << bit) == 0).collect();
    let names = || absent.iter().map(|(_, name, _)| *name).collect::<Vec<_>>().join(", ");
    if absent.is_empty() {
        return Finding::ok(NAME, "all that a node needs");
    }
    if absent.iter().any(|(.., without)| without.is_none()) {
        return Finding::missing(NAME, format!("without {}", names()), "run as root, outside of a container");
    }
    let without: Vec<_> = absent.iter().filter_map(|(.., without)| *without).collect();
    Finding::warn(NAME, format!("without {}", names()), format!("without them, {}", without.join("; ")))
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(set.trim(), 16).ok()
}

fn port(port: u16, user: &str) -> Finding {
    let name = format!("port {port}");
    match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) {
        Ok(_) => Finding::ok(name, format!("free for the {user}")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Finding::warn(
            name,
            "in use",
            format!("fine if the {user} runs already; else stop what uses it (ss -ltnp), or configure another"),
        ),
        Err(error) => Finding::missing(name, error.to_string(), "run as root"),
    }
}

fn memory() -> Finding {
    const NAME: &str = "memory";
    let table = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let Some(available) = meminfo(&table, "MemAvailable:") else {
        return Finding::warn(NAME, "/proc/meminfo does not tell it", "mount /proc");
    };
    let detail = format!("{} MiB available", available / MIB);
    if available < 256 * MIB {
        return Finding::warn(NAME, detail, "pods will be killed for want of it: give the host 512 MiB or more");
    }
    Finding::ok(NAME, detail)
}

/// A value of /proc/meminfo in bytes.
fn meminfo(table: &str, key: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The room where images and containers will be: of the nearest folder that is there.
fn disk(folder: &Path) -> Finding {
    const NAME: &str = "disk";
    let Some(there) = folder.ancestors().find(|ancestor| ancestor.exists()) else {
        return Finding::missing(NAME, format!("{} has no parent", folder.display()), "make the folder");
    };
    match statvfs(there) {
        Ok(room) => {
            let free = room.blocks_available() * room.fragment_size();
            let detail = format!("{:.1} GiB free for {}", free as f64 / GIB as f64, folder.display());
            if free < 2 * GIB {
                return Finding::warn(NAME, detail, "images need room: free some, or set `state` to another disk");
            }
            Finding::ok(NAME, detail)
        }
        Err(errno) => Finding::missing(NAME, format!("{}: {errno}", there.display()), "see what is mounted there"),
    }
}

fn run_folder(folder: &Path) -> Finding {
    let name = folder.display().to_string();
    match statfs(folder) {
        Ok(stat) if stat.filesystem_type() == TMPFS_MAGIC => Finding::ok(name, "a tmpfs"),
        Ok(_) => Finding::warn(name, "not a tmpfs", "what is there outlives a reboot: mount one, or set `run` to one"),
        Err(errno) => Finding::missing(name, errno.to_string(), "make the folder and mount a tmpfs there"),
    }
}

/// A number below /proc/sys.
struct Setting {
    name: &'static str,
    least: u64,
    why: &'static str,
}

const SETTINGS: &[Setting] = &[
    Setting { name: "net.ipv4.ip_forward", least: 1, why: "set when the first pod gets a network" },
    Setting { name: "fs.inotify.max_user_instances", least: 128, why: "programs in pods run out of them" },
    Setting { name: "fs.inotify.max_user_watches", least: 8192, why: "programs in pods run out of them" },
    Setting { name: "kernel.pid_max", least: 32768, why: "all pods together have no more processes" },
];

fn setting(setting: &Setting) -> Finding {
    let Setting { name, least, why } = *setting;
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    match fs::read_to_string(&path).map(|text| text.trim().parse::<u64>()) {
        Ok(Ok(value)) if value >= least => Finding::ok(name, value.to_string()),
        Ok(Ok(value)) => {
            Finding::warn(name, format!("{value}, less than {least}: {why}"), format!("sysctl -w {name}={least}"))
        }
        Ok(Err(_)) => Finding::warn(name, "not a number", format!("look at {}", path.display())),
        Err(error) => Finding::warn(name, error.to_string(), format!("look at {}", path.display())),
    }
}

/// Nothing of a node executes these; people do.
fn tool(name: &str, from: &str) -> Finding {
    let paths = env::var_os("PATH").unwrap_or_default();
    match env::split_paths(&paths).map(|folder| folder.join(name)).find(|path| path.is_file()) {
        Some(path) => Finding::ok(name, path.display().to_string()),
        None => Finding::warn(name, "not on the PATH", format!("only people need it: {from}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        assert_eq!(effective_capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n"), Some(0x1ff_ffff_ffff));
        assert_eq!(effective_capabilities("Name:\tx\n"), None);
        assert_eq!(meminfo("MemTotal: 1 kB\nMemAvailable:    2048 kB\n", "MemAvailable:"), Some(2 * MIB));
    }

    #[test]
    fn a_port_in_use_is_told() {
        let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let finding = port(taken.local_addr().unwrap().port(), "test");
        assert_eq!(finding.level, super::super::Level::Warn);
    }
}
