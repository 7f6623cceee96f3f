//! What attackers have: files that change under the runtime, open descriptors, and a look at what they reached.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::{Value, json};

use crate::common::{Container, Ran};

/// How often a race is run.
pub(crate) fn races() -> usize {
    std::env::var("ORLOP_RACES").ok().and_then(|count| count.parse().ok()).unwrap_or(60)
}

/// Exchanges two files, again and again, until it is dropped.
#[derive(Debug)]
pub(crate) struct Swapper {
    stop: Arc<AtomicBool>,
    swaps: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Swapper {
    pub(crate) fn start(one: &Path, other: &Path) -> Swapper {
        let (stop, swaps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (stop.clone(), swaps.clone());
        let (one, other) = (c_path(one), c_path(other));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                exchange(&one, &other);
                count.fetch_add(1, Ordering::Relaxed);
                // Two cores are shared with what is attacked: it must get somewhere between two swaps.
                std::thread::yield_now();
            }
        });
        Swapper { stop, swaps, thread: Some(thread) }
    }

    /// How often the files were exchanged.
    pub(crate) fn swaps(&self) -> u64 {
        self.swaps.load(Ordering::Relaxed)
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Attempts as often as there are races, while two files are swapped; an attempt says whether it got as far as what is
/// attacked. Some must, and the host's settings stay as they are.
#[track_caller]
pub(crate) fn race(one: &Path, other: &Path, mut attempt: impl FnMut() -> bool) {
    let settings = host_settings();
    let swapper = Swapper::start(one, other);
    let reached = (0..races()).filter(|_| attempt()).count();
    assert!(swapper.swaps() > races() as u64 && reached > 0, "{reached} of {}", races());
    drop(swapper);
    assert_eq!(host_settings(), settings);
}

pub(crate) fn c_path(path: &Path) -> std::ffi::CString {
    std::ffi::CString::new(path.to_str().expect("path")).expect("path")
}

#[allow(unsafe_code)]
fn exchange(one: &std::ffi::CStr, other: &std::ffi::CStr) {
    const RENAME_EXCHANGE: libc::c_uint = 2;
    let here = libc::AT_FDCWD;
    // SAFETY: both paths are C strings that live through the call.
    let done = unsafe { libc::syscall(libc::SYS_renameat2, here, one.as_ptr(), here, other.as_ptr(), RENAME_EXCHANGE) };
    assert_eq!(done, 0, "exchange {one:?} and {other:?}: {}", nix::errno::Errno::last());
}

/// A folder of the host that nothing from a container may reach.
#[derive(Debug)]
pub(crate) struct Canary {
    folder: tempfile::TempDir,
    before: Vec<String>,
}

pub(crate) const SECRET: &str = "what only the host may read";

impl Canary {
    pub(crate) fn new() -> Canary {
        let folder = tempfile::Builder::new().prefix("orlop-canary-").tempdir().expect("folder");
        std::fs::write(folder.path().join("secret"), SECRET).expect("file");
        std::fs::create_dir(folder.path().join("folder")).expect("folder");
        let before = listing(folder.path());
        Canary { folder, before }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    #[track_caller]
    pub(crate) fn assert_untouched(&self) {
        assert_eq!(listing(self.path()), self.before, "the container reached the host");
    }
}

/// All that there is in a folder, with content, owner and mode.
pub(crate) fn listing(folder: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("folder").flatten() {
            let (path, meta) = (entry.path(), entry.metadata().expect("metadata"));
            let content = if meta.is_file() { std::fs::read(&path).expect("file") } else { Vec::new() };
            let who = format!("{:o} {}:{}", meta.mode(), meta.uid(), meta.gid());
            all.push(format!("{} {who} {}", path.display(), String::from_utf8_lossy(&content)));
            if meta.is_dir() {
                folders.push(path);
            }
        }
    }
    all.sort_unstable();
    all
}

/// Settings of the whole host that a redirected write is usually aimed at.
pub(crate) fn host_settings() -> Vec<String> {
    ["/proc/sys/kernel/core_pattern", "/proc/sys/kernel/sysrq", "/proc/sys/kernel/modprobe"]
        .iter()
        .map(|path| std::fs::read_to_string(path).unwrap_or_default())
        .collect()
}

/// Descriptors on `/` of this process that every child inherits.
pub(crate) fn leak_descriptors() -> Vec<OwnedFd> {
    (0..8).map(|_| open("/", OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty()).expect("open /")).collect()
}

/// A folder that may hold devices, as a volume for /dev.
pub(crate) fn device_folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("orlop-volume-").tempdir_in("/dev").expect("folder")
}

