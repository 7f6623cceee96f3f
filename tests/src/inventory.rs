//! What of the host a node can leave behind: mounts (pinned namespaces are mounts too), interfaces, nftables tables,
//! cgroups and processes. Taken before and after, the difference must be empty.

use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};
use std::path::Path;
use std::{fs, io};

use anyhow::{Context, Result};

use crate::{command, programs};

/// The host at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    things: BTreeSet<String>,
}

impl Inventory {
    /// Looks at the host. `folder` is that of the programs under test: their processes count, and so does
    /// every process whose root is not the host's.
    pub fn take(folder: &Path) -> Result<Inventory> {
        let mut things = BTreeSet::new();
        mounts(&mut things)?;
        interfaces(&mut things)?;
        tables(&mut things)?;
        cgroups(&mut things, Path::new("/sys/fs/cgroup"))?;
        processes(&mut things, folder)?;
        Ok(Inventory { things })
    }

    /// What is here and was not in `before`.
    #[must_use]
    pub fn beyond(&self, before: &Inventory) -> Leftovers {
        Leftovers::new(self.things.difference(&before.things).cloned().collect())
    }
}

/// What was left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftovers(Vec<String>);

impl Leftovers {
    /// Leftovers that somebody else found.
    #[must_use]
    pub fn new(things: BTreeSet<String>) -> Leftovers {
        Leftovers(things.into_iter().collect())
    }

    /// Whether nothing was left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Display for Leftovers {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|thing| writeln!(f, "  {thing}"))
    }
}

fn mounts(things: &mut BTreeSet<String>) -> Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    for line in table.lines() {
        let mut halves = line.split(" - ");
        let point = halves.next().and_then(|half| half.split(' ').nth(4)).context("a mount point in mountinfo")?;
        let kind = halves.next().and_then(|half| half.split(' ').next()).context("a file system in mountinfo")?;
        things.insert(format!("mount {point} ({kind})"));
    }
    Ok(())
}

fn interfaces(things: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir("/sys/class/net")? {
        things.insert(format!("interface {}", entry?.file_name().to_string_lossy()));
    }
    Ok(())
}

fn tables(things: &mut BTreeSet<String>) -> Result<()> {
    let tables = command::run("nft", ["list", "tables"]).context("Debian package nftables")?;
    things.extend(tables.lines().map(|table| format!("nftables {table}")));
    Ok(())
}

fn cgroups(things: &mut BTreeSet<String>, folder: &Path) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        // A cgroup that goes away while we look is not left.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("list {}", folder.display())),
    };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            things.insert(format!("cgroup {}", path.display()));
            cgroups(things, &path)?;
        }
    }
    Ok(())
}

fn processes(things: &mut BTreeSet<String>, folder: &Path) -> Result<()> {
    let mut pids: BTreeSet<u32> = programs::running(folder)?.into_iter().map(|(pid, _)| pid).collect();
    for entry in fs::read_dir("/proc")? {
        let process = entry?.path();
        let Some(pid) = process.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok()) else {
            continue;
        };
        let root = fs::read_link(process.join("root")).unwrap_or_default();
        if root != Path::new("/") && root != Path::new("") {
            pids.insert(pid);
        }
    }
    for pid in pids {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        things.insert(format!("process {pid} {}", String::from_utf8_lossy(&line).replace('\0', " ")));
    }
    Ok(())
}
