//! The mounts of a container, made from its own process in its own mount namespace, before pivot_root.
//! Each is made detached, changed, and only then attached to a target that is held by descriptor.

mod borrow;
mod cgroup;
mod copy_up;
mod hide;
mod idmap;
mod options;
mod over_proc;
mod remount;

pub(crate) use borrow::open_sources;
pub(crate) use cgroup::CgroupView;
pub(crate) use hide::{mask_paths, protect_paths};
pub(crate) use idmap::{lines as id_map_lines, prepare as prepare_idmapped};
pub(crate) use options::{MountOptions, known, rootfs_propagation};

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{SFlag, fstat};
use oci_spec::runtime::{Linux, LinuxNamespaceType, Mount};

use crate::error::{Context, Error, Failure};
use crate::overlay::Overlay;
use crate::path::Root;
use crate::sys::{self, FsContext, MountAttr, attr};

/// A mount of the spec, understood.
#[derive(Debug)]
pub(crate) struct PlannedMount {
    destination: PathBuf,
    source: PathBuf,
    kind: Kind,
    options: MountOptions,
    mapping: Option<idmap::Mapping>,
    /// Whether the container has the caller's network, and with it the caller's sysfs.
    with_network: bool,
    /// The mount itself, made by the caller because its ids are mapped, or the container's root may not reach it.
    tree: Option<OwnedFd>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Bind {
        recursive: bool,
    },
    /// The container's own cgroups, as bind mounts.
    Cgroup,
    Filesystem(String),
    /// Other options for what is mounted there; `bind` when they are the mount's only.
    Remount {
        bind: bool,
    },
}

/// Filesystems that exist once per namespace and take `ro` as a property of the mount only.
const VIRTUAL: [&str; 5] = ["proc", "sysfs", "tmpfs", "devpts", "mqueue"];

impl PlannedMount {
    /// Understands a mount; a relative source begins at the bundle. `label` is for the files of new filesystems
    /// (SELinux), except of those that label each file by what it is about.
    pub(crate) fn new(mount: &Mount, bundle: &Path, label: Option<&str>, linux: &Linux) -> Result<PlannedMount, Error> {
        let field = format!("mounts[{}]", mount.destination().display());
        let mut options = MountOptions::parse(mount.options().as_deref().unwrap_or_default());
        let kind = match (options.bind, mount.typ().as_deref()) {
            (bind, kind) if options.remount => Kind::Remount { bind: bind.is_some() || kind == Some("bind") },
            (Some(recursive), _) => Kind::Bind { recursive },
            (None, Some("bind")) => Kind::Bind { recursive: false },
            (None, Some("cgroup" | "cgroup2")) => Kind::Cgroup,
            (None, Some(name)) if !name.is_empty() => Kind::Filesystem(name.to_owned()),
            (None, _) => return Err(Error::invalid(field, "it has neither a type nor the option bind or rbind")),
        };
        over_proc::check(mount.destination(), &kind)?;
        let is_root =
            mount.destination().components().all(|part| matches!(part, Component::RootDir | Component::CurDir));
        if is_root && !matches!(kind, Kind::Remount { .. }) {
            return Err(Error::invalid(field, "it would hide the root filesystem, which is that of root.path"));
        }
        let source = match (&kind, mount.source()) {
            (Kind::Bind { .. }, None) => return Err(Error::invalid(field, "a bind mount needs a source")),
            (Kind::Bind { .. }, Some(source)) => bundle.join(source),
            (_, source) => source.clone().unwrap_or_default(),
        };
        if let (Kind::Filesystem(name), Some(label)) = (&kind, label)
            && name != "proc"
            && name != "sysfs"
        {
            options.data.push(("context".to_owned(), Some(label.to_owned())));
        }
        let mapping = idmap::mapping(mount, options.idmap, matches!(kind, Kind::Bind { .. }))?;
        let mut namespaces = linux.namespaces().iter().flatten();
        let with_network = !namespaces.any(|namespace| namespace.typ() == LinuxNamespaceType::Network);
        let destination = mount.destination().clone();
        Ok(PlannedMount { destination, source, kind, options, mapping, with_network, tree: None })
    }

