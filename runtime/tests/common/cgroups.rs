//! Where a container's control groups are, on every kind of host and with either driver.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const ROOT: &str = "/sys/fs/cgroup";

/// Whether the tests ask systemd for cgroups: `ORLOP_TEST_CGROUPS=systemd`.
pub(crate) fn by_systemd() -> bool {
    match std::env::var("ORLOP_TEST_CGROUPS").as_deref() {
        Err(_) | Ok("cgroupfs") => false,
        Ok("systemd") => true,
        Ok(other) => panic!("ORLOP_TEST_CGROUPS is {other:?}, neither cgroupfs nor systemd"),
    }
}

/// The cgroupsPath of a container: where [`left_behind`] looks, for systemd in a slice below another.
pub(super) fn path(id: &str) -> String {
    if by_systemd() { format!("orlop-test.slice:orlop:{id}") } else { format!("/orlop/{id}") }
}

/// The folders that the drivers give a container of this id, below a hierarchy's mount point.
fn relative(id: &str) -> [PathBuf; 3] {
    let scope = format!("orlop-{id}.scope");
    [
        Path::new("orlop").join(id),
        Path::new("orlop.slice/orlop-test.slice").join(&scope),
        Path::new("system.slice").join(&scope),
    ]
}

/// Where the tree of version 2 is mounted, alone or beside version 1.
pub(crate) fn unified() -> Option<PathBuf> {
    let places = [Path::new(ROOT).join("unified"), PathBuf::from(ROOT)];
    places.into_iter().find(|mount| mount.join("cgroup.controllers").exists())
}

/// Whether there is version 2 and nothing else.
pub(crate) fn is_unified() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// A container's group, of either version.
pub(crate) struct Group(PathBuf);

impl Group {
    /// The group of a controller that a process is in, if its path has this name. In the hierarchy of version 1 that
    /// has the controller, or else in the tree of version 2, which every process is in.
    pub(super) fn of(pid: &str, controller: &str, name: &str) -> Option<Group> {
        let list = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("cgroups of the process");
        let lines =
            || list.lines().filter_map(|line| line.split_once(':')).filter_map(|(_, line)| line.split_once(':'));
        let v1 = lines().find(|(controllers, _)| controllers.split(',').any(|known| known == controller));
        let (mount, path) = match v1 {
            Some((_, path)) => (Path::new(ROOT).join(controller), path),
            None => (unified()?, lines().find(|(controllers, _)| controllers.is_empty())?.1),
        };
        path.contains(name).then(|| Group(mount.join(path.trim_start_matches('/'))))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn has(&self, file: &str) -> bool {
        self.0.join(file).exists()
    }

    /// Whether it is one of version 2.
    pub(crate) fn is_unified(&self) -> bool {
        self.has("cgroup.controllers")
    }

    #[track_caller]
    pub(crate) fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.0.join(file)).unwrap_or_else(|error| panic!("{file}: {error}")).trim().to_owned()
    }

    /// Compares a file with what it should have: name and content in version 1, and in version 2.
    #[track_caller]
    pub(crate) fn is(&self, v1: (&str, &str), v2: (&str, &str)) {
        let (file, wanted) = if self.is_unified() { v2 } else { v1 };
        assert_eq!(self.read(file), wanted, "{file}");
    }
}

/// Groups and units of a container that are still there. systemd removes what has become empty when it gets to it.
pub(crate) fn left_behind(id: &str) -> Vec<String> {
    let unit = Path::new("/run/systemd/transient").join(format!("orlop-{id}.scope"));
    let look = || -> Vec<String> {
        let hierarchies = std::fs::read_dir(ROOT).into_iter().flatten().flatten().map(|entry| entry.path());
        let groups = hierarchies
            .chain([PathBuf::from(ROOT)])
            .flat_map(|mount| relative(id).map(|relative| mount.join(relative)))
            .filter(|group| group.exists())
            .map(|group| format!("cgroup {}", group.display()));
        groups.chain(unit.exists().then(|| format!("unit {}", unit.display()))).collect()
    };
    let deadline = Instant::now() + Duration::from_secs(if by_systemd() { 10 } else { 0 });
    loop {
        let left = look();
        if left.is_empty() || Instant::now() >= deadline {
            return left;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
