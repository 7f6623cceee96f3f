//! A pod with the real shim, asked as a daemon asks it, but blocking.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part")]

pub mod bundle;

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use orlop_shim::packet;
use orlop_shim::pins::PodFolder;
use orlop_shim::protocol::{
    Answer, ContainerInfo, Create, Event, ExitStatus, Failure, Init, Listed, PodNamespaces, Request, SOCKET,
};

/// Nothing here takes this long, whatever the machine does besides.
pub const PATIENCE: Duration = Duration::from_mins(1);
pub const OWN: PodNamespaces = PodNamespaces { net: true, ipc: true, uts: true, pid: false };
pub const OWN_AND_PID: PodNamespaces = PodNamespaces { net: true, ipc: true, uts: true, pid: true };

/// Why a test cannot run here.
pub fn cannot_run(oci_runtime: Option<&Path>) -> bool {
    let missing = oci_runtime.filter(|program| !program.exists());
    let why = if !geteuid().is_root() {
        "needs root".to_owned()
    } else if !Path::new(bundle::BUSYBOX).exists() {
        format!("needs {} (Debian's busybox-static)", bundle::BUSYBOX)
    } else if let Some(program) = missing {
        format!("needs {}", program.display())
    } else {
        return false;
    };
    eprintln!("SKIP: {why}");
    true
}

/// Runs a test with the built-in runtime and with Debian's runc.
#[macro_export]
macro_rules! with_each_runtime {
    ($($name:ident),* $(,)?) => {
        mod built_in {
            $(#[test] fn $name() { if !$crate::common::cannot_run(None) { super::$name(None) } })*
        }
        mod runc {
            $(#[test] fn $name() {
                let runc = std::path::Path::new("/usr/sbin/runc");
                if !$crate::common::cannot_run(Some(runc)) { super::$name(Some(runc)) }
            })*
        }
    };
}

/// Waits until something holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A pod; its end removes everything and, if the test has not failed yet, asserts it.
pub struct Pod {
    folder: tempfile::TempDir,
    pub id: String,
    pub shim: i32,
    /// Where its containers' cgroups are.
    pub cgroup: String,
    pub runtime_root: PathBuf,
    first: Option<OwnedFd>,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The folder and the first request of a pod that does not run yet.
pub fn plan(namespaces: PodNamespaces) -> (tempfile::TempDir, Init) {
    let id = format!("shimtest-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let folder = tempfile::Builder::new().prefix(&id).tempdir_in("/run").unwrap();
    let dir = folder.path().join("pod");
    fs::DirBuilder::new().mode(0o700).create(&dir).unwrap();
    let runtime_root = folder.path().join("runtime");
    let init = Init {
        id,
        dir,
        runtime_root,
        namespaces,
        hostname: Some("pod-name".into()),
        sysctls: BTreeMap::new(),
        oom_score_adj: None,
    };
    (folder, init)
}

/// Starts a shim; its answer and the first connection.
pub fn spawn(init: &Init) -> (Answer, OwnedFd) {
    let (ours, theirs) = packet::pair().unwrap();
    let mut launcher = Command::new(env!("CARGO_BIN_EXE_orlop-shim"))
        .arg(&init.id)
        .env_clear()
        .stdin(Stdio::from(theirs))
        .spawn()
        .unwrap();
    send(&ours, &Request::Init(init.clone()), &[]);
    let (answer, _) = receive(&ours).expect("the shim went away without an answer");
    assert!(launcher.wait().unwrap().success());
    (answer, ours)
}

impl Pod {
    pub fn new(namespaces: PodNamespaces) -> Pod {
        Pod::with(namespaces, |_| {})
    }

    pub fn with(namespaces: PodNamespaces, change: impl FnOnce(&mut Init)) -> Pod {
        let (folder, mut init) = plan(namespaces);
        change(&mut init);
        match spawn(&init) {
            (Answer::Ready { pid, version }, first) => {
                assert_eq!(version, orlop_shim::protocol::VERSION);
                let cgroup = format!("/{}", init.id);
                let (id, runtime_root) = (init.id, init.runtime_root);
                Pod { folder, id, shim: pid, cgroup, runtime_root, first: Some(first) }
            }
            (other, _) => panic!("Init: {other:?}"),
        }
    }

    /// The pod's folder.
    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("pod")
    }

    /// A folder for the test's own files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The daemon dies.
    pub fn drop_first_connection(&mut self) {
        self.first = None;
    }

    pub fn connect(&self) -> OwnedFd {
        let mut connection = None;
        eventually("the backlog has room", || match packet::connect_to(&self.dir().join(SOCKET)) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => false,
            other => {
                connection = Some(other.unwrap());
                true
            }
        });
        connection.unwrap()
    }