    pub(crate) fn destination(&self) -> &Path {
        &self.destination
    }

    /// The descriptor that the process needs for it, if any.
    pub(crate) fn fd(&self) -> Option<&OwnedFd> {
        self.tree.as_ref()
    }

    pub(crate) fn is_bind(&self) -> bool {
        matches!(self.kind, Kind::Bind { .. })
    }
}

/// Mounts that become read-only when everything that has to be made inside them is made.
#[derive(Debug, Default)]
pub(crate) struct LateReadOnly(Vec<(OwnedFd, PathBuf)>);

impl LateReadOnly {
    pub(crate) fn apply(self) -> Result<(), Failure> {
        for (mount, path) in self.0 {
            sys::set_mount_attr(&mount, &MountAttr::READ_ONLY, false).at("make read-only", path.display())?;
        }
        Ok(())
    }
}

/// Makes one mount.
pub(crate) fn mount(
    root: &Root,
    mount: &PlannedMount,
    cgroups: &CgroupView,
    late: &mut LateReadOnly,
) -> Result<(), Failure> {
    let made = match &mount.kind {
        Kind::Bind { recursive } => bind(root, mount, *recursive),
        Kind::Cgroup => cgroup::mount(root, &mount.destination, &mount.options, cgroups, late),
        Kind::Filesystem(name) => filesystem(root, mount, name, late),
        Kind::Remount { bind } => remount::remount(root, mount, *bind),
    };
    made.map_err(|failure| match failure.errno {
        errno if errno == Errno::EXDEV as i32 => failure.note("a symbolic link in the image leads into /proc"),
        _ => failure,
    })
}

fn bind(root: &Root, mount: &PlannedMount, recursive: bool) -> Result<(), Failure> {
    let step = "mount";
    let object = || format!("{} at {}", mount.source.display(), mount.destination.display());
    let made;
    let tree = if let Some(tree) = &mount.tree {
        tree
    } else {
        made = sys::clone_tree(&mount.source, recursive).at(step, object())?;
        &made
    };
    over_proc::check_source(mount, tree)?;
    let is_folder = is_folder(tree).at(step, object())?;
    let target = target(root, &mount.destination, is_folder).at(step, object())?;
    set_attributes(tree, &mount.options.bind_attr(), &mount.options).map_err(|errno| match errno {
        Errno::EPERM => Failure::new(step, object(), errno)
            .note("in a user namespace the options of a mount from outside can be made stricter only"),
        _ => Failure::new(step, object(), errno),
    })?;
    sys::attach_mount(tree, &target).at(step, object())
}

fn filesystem(root: &Root, mount: &PlannedMount, name: &str, late: &mut LateReadOnly) -> Result<(), Failure> {
    let step = "mount";
    let object = || format!("{name} at {}", mount.destination.display());
    let mut covers = true;
    // A link at /proc or /sys would take the masks that follow somewhere else.
    let target = if name == "proc" || name == "sysfs" {
        root.make_dir_without_links(&mount.destination).at(step, object())?
    } else {
        match root.open_target(&mount.destination, OFlag::O_PATH | OFlag::O_DIRECTORY) {
            Err(Errno::ENOENT) => {
                covers = false;
                root.make_missing_dir(&mount.destination).at(step, object())?
            }
            opened => opened.at(step, object())?,
        }
    };
    if name == "overlay"
        && let Some(mut overlay) = Overlay::of_long(&mount.options.data)
    {
        overlay.rest.retain(|(key, _)| !options::is_optional(key));
        overlay.rest.extend(mount.options.is_read_only().then(|| ("ro".to_owned(), None)));
        let made = overlay.mount(mount.options.attr.set);
        let made =
            made.map_err(|failure| Failure { object: format!("{} ({})", object(), failure.object), ..failure })?;
        return put(&made, mount, &target).at(step, object());
    }
    let opened = FsContext::open(name);
    if matches!(opened, Err(Errno::EPERM)) && name == "sysfs" && mount.with_network {
        return borrow::sysfs(mount, &target);
    }
    let refused = |errno: Errno, message: String| match borrow::requirement(name).filter(|_| errno == Errno::EPERM) {
        Some(requirement) => Failure::new(step, object(), errno).note(requirement),
        None => Failure::new(step, object(), errno).note(message),
    };
    let context = opened.map_err(|errno| refused(errno, String::new()))?;
    let configured = configure(&context, mount, name, covers.then_some(&target), true);
    configured.map_err(|errno| Failure::new(step, object(), errno).note(context.message()))?;
    let mut attributes = mount.options.attr.set;
    let delayed = name == "tmpfs" && mount.options.is_read_only();
    if delayed {
        attributes &= !attr::RDONLY;
    }
    let mut made = context.mount(attributes);
    if name == "devpts" && matches!(made, Err(Errno::EINVAL)) {
        // Before Linux 6.15 it looks at its options only now.
        let context = FsContext::open(name).map_err(|errno| refused(errno, String::new()))?;
        let configured = configure(&context, mount, name, None, false);
        made = configured.and_then(|()| context.mount(attributes));
    }
    let made = made.map_err(|errno| refused(errno, context.message()))?;
    if name == "tmpfs" && mount.options.copy_up {
        copy_up::copy_up(&target, made.try_clone().at(step, object())?, &mount.destination)?;
    }
    put(&made, mount, &target).at(step, object())?;
    if delayed {
        late.0.push((made, mount.destination.clone()));
    }
    Ok(())
}

