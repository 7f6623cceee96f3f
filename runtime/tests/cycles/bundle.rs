//! A worker's bundle, and configurations that use much of what can be left behind.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde_json::{Value, json};

use crate::chance::Chance;
use crate::{children, common, inventory};

/// Folders that something is mounted on. They are made before, since in a user namespace the container's root
/// may not make them.
const TARGETS: [&str; 4] = ["data", "mnt", "mapped", "hosts"];

/// A folder with a root filesystem and two sockets that listen.
#[derive(Debug)]
pub(crate) struct Bundle {
    pub(crate) folder: PathBuf,
    pub(crate) console: UnixListener,
    asked: UnixListener,
    ip: bool,
}

/// One container to be made from a bundle.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) id: String,
    pub(crate) groups: String,
    pub(crate) terminal: bool,
    pub(crate) pid_file: bool,
    device: Option<String>,
}

impl Bundle {
    pub(crate) fn new(folder: PathBuf) -> Bundle {
        let rootfs = folder.join("rootfs");
        common::make_rootfs(&rootfs);
        for name in TARGETS {
            std::fs::create_dir_all(rootfs.join(name)).expect("mount point");
        }
        std::fs::create_dir_all(rootfs.join("data/below")).expect("folder");
        std::fs::write(rootfs.join("data/below/file"), "copied up").expect("file");
        std::fs::write(rootfs.join("etc/hosts"), "").expect("file");
        std::fs::create_dir_all(folder.join("volume")).expect("volume");
        std::fs::write(folder.join("volume/file"), "bound").expect("file");
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        let listen = |name: &str| {
            let socket = UnixListener::bind(folder.join(name)).expect("socket");
            socket.set_nonblocking(true).expect("socket");
            socket
        };
        let ip = Path::new("/sbin/ip").exists();
        Bundle { console: listen("console.sock"), asked: listen("asked.sock"), ip, folder }
    }

    /// What the container's createRuntime hook makes and its poststop hook removes.
    pub(crate) fn mark(&self) -> PathBuf {
        self.folder.join("mark")
    }