pub(crate) fn make_device(path: &Path, major: u64, minor: u64) {
    let mode = Mode::from_bits_truncate(0o666);
    mknod(path, SFlag::S_IFCHR, mode, makedev(major, minor)).expect("device");
}

/// All capabilities that a privileged container has, for both of its processes' sets.
pub(crate) fn with_capabilities(container: Container, names: &[&str]) -> Container {
    container
        .set("/process/capabilities", json!({"bounding": names, "effective": names, "permitted": names}))
        .set("/process/noNewPrivileges", json!(false))
}

/// Takes the mounts at and below a folder out of the configuration.
pub(crate) fn without_mounts_at(mut container: Container, folder: &str) -> Container {
    let mounts = container.spec["mounts"].as_array_mut().expect("mounts");
    mounts.retain(|mount| !Path::new(mount["destination"].as_str().expect("destination")).starts_with(folder));
    container
}

pub(crate) fn bind(source: &Path, destination: &str, options: &[&str]) -> Value {
    let options: Vec<&str> = options.iter().copied().chain(["bind"]).collect();
    json!({"destination": destination, "source": source, "options": options})
}

/// One attempt of many: the container runs to its end, and is removed whatever became of it.
pub(crate) fn attempt(container: &Container) -> Ran {
    let ran = container.run();
    container.call(&["delete", "--force", &container.id]);
    ran
}

/// Creates and starts the container with a terminal; what it printed.
pub(crate) fn run_with_terminal(container: &Container) -> Ran {
    use std::io::Read;
    container.write_config();
    let socket = container.folder.path().join("console.sock");
    let _ = std::fs::remove_file(&socket);
    let listener = std::os::unix::net::UnixListener::bind(&socket).expect("socket");
    let bundle = container.folder.path().to_str().expect("path");
    let args = ["create", "--bundle", bundle, "--console-socket", socket.to_str().expect("path"), &container.id];
    let mut create = container.command(&args);
    let output = container.folder.path().join("errors");
    let status = create
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&output).expect("file"))
        .status()
        .expect("run the runtime");
    let mut ran = Ran { code: status.code(), stdout: String::new(), stderr: String::new() };
    if status.success() {
        let mut master = std::fs::File::from(receive_descriptor(&listener));
        ran.code = container.start().code;
        let mut text = Vec::new();
        // The read ends with EIO when the program has ended.
        let _ = master.read_to_end(&mut text);
        ran.stdout = String::from_utf8_lossy(&text).into_owned();
    } else {
        ran.stderr = std::fs::read_to_string(output).expect("file");
    }
    container.call(&["delete", "--force", &container.id]);
    ran
}

fn receive_descriptor(listener: &std::os::unix::net::UnixListener) -> OwnedFd {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    use std::os::fd::{AsRawFd, FromRawFd};
    let (stream, _) = listener.accept().expect("accept");
    let mut bytes = [0; 128];
    let mut parts = [std::io::IoSliceMut::new(&mut bytes)];
    let mut space = nix::cmsg_space!([i32; 1]);
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty()).expect("message");
    let fd = message.cmsgs().expect("control").find_map(|control| match control {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    #[allow(unsafe_code)]
    // SAFETY: the descriptor just arrived and is nobody else's.
    unsafe {
        OwnedFd::from_raw_fd(fd.expect("descriptor"))
    }
}