/// Attaches a new filesystem, with what could not be said of it when it was made.
fn put(made: &OwnedFd, mount: &PlannedMount, target: &OwnedFd) -> nix::Result<()> {
    let rest = MountAttr { set: mount.options.attr.set & attr::NOSYMFOLLOW, ..MountAttr::default() };
    set_attributes(made, &rest, &mount.options)?;
    sys::attach_mount(made, target)
}

/// `covered` is the folder below, if it is the image's. Without `group` a devpts has none that the options name.
fn configure(
    context: &FsContext,
    mount: &PlannedMount,
    name: &str,
    covered: Option<&OwnedFd>,
    group: bool,
) -> nix::Result<()> {
    let source = mount.source.to_string_lossy();
    context.set("source", Some(if source.is_empty() { name } else { &source }))?;
    let given = |key: &str| mount.options.data.iter().any(|(known, _)| known == key);
    if let Some(covered) = covered
        && name == "tmpfs"
        && !given("mode")
    {
        // The folder keeps its permissions.
        let mode = fstat(covered)?.st_mode & 0o7777;
        context.set("mode", Some(&format!("{mode:o}")))?;
    }
    if !VIRTUAL.contains(&name) && mount.options.is_read_only() {
        context.set("ro", None)?;
    }
    for (key, value) in &mount.options.data {
        // One that the user namespace has not is left out: terminals then have that of who opens them.
        let is_group = name == "devpts" && key == "gid" && is_id(value.as_deref());
        if is_group && !group {
            continue;
        }
        match context.set(key, value.as_deref()) {
            Err(Errno::EINVAL) if is_group || options::is_optional(key) => (),
            result => result?,
        }
    }
    Ok(())
}

fn is_id(value: Option<&str>) -> bool {
    value.is_some_and(|value| value.parse::<u32>().is_ok())
}

/// Changes a detached mount as its options say.
fn set_attributes(tree: &OwnedFd, own: &MountAttr, options: &MountOptions) -> nix::Result<()> {
    if !own.is_empty() {
        sys::set_mount_attr(tree, own, false)?;
    }
    if !options.recursive_attr.is_empty() {
        sys::set_mount_attr(tree, &options.recursive_attr, true)?;
    }
    for (mode, recursive) in &options.propagation {
        let attr = MountAttr { propagation: *mode, ..MountAttr::default() };
        sys::set_mount_attr(tree, &attr, *recursive)?;
    }
    Ok(())
}

pub(crate) fn is_folder(fd: impl AsFd) -> nix::Result<bool> {
    Ok(SFlag::from_bits_truncate(fstat(fd)?.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR)
}

/// What a mount goes on, made when missing.
fn target(root: &Root, destination: &Path, is_folder: bool) -> nix::Result<OwnedFd> {
    if is_folder { root.make_dir_all(destination) } else { root.make_file(destination) }
}
