//! The async client against the real shim, on a real container.

use std::fs;
use std::future::Future;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid, pipe};
use oci_spec::runtime::Process;
use orlop_cri::shim::{
    ContainerState, Create, Error, Event, EventStream, FailureKind, Init, PodNamespaces, ShimClient, ShimConfig, Stdio,
};
use orlop_shim::pins::PodFolder;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const BUSYBOX: &str = "/bin/busybox";
/// Nothing here takes this long, whatever the machine does besides.
const PATIENCE: Duration = Duration::from_mins(1);

/// The shim's program, or why this cannot run here.
fn program() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_BIN_EXE_orlop-cri")).with_file_name("orlop-shim");
    let program = std::env::var_os("ORLOP_SHIM").map_or(beside, PathBuf::from);
    let why = if !geteuid().is_root() {
        "needs root".to_owned()
    } else if !Path::new(BUSYBOX).exists() {
        format!("needs {BUSYBOX} (Debian's busybox-static)")
    } else if !program.exists() {
        format!("needs {} (cargo build -p orlop-shim, or ORLOP_SHIM)", program.display())
    } else {
        return Some(program);
    };
    eprintln!("SKIP: {why}");
    None
}

struct Pod {
    folder: tempfile::TempDir,
    id: String,
    client: ShimClient,
}

impl Pod {
    async fn new(program: &Path, name: &str) -> Pod {
        let id = format!("clienttest-{}-{name}", std::process::id());
        let folder = tempfile::Builder::new().prefix(&id).tempdir_in("/run").unwrap();
        let dir = folder.path().join("pod");
        fs::DirBuilder::new().mode(0o700).create(&dir).unwrap();
        let namespaces = PodNamespaces { net: true, ipc: true, uts: true, pid: false };
        let runtime_root = folder.path().join("runtime");
        let init = Init { id: id.clone(), dir, runtime_root, namespaces, ..Init::default() };
        let client = ShimClient::spawn(ShimConfig { binary: program.to_owned(), init }).await.unwrap();
        Pod { folder, id, client }
    }

    fn dir(&self) -> PathBuf {
        self.folder.path().join("pod")
    }

    /// Runs `sh -c <script>` in a container of the pod's id.
    async fn start(&self, script: &str) {
        let bundle = self.dir().join("c");
        for name in ["bin", "proc", "dev"] {
            fs::create_dir_all(bundle.join("rootfs").join(name)).unwrap();
        }
        fs::copy(BUSYBOX, bundle.join("rootfs/bin/busybox")).unwrap();
        for applet in ["sh", "cat", "sleep", "nc"] {
            symlink("busybox", bundle.join("rootfs/bin").join(applet)).unwrap();
        }
        let config = json!({
            "ociVersion": "1.0.2",
            "process": process(script),
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            ],
            "linux": {
                "cgroupsPath": format!("/{0}/{0}", self.id),
                "namespaces": [{"type": "pid"}, {"type": "mount"}],
            },
        });
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        let log_path = Some(self.folder.path().join("log"));
        let create = Create { id: self.id.clone(), bundle, log_path, stdin: true, ..Create::default() };
        assert!(self.client.create(create).await.unwrap() > 0);
        assert!(self.client.start(&self.id).await.unwrap() > 0);
    }

    fn assert_clean(&self) {
        assert!(!self.dir().join("ns").exists() && !self.dir().join("shim.sock").exists());
        assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&self.id));
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let cgroup = hierarchy.path().join(&self.id);
            if cgroup.exists() && !hierarchy.path().is_symlink() {
                // The pod's own is the daemon's to remove; the container's must be gone by then.
                fs::remove_dir(cgroup).unwrap();
            }
        }
    }
}

impl Drop for Pod {
    /// For a test that failed: what a shim that is killed leaves is cleaned up.
    fn drop(&mut self) {
        if let Ok(pid) = fs::read_to_string(format!("/proc/{}/cmdline", self.client.pid()))
            && pid.contains(&self.id)
        {
            kill(Pid::from_raw(self.client.pid()), Signal::SIGKILL).ok();
        }
        orlop_runtime::Runtime::new(self.folder.path().join("runtime")).delete(&self.id, true).ok();
        // The lock is free once the kernel is done with the shim.
        for _ in 0..500 {
            match PodFolder::lock(&self.dir()) {
                Ok(folder) => return folder.clear().unwrap_or_else(|error| eprintln!("clean up: {error}")),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }
}

fn process(script: &str) -> Process {
    let process =
        json!({"user": {"uid": 0, "gid": 0}, "args": ["/bin/sh", "-c", script], "env": ["PATH=/bin"], "cwd": "/"});
    serde_json::from_value(process).unwrap()
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("not done in time") });
}

async fn exit(events: &mut EventStream, exec: Option<&str>) -> i32 {
    loop {
        if let Event::Exit { exec_id, status, .. } = events.next().await.unwrap().unwrap()
            && exec_id.as_deref() == exec
        {
            return status.code;
        }
    }
}

