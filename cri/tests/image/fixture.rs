//! A store in a folder of its own, removed in the end; and what must be true of it then.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use orlop_cri::image::{Error, ImageStore, RegistryConfig};

/// A folder of one test. Nothing may be mounted below it in the end.
pub(crate) struct Scratch {
    dir: tempfile::TempDir,
}

impl Scratch {
    pub(crate) fn new() -> Scratch {
        // Not in /tmp, which may be a tmpfs or an overlay: layers need trusted xattrs.
        Scratch { dir: tempfile::Builder::new().prefix("orlop-image-").tempdir_in("/var/tmp").unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn store(&self) -> ImageStore {
        self.store_with(RegistryConfig::default())
    }

    /// Opens the store, waiting for one that was just closed: its last work behind the scenes still holds it.
    pub(crate) fn store_with(&self, config: RegistryConfig) -> ImageStore {
        let mut opened = None;
        eventually("the store is free", || {
            opened = match ImageStore::open(self.path("store"), config.clone()) {
                Err(Error::Locked { .. }) => None,
                result => Some(result.unwrap()),
            };
            opened.is_some()
        });
        opened.unwrap()
    }

    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.path("store").join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Waits until work behind the scenes is done: nothing half-made, nothing in the trash.
    pub(crate) fn settled(&self) {
        eventually("ingest/ and trash/ are empty", || {
            self.names("ingest").is_empty() && self.names("trash").is_empty()
        });
    }

    /// Waits until nothing of any image is left.
    pub(crate) fn empty(&self) {
        let gone = || ["ingest", "trash", "blobs/sha256", "layers"].iter().all(|folder| self.names(folder).is_empty());
        eventually("the store is empty", gone);
    }
}

fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let path = self.dir.path();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let left = mounts.contains(path.to_str().unwrap_or("?"));
        assert!(std::thread::panicking() || !left, "a mount is left");
        // Work behind the scenes may still be removing too.
        let gone = || std::fs::remove_dir_all(path).is_ok() || !path.exists();
        if !std::thread::panicking() {
            eventually("the folder of the test is gone", gone);
        }
    }
}

/// An overlay mount, gone when dropped.
pub(crate) struct Overlay(PathBuf);

impl Overlay {
    /// Mounts layers, top first, read-only.
    pub(crate) fn mount(layers: &[PathBuf], target: PathBuf) -> Overlay {
        std::fs::create_dir(&target).unwrap();
        // overlayfs wants two lower folders when there is no upper one.
        let empty = target.with_extension("empty");
        std::fs::create_dir(&empty).unwrap();
        let folders = layers.iter().chain([&empty]).map(|path| path.display().to_string()).collect::<Vec<_>>();
        let options = format!("lowerdir={}", folders.join(":"));
        let flags = nix::mount::MsFlags::MS_RDONLY;
        nix::mount::mount(Some("overlay"), &target, Some("overlay"), flags, Some(options.as_str())).unwrap();
        Overlay(target)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub(crate) fn lacks(&self, name: &str) -> bool {
        std::fs::symlink_metadata(self.path(name)).is_err()
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Whether the programs a test needs are here; says SKIP when not.
pub(crate) fn have(programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing = programs.iter().find(|p| !std::env::split_paths(&path).any(|dir| dir.join(p).is_file()));
    if let Some(program) = missing {
        eprintln!("SKIP: {program} is not installed");
    }
    missing.is_none()
}

/// Runs a program, which must succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
