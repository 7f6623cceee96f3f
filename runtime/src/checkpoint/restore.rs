//! restore: a container from the files of a checkpoint.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::RestoreOptions;
use super::criu::{Criu, EXTRA, Request, Surroundings};
use super::images;
use super::shared::{self, DESCRIPTORS, NULL, Outside, field};
use super::wire::Message;
use crate::cgroups::{Below, Cgroups, Lenience, Place, UnitPlan};
use crate::child::Child;
use crate::create::{Checked, run_create_hooks, start_unit};
use crate::error::{Context, Error, Failure};
use crate::identity::ProcessStat;
use crate::options::Created;
use crate::path::Root;
use crate::resctrl::Resctrl;
use crate::store::{self, Folder, Record};
use crate::terminal::hand_over;
use crate::{Runtime, sys};

const LOG: &str = "restore.log";

impl Runtime {
    /// Makes a container from the files of a checkpoint; when it returns the container runs, and its process is the
    /// caller's child. When it fails, nothing of the container is left.
    pub fn restore(&self, opts: RestoreOptions) -> Result<Created, Error> {
        store::check_id(&opts.container.id)?;
        let checked = self.read(&opts.container)?;
        shared::check(&checked.spec)?;
        let folder = Folder::create(self.root(), &opts.container.id)?;
        let mut record = Record::new(&opts.container.id, checked.bundle.clone(), checked.rootfs.clone(), &checked.spec);
        match self.restore_in(&folder, &mut record, &opts, &checked) {
            Ok(created) => Ok(created),
            Err(error) => Err(match self.clean_up(folder, &record, &checked.spec) {
                Ok(()) => error,
                Err(failure) => Error::Unclean { error: Box::new(error), cleanup: failure.to_string() },
            }),
        }
    }

    fn restore_in(
        &self,
        folder: &Folder,
        record: &mut Record,
        opts: &RestoreOptions,
        checked: &Checked,
    ) -> Result<Created, Error> {
        let spec = &checked.spec;
        let linux = spec.linux().as_ref().ok_or_else(|| Error::invalid("linux", "it is missing"))?;
        let resources = linux.resources().as_ref();
        let descriptors = read_descriptors(&opts.criu.images)?;
        let joined = images::cgroups(&opts.criu.images)?;
        let layout = self.cgroup_layout()?;
        record.resctrl = Resctrl::plan(linux, &opts.container.id)?;
        let own_pid = |namespace: &oci_spec::runtime::LinuxNamespace| {
            namespace.typ() == LinuxNamespaceType::Pid
                && namespace.path().as_ref().is_none_or(|path| path.as_os_str().is_empty())
        };
        record.own_pid_namespace = linux.namespaces().iter().flatten().any(own_pid);
        record.restored = true;
        // CRIU makes the groups that a process was in; they are to be on record before.
        let holder = if opts.container.systemd_cgroup {
            let unit = UnitPlan::new(spec, linux, &opts.container.id, layout)?;
            let holder = start_unit(folder, record, &unit, layout, resources)?;
            let made = record.cgroups.0.len();
            record.cgroups.plan_also(layout, &record.cgroups.place(), &joined)?;
            folder.write_record(record)?;
            record.cgroups.complete(made)?;
            Some(holder)
        } else {
            let place = Place::new(linux.cgroups_path().as_deref(), &opts.container.id)?;
            let lenience = Lenience::new(opts.container.rootless, linux.cgroups_path().as_deref());
            record.cgroups = Cgroups::plan(layout, &place, resources, lenience)?;
            record.cgroups.plan_also(layout, &place, &joined)?;
            record.place = place.of_caller();
            folder.write_record(record)?;
            record.cgroups.create(resources, lenience)?;
            None
        };
        folder.write_config(&checked.config)?;
        let mut entrance = record.cgroups.entrance(&Below::default())?;
        if let (Some(resctrl), Some(wanted)) = (&record.resctrl, linux.intel_rdt()) {
            resctrl.make(wanted)?;
            resctrl.open_doors(&mut entrance)?;
        }

        // Before the mounts are looked for: one may be behind a link that leads to what is missing.
        make_mount_points(spec, &checked.bundle, &checked.rootfs)?;
        let outside = shared::outside(spec, &record.cgroups, &checked.bundle, &checked.rootfs)?;
        let point = folder.path().join("criu-root");
        std::fs::DirBuilder::new().mode(0o700).create(&point).at("make", point.display())?;
        let point = std::fs::canonicalize(&point).at("resolve", point.display())?;
        let (mut message, log) = shared::begin(&opts.criu, spec, LOG)?;
        let extra = say_what(&mut message, spec, opts, &outside, &descriptors)?;
        message.bytes(field::ROOT, shared::bytes(&point));

        let surroundings = Surroundings { entrance, root: Some((checked.rootfs.clone(), point)), extra };
        let criu = Criu::start(&opts.criu, surroundings)?;
        drop(holder);
        if let Some(unit) = &record.unit {
            record.cgroups.limit_unit(unit, resources)?;
        }
        name_cgroups(&mut message, criu.pid())?;
        let mut child = None;
        let mut terminal = None;
        let asked = criu.ask(Request::Restore, &message, |notice| match notice.script {
            "setup-namespaces" => Ok(run_create_hooks(Pid::from_raw(notice.pid), record, spec)?),
            "orphan-pts-master" => {
                terminal = hand_over(notice.descriptor, opts.container.console_socket.as_deref())?;
                Ok(())
            }
            // On record before it goes on.
            "post-restore" => {
                record.pid = notice.pid;
                record.start_time = ProcessStat::read(record.pid).map_or(0, |stat| stat.start_time);
                folder.write_record(record)?;
                let pid = Pid::from_raw(record.pid);
                child = Some(Child::new(pid, sys::pidfd_open(pid).at("open", format!("process {pid}"))?));
                Ok(())
            }
            _ => Ok(()),
        });
        asked.map_err(|error| log.explain(error))?;
        drop(criu);
        let child = child.ok_or_else(|| Error::InitDied("was not made".to_owned()))?;
        if let Some(path) = &opts.container.pid_file {
            store::publish(path, record.pid.to_string().as_bytes())?;
        }
        let pid = child.pid;
        let own_pid_namespace = record.own_pid_namespace;
        child
            .keep()
            .map(|pidfd| Created { pid, pidfd, terminal, own_pid_namespace })
            .ok_or_else(|| Error::InitDied("went away".to_owned()))
    }
}