fn read_all(fd: OwnedFd) -> String {
    let mut text = String::new();
    fs::File::from(fd).read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_container_through_the_client() {
    let Some(program) = program() else { return };
    run(async {
        let pod = Pod::new(&program, "life").await;
        let (client, id) = (&pod.client, pod.id.as_str());
        let mut events = client.events();
        assert_eq!(events.next().await.unwrap().unwrap(), Event::Synced);
        pod.start("(while :; do nc -l -p 8080 -e /bin/cat; done) & read line; echo got $line; exit 7").await;

        let ((stdin, to_stdin), (output, stdout)) = (pipe().unwrap(), pipe().unwrap());
        let stdio = Stdio::Descriptors { stdin, stderr: stdout.try_clone().unwrap(), stdout };
        let execed = client.exec(id, "one", process("cat; exit 5"), stdio).await.unwrap();
        assert!(execed.pid > 0 && execed.terminal.is_none());
        nix::unistd::write(&to_stdin, b"through").unwrap();
        drop(to_stdin);
        assert_eq!(tokio::task::spawn_blocking(|| read_all(output)).await.unwrap(), "through");
        assert_eq!(exit(&mut events, Some("one")).await, 5);
        let execed = client.exec(id, "two", process("sleep 1000"), Stdio::Terminal).await.unwrap();
        assert!(execed.terminal.is_some());
        client.resize(id, Some("two"), 80, 25).await.unwrap();
        client.kill_exec(id, "two", libc::SIGKILL).await.unwrap();
        assert_eq!(exit(&mut events, Some("two")).await, 137);

        let mut stream = loop {
            match client.dial(8080).await {
                Ok(stream) => break stream,
                Err(Error::Dial { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(error) => panic!("dial: {error}"),
            }
        };
        stream.write_all(b"ping").await.unwrap();
        let mut echo = [0; 4];
        stream.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"ping");

        let (output, stdout) = pipe().unwrap();
        let attached = client.attach(id, true, stdout, None).await.unwrap();
        nix::unistd::write(attached.stdin.expect("its stdin"), b"word\n").unwrap();
        assert_eq!(exit(&mut events, None).await, 7);
        assert_eq!(tokio::task::spawn_blocking(|| read_all(output)).await.unwrap(), "got word\n");

        // Many at a time, and a daemon that comes later.
        let lists = futures::future::join_all((0..50).map(|_| client.list())).await;
        assert!(lists.into_iter().all(|listed| listed.unwrap().containers[0].state == ContainerState::Ended));
        let later = ShimClient::connect(&pod.dir()).await.unwrap();
        assert_eq!(later.pid(), client.pid());
        assert_eq!(exit(&mut later.events(), None).await, 7);

        let error = later.start("other").await.unwrap_err();
        assert!(error.is_not_found() && error.kind() == Some(FailureKind::NotFound), "{error}");
        client.delete(id).await.unwrap();
        client.shutdown().await.unwrap();
        later.shutdown().await.unwrap();
        assert!(matches!(ShimClient::connect(&pod.dir()).await, Err(Error::Gone { .. })));
        let last = events.collect::<Vec<_>>().await.pop().unwrap();
        assert!(matches!(last, Err(Error::Gone { .. })), "{last:?}");
        pod.assert_clean();
    });
}

#[test]
fn a_killed_shim_ends_the_events() {
    let Some(program) = program() else { return };
    run(async {
        let pod = Pod::new(&program, "killed").await;
        let mut events = pod.client.events();
        assert_eq!(events.next().await.unwrap().unwrap(), Event::Synced);
        kill(Pid::from_raw(pod.client.pid()), Signal::SIGKILL).unwrap();
        assert!(matches!(events.next().await, Some(Err(Error::Gone { .. }))));
        assert!(events.next().await.is_none());
        assert!(pod.client.list().await.is_err());
        PodFolder::lock(&pod.dir()).unwrap().clear().unwrap();
        pod.assert_clean();
    });
}

#[test]
fn a_shim_that_hangs_is_not_waited_for_without_bound() {
    let Some(program) = program() else { return };
    run(async {
        let pod = Pod::new(&program, "hangs").await;
        let shim = Pid::from_raw(pod.client.pid());
        kill(shim, Signal::SIGSTOP).unwrap();
        // Nobody can connect any more.
        let socket = pod.dir().join("shim.sock");
        let mut waiting = Vec::new();
        while let Ok(connection) = orlop_shim::packet::connect_to(&socket) {
            waiting.push(connection);
        }
        for outcome in futures::future::join_all((0..3).map(|_| pod.client.list())).await {
            assert!(matches!(outcome, Err(Error::Timeout { .. })), "{outcome:?}");
        }
        drop(waiting);
        kill(shim, Signal::SIGCONT).unwrap();
        pod.client.list().await.unwrap();
        pod.client.shutdown().await.unwrap();
        pod.assert_clean();
    });
}

#[test]
fn a_failed_spawn_says_why() {
    let Some(program) = program() else { return };
    run(async {
        let dir = PathBuf::from("/no/such/folder");
        let init = Init { id: "x".into(), dir, ..Init::default() };
        let missing = ShimConfig { binary: "/no/such/program".into(), init: init.clone() };
        assert!(matches!(ShimClient::spawn(missing).await, Err(Error::Spawn { .. })));
        let wrong = ShimConfig { binary: "/bin/true".into(), init: init.clone() };
        assert!(ShimClient::spawn(wrong).await.unwrap_err().is_gone());
        let refused = ShimClient::spawn(ShimConfig { binary: program, init }).await.unwrap_err();
        assert_eq!(refused.errno(), Some(libc::ENOENT), "{refused}");
    });
}
