//! What of the host a node can leave behind: mounts (pinned namespaces are mounts too), interfaces, nftables tables,
//! cgroups and processes. Taken before and after, the difference must be empty.

use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};
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
        cgroups(&mut things)?;
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

/// The cgroups at the top of each hierarchy, and all below those of orlop. What others do below theirs is theirs.
fn cgroups(things: &mut BTreeSet<String>) -> Result<()> {
    for line in fs::read_to_string("/proc/self/mountinfo")?.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let kind = fields.iter().skip_while(|field| **field != "-").nth(1);
        let Some((point, true)) = fields.get(4).map(|point| (point, matches!(kind, Some(&"cgroup" | &"cgroup2"))))
        else {
            continue;
        };
        for top in groups_in(Path::new(point))? {
            things.insert(format!("cgroup {}", top.display()));
            let mut ours = Vec::new();
            if top.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"orlop")) {
                ours.push(top);
            }
            while let Some(group) = ours.pop() {
                for below in groups_in(&group)? {
                    things.insert(format!("cgroup {}", below.display()));
                    ours.push(below);
                }
            }
        }
    }
    Ok(())
}

/// The folders in a folder; none when it has gone meanwhile.
fn groups_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let paths = entries(folder)?.into_iter().map(|name| folder.join(name));
    Ok(paths.filter(|path| path.is_dir() && !path.is_symlink()).collect())
}

/// The names in a folder; none when there is no such folder.
pub(crate) fn entries(folder: &Path) -> Result<Vec<String>> {
    let list = match fs::read_dir(folder) {
        Ok(list) => list,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("list {}", folder.display())),
    };
    list.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_found_and_what_others_make_below_theirs_is_not() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIP: cgroups are root's to make");
            return;
        }
        let nowhere = tempfile::tempdir().expect("an empty folder");
        let nowhere = nowhere.path();
        let hierarchy = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].into_iter().map(Path::new).find(|p| p.is_dir());
        let hierarchy = hierarchy.expect("a cgroup hierarchy");
        let [theirs, ours] = ["someone", "orlop"].map(|name| hierarchy.join(format!("{name}-{}", std::process::id())));
        fs::create_dir(&theirs).expect("make a cgroup");
        let before = Inventory::take(nowhere).expect("an inventory");
        fs::create_dir(theirs.join("below")).expect("make a cgroup");
        fs::create_dir_all(ours.join("below")).expect("make a cgroup");
        let left = Inventory::take(nowhere).expect("an inventory").beyond(&before).to_string();
        for folder in [theirs.join("below"), theirs, ours.join("below"), ours.clone()] {
            fs::remove_dir(folder).expect("remove a cgroup");
        }
        let ours = ours.display();
        assert!(
            left.contains(&format!("cgroup {ours}\n")) && left.contains(&format!("cgroup {ours}/below\n")),
            "{left}"
        );
        assert!(!left.contains("someone"), "{left}");
    }
}