fn read_descriptors(images: &Path) -> Result<Vec<String>, Failure> {
    let path = images.join(DESCRIPTORS);
    let text = std::fs::read(&path).at("read", path.display())?;
    serde_json::from_slice(&text).map_err(|error| Failure::refused("read", path.display(), error.to_string()))
}

/// What is made, and from what; the descriptors that CRIU needs for it.
fn say_what(
    message: &mut Message,
    spec: &Spec,
    opts: &RestoreOptions,
    outside: &[Outside],
    descriptors: &[String],
) -> Result<Vec<OwnedFd>, Error> {
    message.flag(field::EVASIVE_DEVICES, true);
    // The container's process is to be our child, not CRIU's.
    message.flag(field::RST_SIBLING, true);
    for (field, text) in [(field::LSM_PROFILE, &opts.lsm_profile), (field::LSM_MOUNT_CONTEXT, &opts.lsm_mount_context)]
    {
        if let Some(text) = text {
            message.bytes(field, text.as_bytes());
        }
    }
    for Outside { point, source } in outside {
        message.pair(field::EXT_MNT, shared::bytes(point), shared::bytes(source));
    }
    message.pair(field::EXT_MNT, NULL.as_bytes(), NULL.as_bytes());
    let mut inherit = |key: &str, number: u64| {
        let mut pair = Message::default();
        pair.bytes(1, key.as_bytes());
        pair.number(2, number);
        message.bytes(field::INHERIT_FD, pair.as_bytes());
    };
    // What led outside leads to our own standard descriptors; of two that were one, the first counts.
    let mut seen = Vec::new();
    for (name, number) in descriptors.iter().zip(0..3) {
        if (name.contains("pipe:") || name.starts_with("file[")) && !seen.contains(&name) {
            inherit(name, number);
            seen.push(name);
        }
    }
    let mut extra: Vec<OwnedFd> = Vec::new();
    let mut join = Vec::new();
    for (kind, path) in shared::joined(spec) {
        match shared::names(kind) {
            (_, Some(key)) => {
                inherit(key, EXTRA + extra.len() as u64);
                extra.push(File::open(&path).at("open namespace", path.display())?.into());
            }
            (name, None) => join.push((name, path)),
        }
    }
    for (name, path) in join {
        message.pair(field::JOIN_NS, name.as_bytes(), shared::bytes(&path));
    }
    Ok(extra)
}

/// Where the groups of the checkpoint are now: those that CRIU is in.
fn name_cgroups(message: &mut Message, pid: Pid) -> Result<(), Failure> {
    let path = format!("/proc/{pid}/cgroup");
    let text = std::fs::read_to_string(&path).at("read", &path)?;
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        if let (Some(controllers), Some(group)) = (fields.next(), fields.next()) {
            message.pair(field::CG_ROOT, controllers.as_bytes(), group.as_bytes());
        }
    }
    Ok(())
}

/// Makes what mounts need that a root filesystem, which may be a new one, does not have. What is in a tmpfs comes
/// back with that.
fn make_mount_points(spec: &Spec, bundle: &Path, rootfs: &Path) -> Result<(), Failure> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = Root::new(open(rootfs, flags, Mode::empty()).at("open rootfs", rootfs.display())?);
    let mounts = || spec.mounts().iter().flatten();
    for mount in mounts() {
        let point = mount.destination();
        let mut others = mounts().map(oci_spec::runtime::Mount::destination);
        let is_inside =
            others.any(|other| other != point && other.as_path() != Path::new("/") && point.starts_with(other));
        if is_inside || root.open(point, OFlag::O_PATH).is_ok() {
            continue;
        }
        let is_file = shared::bound(mount, bundle).is_some_and(|source| source.exists() && !source.is_dir());
        let made = if is_file { root.make_file(point) } else { root.make_dir_all(point) };
        made.at("make mount point", point.display())?;
    }
    Ok(())
}
