//! The options of a mount: which belong to the mount, which to the filesystem, which are about propagation.
//! OCI runtime specification, "Linux mount options"; mount(8).

use crate::error::Error;
use crate::sys::{MountAttr, attr};

/// The options of one mount, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MountOptions {
    /// `Some(recursive)` for a bind mount.
    pub(crate) bind: Option<bool>,
    /// For the mount itself.
    pub(crate) attr: MountAttr,
    /// For the mount and all below it.
    pub(crate) recursive_attr: MountAttr,
    /// `MS_*` propagation, and whether for all below, in order.
    pub(crate) propagation: Vec<(u64, bool)>,
    /// `Some(recursive)` for a mount whose ids are mapped.
    pub(crate) idmap: Option<bool>,
    /// Whether a tmpfs begins with what it covers.
    pub(crate) copy_up: bool,
    /// Whether it is the mount that is there already that changes.
    pub(crate) remount: bool,
    /// For the filesystem.
    pub(crate) data: Vec<(String, Option<String>)>,
}

/// What an option does to the mount's flags: set these, clear those.
type Flag = (&'static str, u64, u64);

const FLAGS: [Flag; 18] = [
    ("ro", attr::RDONLY, 0),
    ("rw", 0, attr::RDONLY),
    ("nosuid", attr::NOSUID, 0),
    ("suid", 0, attr::NOSUID),
    ("nodev", attr::NODEV, 0),
    ("dev", 0, attr::NODEV),
    ("noexec", attr::NOEXEC, 0),
    ("exec", 0, attr::NOEXEC),
    ("relatime", attr::RELATIME, attr::ATIME),
    // What is so without the option it takes back: relatime is the kernel's default.
    ("norelatime", 0, 0),
    ("nostrictatime", 0, 0),
    ("noatime", attr::NOATIME, attr::ATIME),
    ("strictatime", attr::STRICTATIME, attr::ATIME),
    ("atime", attr::RELATIME, attr::ATIME),
    ("nodiratime", attr::NODIRATIME, 0),
    ("diratime", 0, attr::NODIRATIME),
    ("nosymfollow", attr::NOSYMFOLLOW, 0),
    ("symfollow", 0, attr::NOSYMFOLLOW),
];

const PROPAGATION: [(&str, u64); 4] = [
    ("private", libc::MS_PRIVATE),
    ("slave", libc::MS_SLAVE),
    ("shared", libc::MS_SHARED),
    ("unbindable", libc::MS_UNBINDABLE),
];

/// Options that say what is so anyway, or that only mount(8) has a use for.
const IGNORED: [&str; 4] = ["defaults", "silent", "loud", "newinstance"];

/// Options that some filesystems have as their own, and that mean nothing to others.
const OPTIONAL: [&str; 4] = ["acl", "noacl", "iversion", "noiversion"];

/// Options that are no flags of a mount.
const OTHERS: [&str; 7] = ["bind", "rbind", "defaults", "idmap", "ridmap", "tmpcopyup", "remount"];

/// Every option name that is understood as a flag, for `features`.
pub(crate) fn known() -> Vec<String> {
    let flags = FLAGS.iter().map(|(name, ..)| *name);
    let propagation = PROPAGATION.iter().map(|(name, _)| *name);
    let both = flags.chain(propagation).flat_map(|name| [name.to_owned(), format!("r{name}")]);
    let mut all: Vec<String> = both.chain(OTHERS.map(str::to_owned)).collect();
    all.sort_unstable();
    all
}

impl MountOptions {
    pub(crate) fn is_read_only(&self) -> bool {
        self.attr.set & attr::RDONLY != 0
    }

    /// Sorts the options of a mount of the spec.
    pub(crate) fn parse(options: &[String]) -> MountOptions {
        let mut sorted = MountOptions::default();
        for option in options {
            sorted.add(option);
        }
        sorted
    }

    fn add(&mut self, option: &str) {
        match option {
            "bind" => self.bind = Some(self.bind.unwrap_or(false)),
            "rbind" => self.bind = Some(true),
            "idmap" => self.idmap = Some(false),
            "ridmap" => self.idmap = Some(true),
            "tmpcopyup" => self.copy_up = true,
            "remount" => self.remount = true,
            _ if IGNORED.contains(&option) => (),
            _ => {
                if let Some((_, set, clear)) = FLAGS.iter().find(|(name, ..)| *name == option) {
                    apply(&mut self.attr, *set, *clear);
                } else if let Some((mode, recursive)) = propagation(option) {
                    self.propagation.push((mode, recursive));
                } else if let Some((_, set, clear)) = recursive_flag(option) {
                    apply(&mut self.recursive_attr, *set, *clear);
                } else {
                    self.data.push(match option.split_once('=') {
                        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                        None => (option.to_owned(), None),
                    });
                }
            }
        }
    }

    /// What to change on a copy of a mount. `rw` does not: a copy of a read-only mount stays read-only.
    pub(crate) fn bind_attr(&self) -> MountAttr {
        MountAttr { clear: self.attr.clear & !attr::RDONLY, ..self.attr }
    }
}

/// Whether a filesystem need not know an option.
pub(super) fn is_optional(option: &str) -> bool {
    OPTIONAL.contains(&option)
}

fn apply(attr: &mut MountAttr, set: u64, clear: u64) {
    attr.set = (attr.set & !clear) | set;
    attr.clear = (attr.clear & !set) | clear;
}

fn propagation(option: &str) -> Option<(u64, bool)> {
    let find = |name: &str| PROPAGATION.iter().find(|(known, _)| *known == name).map(|(_, mode)| *mode);
    find(option).map(|mode| (mode, false)).or_else(|| find(option.strip_prefix('r')?).map(|mode| (mode, true)))
}

fn recursive_flag(option: &str) -> Option<&'static Flag> {
    let name = option.strip_prefix('r')?;
    FLAGS.iter().find(|(known, ..)| *known == name)
}

/// The propagation of the root filesystem, `linux.rootfsPropagation`.
pub(crate) fn rootfs_propagation(text: &str) -> Result<(u64, bool), Error> {
    propagation(text).ok_or_else(|| {
        Error::invalid(
            "linux.rootfsPropagation",
            format!("{text:?} is not [r]private, [r]slave, [r]shared or unbindable"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> MountOptions {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        MountOptions::parse(&options)
    }

    #[test]
    fn sorted() {
        let options = parse(&["rbind", "nosuid", "ro", "noatime", "rro", "rslave", "size=64k", "inode64"]);
        assert_eq!(options.bind, Some(true));
        assert_eq!(options.attr.set, attr::NOSUID | attr::RDONLY | attr::NOATIME);
        // mount_setattr(2) takes a change of the access time only with all of its bits cleared.
        assert_eq!(options.attr.clear, attr::ATIME);
        assert_eq!(options.recursive_attr.set, attr::RDONLY);
        assert_eq!(options.propagation, [(libc::MS_SLAVE, true)]);
        assert_eq!(options.data, [("size".into(), Some("64k".into())), ("inode64".into(), None)]);
    }

    #[test]
    fn the_last_wins() {
        assert_eq!(parse(&["ro", "rw"]).attr, MountAttr { clear: attr::RDONLY, ..MountAttr::default() });
        assert!(parse(&["rbind", "rw"]).bind_attr().is_empty());
        assert!(parse(&["rprivate"]).attr.is_empty());
        assert_eq!(parse(&["idmap", "ridmap"]).idmap, Some(true));
    }
}