    /// Writes a configuration.
    pub(crate) fn write(&self, chance: &mut Chance, plan: &mut Plan, user_namespace: &Path) {
        let mut spec = common::spec("sleep 1000 & (sleep 1000 &) ; exec sleep 1000");
        let path = |name: &str| self.folder.join(name).display().to_string();
        let linux = &mut spec["linux"];
        linux["cgroupsPath"] = json!(plan.groups);
        linux["resources"] = json!({
            "devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "access": "rwm"}],
            "memory": {"limit": 64 << 20}, "pids": {"limit": 64}, "cpu": {"shares": 512, "quota": 50000, "period": 100_000}
        });
        linux["devices"] = json!([{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o600}]);
        linux["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "syscalls": [
                {"names": ["keyctl", "add_key", "bpf", "reboot"], "action": "SCMP_ACT_ERRNO"},
                {"names": ["personality"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13,
                 "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_NE"}]}
            ]
        });
        if chance.comes(15) {
            linux["seccomp"]["listenerPath"] = json!(path("asked.sock"));
            let rules = linux["seccomp"]["syscalls"].as_array_mut().expect("rules");
            rules.push(json!({"names": ["swapon"], "action": "SCMP_ACT_NOTIFY"}));
        }
        let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
        let mounts = spec["mounts"].as_array_mut().expect("mounts");
        mounts.push(mount("/data", "tmpfs", "tmpfs", &["tmpcopyup", "size=1m", "nosuid"]));
        mounts.push(mount("/mnt", "bind", &path("volume"), &["rbind", "rro"]));
        mounts.push(mount("/etc/hosts", "bind", &path("volume/file"), &["bind", "ro"]));
        let mapping = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        if chance.comes(20) {
            let mut mapped = mount("/mapped", "bind", &path("volume"), &["bind"]);
            mapped["uidMappings"] = mapping.clone();
            mapped["gidMappings"] = mapping.clone();
            mounts.push(mapped);
        }
        if chance.comes(40) {
            spec["hooks"] = self.hooks();
        }
        plan.terminal = chance.comes(30);
        plan.pid_file = chance.comes(50);
        if chance.comes(20) {
            std::fs::write(self.folder.join("pid"), "of somebody before").expect("pid");
        }
        spec["process"]["terminal"] = json!(plan.terminal);
        self.namespaces(chance, plan, &mut spec, user_namespace, mapping);
        std::fs::write(self.folder.join("config.json"), spec.to_string()).expect("config.json");
    }

    fn namespaces(&self, chance: &mut Chance, plan: &mut Plan, spec: &mut Value, user: &Path, mapping: Value) {
        let linux = &mut spec["linux"];
        let mut own = Vec::new();
        match chance.below(100) {
            0..25 => {
                own.push(json!({"type": "user"}));
                linux["uidMappings"] = mapping.clone();
                linux["gidMappings"] = mapping;
            }
            25..40 => own.push(json!({"type": "user", "path": user})),
            // Without a process namespace: only the cgroups tell which processes are the container's.
            40..55 => {
                let namespaces = linux["namespaces"].as_array_mut().expect("namespaces");
                namespaces.retain(|namespace| namespace["type"] != "pid");
            }
            55..65 => {
                own.push(json!({"type": "time"}));
                linux["timeOffsets"] = json!({"monotonic": {"secs": 5, "nanosecs": 0}});
            }
            // Without a mount namespace: nothing of the container may be mounted on the host at any time.
            70..80 => {
                let namespaces = linux["namespaces"].as_array_mut().expect("namespaces");
                namespaces.retain(|namespace| namespace["type"] != "mount");
            }
            65..70 if self.ip => {
                let name = format!("{}{}", inventory::device_prefix(), chance.below(1000));
                let mut add = Command::new("/sbin/ip");
                if children::run(add.args(["link", "add", &name, "type", "veth"])) {
                    linux["netDevices"] = json!({&name: {"name": "web0"}});
                    plan.device = Some(name);
                }
            }
            _ => (),
        }
        linux["namespaces"].as_array_mut().expect("namespaces").extend(own);
    }

    fn hooks(&self) -> Value {
        let hook = |script: &str| json!([{"path": "/bin/busybox", "args": ["sh", "-c", script], "timeout": 20}]);
        let mark = self.mark().display().to_string();
        json!({
            "prestart": hook("true"),
            "createRuntime": hook(&format!(": > {mark}")),
            "createContainer": hook("true"),
            "startContainer": hook("true"),
            "poststart": hook("true"),
            "poststop": hook(&format!("exec /bin/busybox rm -f {mark}"))
        })
    }

    /// Files next to the one with the process id.
    pub(crate) fn strays(&self) -> Vec<String> {
        let names = std::fs::read_dir(&self.folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
        names.filter_map(|name| name.into_string().ok()).filter(|name| name.starts_with("pid.")).collect()
    }

    /// Lets go of what containers handed over, and removes what is the caller's to remove.
    pub(crate) fn end(&self, plan: &Plan) {
        for socket in [&self.console, &self.asked] {
            while let Ok((connection, _)) = socket.accept() {
                drop(received(connection.as_raw_fd()));
            }
        }
        if let Some(name) = &plan.device {
            children::run(Command::new("/sbin/ip").args(["link", "del", name]).stderr(Stdio::null()));
        }
        let _ = std::fs::remove_file(self.folder.join("pid"));
    }
}

impl Plan {
    pub(crate) fn new(id: String, groups: String) -> Plan {
        Plan { id, groups, terminal: false, pid_file: false, device: None }
    }
}

fn received(socket: i32) -> Vec<OwnedFd> {
    let mut bytes = vec![0; 65536];
    let mut parts = [std::io::IoSliceMut::new(&mut bytes)];
    let mut space = nix::cmsg_space!([i32; 1]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let Ok(message) = recvmsg::<()>(socket, &mut parts, Some(&mut space), flags) else { return Vec::new() };
    let fds = message.cmsgs().into_iter().flatten().filter_map(|control| match control {
        ControlMessageOwned::ScmRights(fds) => Some(fds),
        _ => None,
    });
    fds.flatten().map(own).collect()
}

#[allow(unsafe_code)]
fn own(number: i32) -> OwnedFd {
    // SAFETY: recvmsg just made the descriptor, and nothing else knows its number.
    unsafe { OwnedFd::from_raw_fd(number) }
}
