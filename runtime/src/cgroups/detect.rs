//! Where this host has its cgroup hierarchies mounted.

use std::path::PathBuf;

use crate::error::{Context, Failure};
use crate::{mountinfo, procfs};

/// Where a hierarchy, or a part of it, is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mounted {
    pub(crate) at: PathBuf,
    /// The group that is at the mount point, as the caller's cgroup namespace names it.
    pub(crate) root: PathBuf,
}

/// A version 1 hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    pub(crate) mounted: Mounted,
    pub(crate) controllers: Vec<String>,
}

/// All hierarchies that are mounted here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    v1: Vec<Hierarchy>,
    /// Those without controllers, by `name=NAME`.
    named: Vec<Hierarchy>,
    v2: Option<Mounted>,
}

/// The controllers that a version 1 hierarchy may have, by which its mount options are told apart.
const CONTROLLERS: [&str; 13] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "rdma",
];

/// What stands in place of the controllers of systemd's own hierarchy.
const SYSTEMD: &str = "name=systemd";

impl Layout {
    /// Reads the layout from the mounts of the caller's mount namespace.
    pub(crate) fn detect() -> Result<Layout, Failure> {
        let path = "/proc/self/mountinfo";
        Ok(Layout::parse(&procfs::read_text(path).at("read", path)?))
    }

    /// The version 1 hierarchies with controllers; named ones, such as systemd's, hold no limits.
    pub(crate) fn v1(&self) -> &[Hierarchy] {
        &self.v1
    }

    /// The hierarchy of version 1 in which systemd keeps its units, where it does not keep them in version 2.
    pub(crate) fn systemd(&self) -> Option<&Hierarchy> {
        self.hierarchy(SYSTEMD)
    }

    /// The version 1 hierarchy that has this controller, or this `name=NAME`.
    pub(super) fn hierarchy(&self, name: &str) -> Option<&Hierarchy> {
        self.v1.iter().chain(&self.named).find(|hierarchy| hierarchy.controllers.iter().any(|own| own == name))
    }

    /// The version 2 tree: the only one, or beside version 1.
    pub(crate) fn v2(&self) -> Option<&Mounted> {
        self.v2.as_ref()
    }

    /// Of several mounts of one hierarchy the first counts.
    fn parse(table: &str) -> Layout {
        let mut layout = Layout::default();
        for entry in mountinfo::entries(table) {
            let mounted = || Mounted { at: entry.at(), root: entry.root() };
            if entry.kind == "cgroup2" && layout.v2.is_none() {
                layout.v2 = Some(mounted());
            } else if entry.kind == "cgroup" {
                let options = || entry.options.split(',');
                let controllers: Vec<String> =
                    options().filter(|option| CONTROLLERS.contains(option)).map(str::to_owned).collect();
                let known = layout.v1.iter().any(|hierarchy| hierarchy.controllers == controllers);
                if !controllers.is_empty() && !known {
                    layout.v1.push(Hierarchy { mounted: mounted(), controllers });
                } else if let (true, Some(name)) =
                    (controllers.is_empty(), options().find(|option| option.starts_with("name=")))
                {
                    layout.named.push(Hierarchy { mounted: mounted(), controllers: vec![name.to_owned()] });
                }
            }
        }
        layout
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid() {
        let layout = Layout::parse(
            "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
             32 31 0:29 /docker/x /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:3 - cgroup cgroup rw,cpu,cpuacct\n\
             33 31 0:29 / /var/other\\040place rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
             40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n",
        );
        let mounted = |at: &str, root: &str| Mounted { at: at.into(), root: root.into() };
        assert_eq!(layout.v2(), Some(&mounted("/sys/fs/cgroup/unified", "/")));
        let named =
            Hierarchy { mounted: mounted("/sys/fs/cgroup/systemd", "/"), controllers: vec![SYSTEMD.to_owned()] };
        assert_eq!(layout.systemd(), Some(&named));
        assert_eq!(
            layout.v1(),
            [Hierarchy {
                mounted: mounted("/sys/fs/cgroup/cpu,cpuacct", "/docker/x"),
                controllers: vec!["cpu".into(), "cpuacct".into()]
            }]
        );
    }

    #[test]
    fn unified() {
        let layout = Layout::parse("30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n");
        assert_eq!(
            layout,
            Layout {
                v1: Vec::new(),
                named: Vec::new(),
                v2: Some(Mounted { at: "/sys/fs/cgroup".into(), root: "/".into() })
            }
        );
    }
}
