//! Containers from real bundles: busybox as the root filesystem. When a test ends, everything that its
//! container held must be gone from the host.
#![allow(dead_code, unused_imports)]

mod cgroups;

pub(crate) use cgroups::{Group, by_systemd, is_unified, left_behind, unified};

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const APPLETS: [&str; 30] = [
    "sh", "cat", "echo", "env", "false", "grep", "head", "hostname", "id", "kill", "ln", "ls", "mkdir", "mknod",
    "mount", "mv", "ps", "pwd", "readlink", "rm", "seq", "sleep", "stat", "test", "touch", "true", "tty", "umount",
    "uname", "wc",
];

/// Whether containers can be run here; says why not.
pub(crate) fn can_run() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("SKIP: containers need root");
    } else if !Path::new("/bin/busybox").exists() {
        println!("SKIP: /bin/busybox is missing; install busybox-static");
    }
    root && Path::new("/bin/busybox").exists()
}

/// Whether the kernel is older than this version.
pub(crate) fn is_linux_before(major: u32, minor: u32) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("release");
    let mut numbers = release.split('.').map(|number| number.parse().unwrap_or(0));
    (numbers.next(), numbers.next()) < (Some(major), Some(minor))
}

/// Whether AppArmor is turned on.
pub(crate) fn has_apparmor() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|is| is.starts_with(b"Y"))
}

/// A temporary folder. Not below /tmp, where there may be no devices.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("orlop-runtime-").tempdir_in("/var/tmp").expect("temporary folder")
}

/// A bundle, the container that may have been made from it, and the state folder it is in.
pub(crate) struct Container {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) id: String,
    pub(crate) spec: Value,
}

impl Container {
    /// A bundle whose program is a line of shell.
    pub(crate) fn new(script: &str) -> Container {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let folder = folder();
        let id = format!("test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        make_rootfs(&folder.path().join("rootfs"));
        let path = cgroups::path(&id);
        Container { folder, id, spec: spec(script) }.set("/linux/cgroupsPath", json!(path))
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.folder.path().join("rootfs")
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Changes the property at a JSON pointer; the last component may be new.
    pub(crate) fn set(mut self, pointer: &str, value: Value) -> Container {
        let (parent, name) = pointer.rsplit_once('/').expect("pointer");
        self.spec.pointer_mut(parent).expect("pointer")[name] = value;
        self
    }

    pub(crate) fn add_mount(mut self, mount: Value) -> Container {
        self.spec["mounts"].as_array_mut().expect("mounts").push(mount);
        self
    }

    pub(crate) fn write_config(&self) {
        std::fs::write(self.folder.path().join("config.json"), self.spec.to_string()).expect("write config.json");
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        if by_systemd() {
            command.arg("--systemd-cgroup");
        }
        command.arg("--root").arg(self.root()).args(args).stdin(Stdio::null());
        command
    }

    /// Runs a verb to its end.
    pub(crate) fn call(&self, args: &[&str]) -> Ran {
        Ran::from(self.command(args).output().expect("run orlop-runtime"))
    }

    /// Runs the container in the foreground, to its end.
    pub(crate) fn run(&self) -> Ran {
        self.write_config();
        let bundle = self.folder.path().to_str().expect("path");
        self.call(&["run", "--bundle", bundle, &self.id])
    }

    /// Creates the container; its output goes to the file `output` of the bundle.
    pub(crate) fn create(&self) -> Ran {
        self.write_config();
        let file = std::fs::File::create(self.folder.path().join("output")).expect("output");
        let errors = self.folder.path().join("errors");
        let bundle = self.folder.path().to_str().expect("path");
        let status = self
            .command(&["create", "--bundle", bundle, &self.id])
            .stdout(file)
            .stderr(std::fs::File::create(&errors).expect("errors"))
            .status()
            .expect("run orlop-runtime");
        let stderr = std::fs::read_to_string(errors).expect("errors");
        Ran { code: status.code(), stdout: String::new(), stderr }
    }

    /// Creates and starts the container.
    pub(crate) fn run_detached(&self) -> Ran {
        self.create().ok();
        self.start()
    }

    pub(crate) fn start(&self) -> Ran {
        self.call(&["start", &self.id])
    }

    pub(crate) fn output(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("output")).expect("output")
    }

    pub(crate) fn exec(&self, script: &str) -> Ran {
        self.call(&["exec", &self.id, "sh", "-c", script])
    }

    pub(crate) fn state(&self) -> Value {
        let ran = self.call(&["state", &self.id]).ok();
        serde_json::from_str(&ran).expect("state")
    }

    pub(crate) fn status(&self) -> String {
        self.state()["status"].as_str().expect("status").to_owned()
    }

    /// The container's group of a controller, where its process is; `None` when it is in none of its own, or this
    /// host has no such controller.
    pub(crate) fn cgroup(&self, controller: &str) -> Option<Group> {
        Group::of(&self.state()["pid"].to_string(), controller, &self.id)
    }

    /// What of this container is still on the host.
    pub(crate) fn left_behind(&self) -> Vec<String> {
        let mut left = Vec::new();
        if self.root().join(&self.id).exists() {
            left.push(format!("state {}", self.root().join(&self.id).display()));
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let folder = self.folder.path().to_str().expect("path");
        left.extend(mounts.lines().filter(|line| line.contains(folder)).map(|line| format!("mount {line}")));
        left.extend(left_behind(&self.id));
        left
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let deleted = self.call(&["delete", "--force", &self.id]);
        if !std::thread::panicking() {
            assert_eq!(deleted.code, Some(0), "{}", deleted.stderr);
            assert_eq!(self.left_behind(), Vec::<String>::new());
        }
    }
}

/// The runtime: ours, or another one with runc's command line, which shows what a test would say of it.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("ORLOP_TEST_RUNTIME").map_or_else(|| env!("CARGO_BIN_EXE_orlop-runtime").into(), PathBuf::from)
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ran {
    /// The output of a command that succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        self.stdout
    }

    /// The complaint of a command that failed.
    #[track_caller]
    pub(crate) fn error(self) -> String {
        assert!(!matches!(self.code, Some(0)), "it succeeded: {}", self.stdout);
        self.stderr
    }
}

/// The children of a process with one thread.
pub(crate) fn children_of(pid: u32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Waits for a condition, and fails when it does not come.
#[track_caller]
pub(crate) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    assert!(eventually(condition), "{what} did not happen");
}

/// Waits for a condition; whether it comes.
pub(crate) fn eventually(condition: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

pub(crate) fn make_rootfs(rootfs: &Path) {
    for folder in ["bin", "etc", "tmp", "proc", "sys", "dev"] {
        std::fs::create_dir_all(rootfs.join(folder)).expect("rootfs");
    }
    std::fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("busybox");
    for applet in APPLETS {
        std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet)).expect("applet");
    }
    std::fs::write(rootfs.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:1000:1000::/home/web:/bin/sh\n")
        .expect("passwd");
}

/// A container with all namespaces of its own, and nothing more than it needs.
pub(crate) fn spec(script: &str) -> Value {
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    let capabilities = json!(["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID"]);
    json!({
        "ociVersion": "1.3.0",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["sh", "-c", script],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs"},
        "hostname": "box",
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "ro"])
        ],
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                {"type": "cgroup"}
            ],
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "maskedPaths": ["/proc/keys", "/proc/acpi", "/proc/no-such-file"],
            "readonlyPaths": ["/proc/sys", "/proc/no-such-file"]
        }
    })
}
