//! Intel RDT: shares of the last cache and of memory bandwidth, by groups of the resctrl filesystem. OCI runtime
//! specification, "IntelRdt"; Documentation/filesystems/resctrl.rst of the kernel.
//!
//! A group is made after the container's record names it, and its process enters by writing to `tasks` itself,
//! as it enters its cgroups.

mod schema;
mod stats;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxIntelRdt};
use serde::{Deserialize, Serialize};

use crate::cgroups::Entrance;
use crate::error::{Context, Error, Failure};
use crate::{mountinfo, procfs};

/// The groups of one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Resctrl {
    /// Where the filesystem is mounted.
    root: PathBuf,
    /// The class of service.
    group: PathBuf,
    /// Whether the class is the container's own and goes with it.
    own: bool,
    /// The group that only counts, which is always the container's own.
    monitor: Option<PathBuf>,
}

/// Checks `linux.intelRdt`: what it says, and what the host has for it.
pub(crate) fn check(linux: &Linux) -> Result<(), Error> {
    let Some(wanted) = linux.intel_rdt() else { return Ok(()) };
    check_values(wanted)?;
    let root = mount_point()?;
    let lacks = |files: &[&str]| !files.iter().any(|file| root.join("info").join(file).exists());
    let unsupported = |field: &str, what: &str| {
        Err(Error::unsupported(format!("linux.intelRdt.{field}"), format!("this host cannot {what}")))
    };
    if schema(wanted.l3_cache_schema().as_ref()).is_some() && lacks(&["L3", "L3CODE"]) {
        return unsupported("l3CacheSchema", "share out its L3 cache");
    }
    if schema(wanted.mem_bw_schema().as_ref()).is_some() && lacks(&["MB"]) {
        return unsupported("memBwSchema", "share out its memory bandwidth");
    }
    if *wanted.enable_monitoring() == Some(true) && lacks(&["L3_MON"]) {
        return unsupported("enableMonitoring", "count by group");
    }
    Ok(())
}

fn check_values(wanted: &LinuxIntelRdt) -> Result<(), Error> {
    let invalid = |field: &str, why: &str| Err(Error::invalid(format!("linux.intelRdt.{field}"), why));
    let class = wanted.clos_id().as_deref().unwrap_or_default();
    // The last three are in every group, and none of them is one.
    let reserved = [".", "..", "info", "mon_groups", "mon_data"];
    if class != "/" && (class.contains(['/', '\0', '\n']) || reserved.contains(&class)) {
        return invalid("closID", &format!("{class:?} is neither the name of a group nor /, which is the default one"));
    }
    let lines = wanted.schemata().iter().flatten().map(|line| ("schemata", line));
    let l3 = wanted.l3_cache_schema().iter().map(|line| ("l3CacheSchema", line));
    let bandwidth = wanted.mem_bw_schema().iter().map(|line| ("memBwSchema", line));
    for (field, line) in l3.chain(bandwidth).chain(lines) {
        if line.contains(['\n', '\0']) {
            return invalid(field, "it must be one line");
        }
        if field == "memBwSchema" && !line.is_empty() && !line.starts_with("MB:") {
            return invalid(field, "it must begin with MB:");
        }
    }
    Ok(())
}

/// An empty line is none.
fn schema(line: Option<&String>) -> Option<&str> {
    line.map(String::as_str).filter(|line| !line.is_empty())
}

/// What is to be written, in the order of the specification.
fn lines(wanted: &LinuxIntelRdt) -> Vec<&str> {
    let first =
        [schema(wanted.l3_cache_schema().as_ref()), schema(wanted.mem_bw_schema().as_ref())].into_iter().flatten();
    let rest = wanted.schemata().iter().flatten().map(String::as_str).filter(|line| !line.is_empty());
    first.chain(rest).collect()
}

/// Where resctrl is mounted.
fn mount_point() -> Result<PathBuf, Error> {
    let path = "/proc/self/mountinfo";
    let table = procfs::read_text(path).at("read", path)?;
    mountinfo::entries(&table).find(|entry| entry.kind == "resctrl").map(|entry| entry.at()).ok_or_else(|| {
        let why = "no resctrl filesystem is mounted here; where the processor has resource control, \
                   `mount -t resctrl resctrl /sys/fs/resctrl` does it";
        Error::unsupported("linux.intelRdt", why)
    })
}

impl Resctrl {
    /// Decides which groups a container of this name is in, and changes nothing; `None` when none are asked for.
    pub(crate) fn plan(linux: &Linux, id: &str) -> Result<Option<Resctrl>, Error> {
        let Some(wanted) = linux.intel_rdt() else { return Ok(None) };
        let root = mount_point()?;
        let class = wanted.clos_id().as_deref().filter(|class| !class.is_empty());
        let group = match class {
            Some("/") => root.clone(),
            name => root.join(name.unwrap_or(id)),
        };
        let monitored = *wanted.enable_monitoring() == Some(true);
        let monitor = monitored.then(|| group.join("mon_groups").join(id));
        Ok(Some(Resctrl { own: class.is_none() && !group.exists(), root, group, monitor }))
    }