    pub fn exchange(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> (Answer, Vec<OwnedFd>) {
        let connection = self.connect();
        send(&connection, request, descriptors);
        receive(&connection).expect("the shim closed instead of an answer")
    }

    pub fn ask(&self, request: &Request) -> Answer {
        self.exchange(request, &[]).0
    }

    pub fn refused(&self, request: &Request) -> Failure {
        match self.ask(request) {
            Answer::Error(failure) => failure,
            other => panic!("{request:?} is not refused: {other:?}"),
        }
    }

    pub fn done(&self, request: &Request) {
        let answer = self.ask(request);
        assert_eq!(answer, Answer::Done, "{request:?}; shim.log: {}", self.complaints());
    }

    pub fn create(&self, create: &Create) -> i32 {
        match self.ask(&Request::Create(create.clone())) {
            Answer::Created { pid } => pid,
            other => panic!("Create: {other:?}"),
        }
    }

    pub fn start(&self, id: &str) {
        let answer = self.ask(&Request::Start { id: id.into() });
        assert!(matches!(answer, Answer::Started { at } if at > 0), "Start: {answer:?}");
    }

    pub fn create_and_start(&self, create: &Create) {
        self.create(create);
        self.start(&create.id);
    }

    pub fn list(&self) -> Listed {
        match self.ask(&Request::List) {
            Answer::Listed(listed) => listed,
            other => panic!("List: {other:?}"),
        }
    }

    pub fn container(&self, id: &str) -> Option<ContainerInfo> {
        self.list().containers.into_iter().find(|container| container.id == id)
    }

    pub fn events(&self) -> Events {
        let connection = self.connect();
        send(&connection, &Request::Subscribe, &[]);
        assert_eq!(receive(&connection).unwrap().0, Answer::Done);
        Events { connection }
    }

    /// Waits for the end of a container.
    pub fn wait(&self, id: &str) -> ExitStatus {
        self.events().exit(id, None)
    }

    pub fn run(&self, create: &Create) -> ExitStatus {
        self.create_and_start(create);
        self.wait(&create.id)
    }

    /// What shim.log says.
    pub fn complaints(&self) -> String {
        fs::read_to_string(self.dir().join("shim.log")).unwrap_or_default()
    }

    pub fn shutdown(&mut self) {
        self.done(&Request::Shutdown);
        let shim = self.shim;
        eventually("the shim has exited", || !alive(shim));
        self.assert_clean();
    }

    /// Nothing of the pod is left but its folder.
    pub fn assert_clean(&self) {
        assert!(!self.dir().join("ns").exists(), "pins are left");
        assert!(!self.dir().join(SOCKET).exists(), "the socket is left");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let folder = self.folder.path().to_str().unwrap();
        assert!(!mounts.contains(folder), "mounts are left: {mounts}");
        let states = fs::read_dir(&self.runtime_root).map_or(0, Iterator::count);
        assert_eq!(states, 0, "states of the runtime are left");
        assert_eq!(processes_with(&self.id), Vec::<i32>::new(), "processes are left");
        self.remove_cgroups();
    }

    /// The pod's own cgroup is what the daemon removes; the containers' must be gone by then.
    fn remove_cgroups(&self) {
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let folder = hierarchy.path().join(self.cgroup.trim_start_matches('/'));
            if folder.exists() && !hierarchy.path().is_symlink() {
                fs::remove_dir(&folder).unwrap_or_else(|error| panic!("cgroup {} is left: {error}", folder.display()));
            }
        }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if !alive(self.shim) {
            return;
        }
        if !std::thread::panicking() {
            return self.shutdown();
        }
        eprintln!("shim.log: {}", self.complaints());
        let connection = packet::connect_to(&self.dir().join(SOCKET));
        if let Ok(connection) = connection {
            send(&connection, &Request::Shutdown, &[]);
            let answer = receive(&connection);
            eprintln!("shut down after a failure: {answer:?}");
        }
        let gone = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            !alive(self.shim)
        });
        if !gone {
            kill(Pid::from_raw(self.shim), Signal::SIGKILL).ok();
            drop(PodFolder::lock(&self.dir()).and_then(|folder| folder.clear()));
        }
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            fs::remove_dir(hierarchy.path().join(&self.id)).ok();
        }
    }
}

