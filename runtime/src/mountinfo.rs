//! The table of mounts (proc_pid_mountinfo(5)).

use std::path::PathBuf;

/// One line of it, as it is escaped there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) id: u64,
    /// What of the filesystem is mounted.
    root: &'a str,
    at: &'a str,
    /// The type of the filesystem.
    pub(crate) kind: &'a str,
    /// Those of the filesystem, not of the mount.
    pub(crate) options: &'a str,
}

/// Understands the table; what is no entry is passed over.
pub(crate) fn entries(table: &str) -> impl DoubleEndedIterator<Item = Entry<'_>> {
    table.lines().filter_map(|line| {
        // Before the dash are as many optional fields as there happen to be.
        let (mount, filesystem) = line.split_once(" - ")?;
        let (mut mount, mut filesystem) = (mount.split(' '), filesystem.split(' '));
        let id = mount.next()?.parse().ok()?;
        let (root, at) = (mount.nth(2)?, mount.next()?);
        Some(Entry { id, root, at, kind: filesystem.next()?, options: filesystem.nth(1)? })
    })
}

impl Entry<'_> {
    pub(crate) fn root(&self) -> PathBuf {
        unescape(self.root)
    }

    /// The mount point.
    pub(crate) fn at(&self) -> PathBuf {
        unescape(self.at)
    }
}

/// Undoes the octal escapes of what would part fields or lines.
fn unescape(field: &str) -> PathBuf {
    if !field.contains('\\') {
        return field.into();
    }
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_and_without_optional_fields() {
        let table = "24 30 0:22 / /sys rw,nosuid - sysfs sysfs rw\n\
                     nonsense\n\
                     40 24 0:37 /a\\134040 /mnt/b\\040c rw shared:1 master:2 - resctrl res\\040ctrl rw,mba_MBps\n";
        let found: Vec<Entry<'_>> = entries(table).collect();
        assert_eq!(
            found.iter().map(|entry| (entry.id, entry.kind)).collect::<Vec<_>>(),
            [(24, "sysfs"), (40, "resctrl")]
        );
        assert_eq!((found[1].root(), found[1].at()), ("/a\\040".into(), "/mnt/b c".into()));
        assert_eq!((found[0].root(), found[1].options), ("/".into(), "rw,mba_MBps"));
    }
}