    /// Makes the groups and sets what the class may use.
    pub(crate) fn make(&self, wanted: &LinuxIntelRdt) -> Result<(), Error> {
        let class = wanted.clos_id().as_deref().filter(|class| !class.is_empty());
        let lines = lines(wanted);
        if self.group.exists() {
            if let (Some(class), false) = (class, lines.is_empty()) {
                self.compare(class, wanted)?;
            }
        } else if class.is_some() && lines.is_empty() {
            let why = format!("{} is not there, and there is no schema to make it with", self.group.display());
            return Err(Error::invalid("linux.intelRdt.closID", why));
        } else {
            self.make_group(&self.group)?;
            // A class that could not be set would be there, and different, for every later container of its name.
            return self.set(&lines).map_err(Error::from).and_then(|()| self.make_monitor()).inspect_err(|_| {
                let _ = std::fs::remove_dir(&self.group);
            });
        }
        self.set(&lines)?;
        self.make_monitor()
    }

    fn make_monitor(&self) -> Result<(), Error> {
        match &self.monitor {
            Some(monitor) => Ok(self.make_group(monitor)?),
            None => Ok(()),
        }
    }

    /// A class that is there already must be what the container asks for: others are in it too.
    fn compare(&self, class: &str, wanted: &LinuxIntelRdt) -> Result<(), Error> {
        let path = self.group.join("schemata");
        let present = std::fs::read_to_string(&path).at("read", path.display())?;
        let step = std::fs::read_to_string(self.root.join("info/MB/bandwidth_gran")).ok();
        let step = step.and_then(|text| text.trim().parse().ok()).unwrap_or(1);
        for (field, line) in [("l3CacheSchema", wanted.l3_cache_schema()), ("memBwSchema", wanted.mem_bw_schema())] {
            if schema(line.as_ref()).is_some_and(|line| !schema::is_set(line, &present, step)) {
                let why = format!("closID {class} is there already, with {:?}", present.trim());
                return Err(Error::invalid(format!("linux.intelRdt.{field}"), why));
            }
        }
        Ok(())
    }

    fn make_group(&self, group: &Path) -> Result<(), Failure> {
        match std::fs::create_dir(group) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            made => made.at("make", group.display()).map_err(|failure| self.explained(failure)),
        }
    }

    fn set(&self, lines: &[&str]) -> Result<(), Failure> {
        if lines.is_empty() {
            return Ok(());
        }
        let path = self.group.join("schemata");
        let text = format!("{}\n", lines.join("\n"));
        let written = std::fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()));
        written.at("write", format!("{text:?} to {}", path.display())).map_err(|failure| self.explained(failure))
    }

    /// The kernel says more than an error number.
    fn explained(&self, failure: Failure) -> Failure {
        match std::fs::read_to_string(self.root.join("info/last_cmd_status")) {
            Ok(status) if !status.trim().is_empty() => failure.note(status.trim()),
            _ => failure,
        }
    }

    /// Changes what the container's class may use; what is not given stays.
    pub(crate) fn update(&self, l3: Option<&str>, bandwidth: Option<&str>) -> Result<(), Error> {
        let mut wanted = LinuxIntelRdt::default();
        wanted.set_l3_cache_schema(l3.map(str::to_owned));
        wanted.set_mem_bw_schema(bandwidth.map(str::to_owned));
        let mut linux = Linux::default();
        linux.set_intel_rdt(Some(wanted.clone()));
        check(&linux)?;
        Ok(self.set(&lines(&wanted))?)
    }

    /// Adds the doors of the groups to those that a new process goes through: the class before its monitor.
    pub(crate) fn open_doors(&self, entrance: &mut Entrance) -> Result<(), Failure> {
        entrance.add(&self.group)?;
        self.monitor.as_deref().map_or(Ok(()), |monitor| entrance.add(monitor))
    }

    /// Removes what is the container's own; what is gone already is fine.
    pub(crate) fn remove(&self) -> Result<(), Failure> {
        let own = self.own.then_some(&self.group);
        self.monitor.iter().chain(own).try_for_each(|group| match std::fs::remove_dir(group) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.at("remove", group.display()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(json: &str) -> LinuxIntelRdt {
        serde_json::from_str(json).expect("test data")
    }

    #[test]
    fn values() {
        for good in [r"{}", r#"{"closID":"/"}"#, r#"{"closID":"gold","memBwSchema":"MB:0=20"}"#] {
            assert!(check_values(&wanted(good)).is_ok(), "{good}");
        }
        for (bad, field) in [
            (r#"{"closID":".."}"#, "closID"),
            (r#"{"closID":"a/b"}"#, "closID"),
            (r#"{"closID":"info"}"#, "closID"),
            (r#"{"l3CacheSchema":"L3:0=f\nMB:0=10"}"#, "l3CacheSchema"),
            (r#"{"memBwSchema":"0=20"}"#, "memBwSchema"),
            (r#"{"schemata":["L3:0=f","MB:0=1\n"]}"#, "schemata"),
        ] {
            let error = check_values(&wanted(bad)).expect_err(bad).to_string();
            assert!(error.contains(&format!("linux.intelRdt.{field}:")), "{error}");
        }
    }

    #[test]
    fn the_order_of_lines() {
        let all = wanted(r#"{"schemata":["L2:0=f","MB:1=70"],"memBwSchema":"MB:0=20","l3CacheSchema":"L3:0=7f0"}"#);
        assert_eq!(lines(&all), ["L3:0=7f0", "MB:0=20", "L2:0=f", "MB:1=70"]);
        assert!(lines(&wanted(r#"{"closID":"gold","l3CacheSchema":""}"#)).is_empty());
    }
}
