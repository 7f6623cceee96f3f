//! Where each cgroup controller is, and whether a cgroup can be made there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;

use super::Finding;

/// The controllers, and whether a node needs them.
const CONTROLLERS: &[(&str, bool)] =
    &[("memory", true), ("cpu", true), ("pids", true), ("cpuset", false), ("devices", false), ("hugetlb", false)];

/// A mounted hierarchy, and the controllers that it has.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    mount: PathBuf,
    v2: bool,
    controllers: Vec<String>,
}

pub(super) fn findings() -> Vec<Finding> {
    let table = match fs::read_to_string("/proc/self/mountinfo") {
        Ok(table) => table,
        Err(error) => {
            return vec![Finding::missing("cgroups", format!("/proc/self/mountinfo: {error}"), "mount /proc")];
        }
    };
    let mut hierarchies: Vec<Hierarchy> = table.lines().filter_map(parse).collect();
    for hierarchy in hierarchies.iter_mut().filter(|hierarchy| hierarchy.v2) {
        let list = fs::read_to_string(hierarchy.mount.join("cgroup.controllers")).unwrap_or_default();
        hierarchy.controllers = list.split_whitespace().map(str::to_owned).collect();
    }
    if hierarchies.is_empty() {
        let advice = "mount it: mount -t cgroup2 none /sys/fs/cgroup";
        return vec![Finding::missing("cgroups", "no hierarchy is mounted", advice)];
    }
    let mut findings = vec![mode(&hierarchies)];
    findings.extend(CONTROLLERS.iter().map(|(name, needed)| controller(&hierarchies, name, *needed)));
    findings
}

fn mode(hierarchies: &[Hierarchy]) -> Finding {
    let v2 = hierarchies.iter().any(|hierarchy| hierarchy.v2);
    let v1 = hierarchies.iter().any(|hierarchy| !hierarchy.v2 && !hierarchy.controllers.is_empty());
    match (v2, v1) {
        (true, false) => Finding::ok("cgroups", "version 2"),
        (true, true) => Finding::ok("cgroups", "hybrid: version 1 controllers beside a version 2 tree"),
        _ => Finding::ok("cgroups", "version 1"),
    }
}

fn controller(hierarchies: &[Hierarchy], controller: &str, needed: bool) -> Finding {
    let name = format!("cgroup {controller}");
    let having = |hierarchy: &&Hierarchy| hierarchy.controllers.iter().any(|known| known == controller);
    // Version 2 has no files for devices: programs in the kernel decide instead.
    let found = hierarchies
        .iter()
        .find(having)
        .or_else(|| hierarchies.iter().find(|hierarchy| controller == "devices" && hierarchy.v2));
    let Some(hierarchy) = found else {
        let advice = format!("enable it on the kernel's command line: cgroup_enable={controller}");
        if needed {
            return Finding::missing(name, "in no hierarchy", advice);
        }
        return Finding::warn(name, "in no hierarchy", advice);
    };
    let version = if hierarchy.v2 { 2 } else { 1 };
    let detail = format!("version {version}, at {}", hierarchy.mount.display());
    match make_one(&hierarchy.mount) {
        Ok(()) => Finding::ok(name, detail),
        Err(error) => {
            let detail = format!("{detail}: cannot make a cgroup: {error}");
            Finding::missing(name, detail, "run as root, with the hierarchy mounted for writing")
        }
    }
}

/// Makes a cgroup and removes it.
fn make_one(mount: &Path) -> io::Result<()> {
    let cgroup = mount.join(format!("orlop-doctor-{}", process::id()));
    fs::create_dir(&cgroup)?;
    fs::remove_dir(&cgroup)
}

/// A line of mountinfo (proc_pid_mountinfo(5)), if it is a hierarchy's.
fn parse(line: &str) -> Option<Hierarchy> {
    let (front, back) = line.split_once(" - ")?;
    let mount = PathBuf::from(front.split(' ').nth(4)?);
    let mut back = back.split(' ');
    let v2 = match back.next()? {
        "cgroup" => false,
        "cgroup2" => true,
        _ => return None,
    };
    let options = back.nth(1).unwrap_or_default();
    let controllers =
        if v2 { Vec::new() } else { options.split(',').filter(|o| *o != "rw").map(str::to_owned).collect() };
    Some(Hierarchy { mount, v2, controllers })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found_among_the_mounts() {
        let v1 = "30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct";
        let expected = Hierarchy {
            mount: "/sys/fs/cgroup/cpu,cpuacct".into(),
            v2: false,
            controllers: vec!["cpu".into(), "cpuacct".into()],
        };
        assert_eq!(parse(v1), Some(expected));
        let v2 = "31 25 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(parse(v2), Some(Hierarchy { mount: "/sys/fs/cgroup".into(), v2: true, controllers: vec![] }));
        assert_eq!(parse("22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw"), None);
    }

    #[test]
    fn a_controller_that_is_nowhere_is_told() {
        let hierarchies = [Hierarchy { mount: "/nowhere".into(), v2: false, controllers: vec!["cpu".into()] }];
        assert_eq!(controller(&hierarchies, "memory", true).level, super::super::Level::Missing);
        assert_eq!(controller(&hierarchies, "hugetlb", false).level, super::super::Level::Warn);
    }
}