/// The events of a pod.
pub struct Events {
    connection: OwnedFd,
}

impl Events {
    pub fn next(&self) -> Event {
        wait_readable(&self.connection);
        let packet = packet::receive(self.connection.as_fd()).unwrap().expect("the shim ended the subscription");
        serde_json::from_slice(&packet.bytes).unwrap()
    }

    pub fn exit(&self, of: &str, of_exec: Option<&str>) -> ExitStatus {
        loop {
            if let Event::Exit { id, exec_id, status } = self.next()
                && id == of
                && exec_id.as_deref() == of_exec
            {
                return status;
            }
        }
    }

    /// All that is told before the first news.
    pub fn backlog(&self) -> Vec<Event> {
        std::iter::from_fn(|| Some(self.next()).filter(|event| *event != Event::Synced)).collect()
    }
}

pub fn send(connection: &OwnedFd, request: &Request, descriptors: &[BorrowedFd<'_>]) {
    packet::send(connection.as_fd(), &serde_json::to_vec(request).unwrap(), descriptors).unwrap();
}

/// None when the shim has closed.
pub fn receive(connection: &OwnedFd) -> Option<(Answer, Vec<OwnedFd>)> {
    wait_readable(connection);
    let packet = packet::receive(connection.as_fd()).unwrap()?;
    Some((serde_json::from_slice(&packet.bytes).unwrap(), packet.descriptors))
}

pub fn wait_readable(fd: impl AsFd) {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    let patience = PollTimeout::try_from(PATIENCE).unwrap();
    assert_eq!(poll(&mut fds, patience), Ok(1), "nothing to read in time");
}

pub fn alive(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None).is_ok() && state(pid).is_some_and(|state| state != 'Z')
}

/// The letter of proc_pid_stat(5).
pub fn state(pid: i32) -> Option<char> {
    fs::read_to_string(format!("/proc/{pid}/stat")).ok()?.rsplit_once(") ")?.1.chars().next()
}

/// Processes whose command line names this.
pub fn processes_with(text: &str) -> Vec<i32> {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let own = std::process::id() as i32;
    let names = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        *pid != own && String::from_utf8_lossy(&line).contains(text)
    };
    pids.filter(names).collect()
}

impl Pod {
    /// What a daemon does for a pod whose shim was killed: containers by the runtime, pins, socket.
    pub fn clean_up_after_dead_shim(&mut self, containers: &[&str]) {
        let folder = PodFolder::lock(&self.dir()).expect("the dead shim's lock is free");
        let runtime = orlop_runtime::Runtime::new(&self.runtime_root);
        for id in containers {
            runtime.delete(id, true).unwrap();
        }
        folder.clear().unwrap();
        self.assert_clean();
    }
}
