//! Bundles of busybox.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use orlop_shim::protocol::{Create, Exec, Request};
use serde_json::{Value, json};

use super::{Pod, wait_readable};

pub const BUSYBOX: &str = "/bin/busybox";
const APPLETS: [&str; 16] = [
    "sh", "cat", "echo", "sleep", "seq", "stty", "nc", "true", "false", "id", "ps", "head", "tr", "dd", "kill",
    "setsid",
];

/// A container to be.
pub struct Bundle {
    pub create: Create,
    config: Value,
}

impl Bundle {
    /// Runs `sh -c <script>` in a container of this pod with a PID namespace of its own.
    pub fn new(pod: &Pod, id: &str, script: &str, oci_runtime: Option<&Path>) -> Bundle {
        let id = format!("{}-{id}", pod.id);
        let folder = pod.dir().join("c").join(&id);
        let rootfs = folder.join("rootfs");
        for name in ["bin", "proc", "dev", "sys", "tmp"] {
            fs::create_dir_all(rootfs.join(name)).unwrap();
        }
        fs::copy(BUSYBOX, rootfs.join("bin/busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        let namespace = |name: &str, kind: &str| json!({"type": kind, "path": pod.dir().join("ns").join(name)});
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": {"uid": 0, "gid": 0},
                "args": ["/bin/sh", "-c", script],
                "env": ["PATH=/bin"],
                "cwd": "/",
                "noNewPrivileges": true,
            },
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            ],
            "linux": {
                "cgroupsPath": format!("{}/{id}", pod.cgroup),
                "namespaces": [
                    {"type": "pid"}, {"type": "mount"},
                    namespace("net", "network"), namespace("ipc", "ipc"), namespace("uts", "uts"),
                ],
            },
        });
        let create = Create {
            id: id.clone(),
            bundle: folder,
            oci_runtime: oci_runtime.map(Into::into),
            log_path: Some(pod.path(&format!("{id}.log"))),
            ..Create::default()
        };
        let bundle = Bundle { create, config };
        bundle.write();
        bundle
    }

    pub fn id(&self) -> &str {
        &self.create.id
    }

    /// Changes a value of config.json, by JSON pointer.
    #[must_use]
    pub fn set(mut self, pointer: &str, value: Value) -> Bundle {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let parent = self.config.pointer_mut(parent).unwrap();
        match parent.as_array_mut() {
            Some(list) => list[name.parse::<usize>().unwrap()] = value,
            None => parent[name] = value,
        }
        self.write();
        self
    }

    /// In the pod's shared PID namespace.
    #[must_use]
    pub fn in_pod_pid(self, pod: &Pod) -> Bundle {
        self.set("/linux/namespaces/0", json!({"type": "pid", "path": pod.dir().join("ns/pid")}))
    }

    #[must_use]
    pub fn with_stdin(mut self, once: bool) -> Bundle {
        (self.create.stdin, self.create.stdin_once) = (true, once);
        self
    }

    #[must_use]
    pub fn with_tty(mut self) -> Bundle {
        (self.create.tty, self.create.stdin) = (true, true);
        self.set("/process/terminal", json!(true))
    }

    /// The request for one more process.
    pub fn exec(&self, exec_id: &str, script: &str, tty: bool) -> Request {
        let process = json!({
            "user": {"uid": 0, "gid": 0}, "args": ["/bin/sh", "-c", script], "env": ["PATH=/bin"], "cwd": "/",
        });
        Request::Exec(Exec {
            id: self.id().into(),
            exec_id: exec_id.into(),
            process: serde_json::from_value(process).unwrap(),
            tty,
        })
    }

    pub fn log(&self) -> Vec<Line> {
        read_log(self.create.log_path.as_ref().unwrap())
    }

    /// What it wrote, the lines of both outputs.
    pub fn text(&self) -> Vec<String> {
        self.log().into_iter().map(|line| line.text).collect()
    }

    fn write(&self) {
        let text = serde_json::to_vec_pretty(&self.config).unwrap();
        fs::write(self.create.bundle.join("config.json"), text).unwrap();
    }
}

/// A line of a CRI log.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    pub source: String,
    pub tag: String,
    pub text: String,
}

pub fn read_log(path: &PathBuf) -> Vec<Line> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "the log ends within a line");
    text.split_terminator('\n').map(parse).collect()
}

fn parse(line: &str) -> Line {
    let mut parts = line.splitn(4, ' ').map(str::to_owned);
    let (stamp, source, tag, text) = (parts.next(), parts.next(), parts.next(), parts.next());
    let stamp = stamp.unwrap();
    assert!(stamp.len() == 30 && stamp.starts_with("20") && stamp.ends_with('Z'), "not a time: {line:?}");
    let (source, tag) = (source.unwrap(), tag.unwrap());
    assert!(["stdout", "stderr"].contains(&source.as_str()) && ["F", "P"].contains(&tag.as_str()), "{line:?}");
    Line { source, tag, text: text.unwrap() }
}

/// A pipe: what one end is given the other reads.
pub fn pipe() -> (OwnedFd, OwnedFd) {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap()
}

pub fn read_all(fd: OwnedFd) -> String {
    let mut text = String::new();
    File::from(fd).read_to_string(&mut text).unwrap();
    text
}

/// Reads until what was read ends with this.
pub fn read_until(fd: &OwnedFd, end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        wait_readable(fd);
        let mut part = [0; 4096];
        let count = nix::unistd::read(fd, &mut part).unwrap();
        assert!(count > 0, "end of file after {:?}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&part[..count]);
    }
    String::from_utf8(text).unwrap()
}
