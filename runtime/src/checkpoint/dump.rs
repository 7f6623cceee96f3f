//! checkpoint: the processes of a container to files.

use std::io::Write;
use std::os::fd::RawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use oci_spec::runtime::Spec;

use super::criu::{self, Criu, Request, Surroundings};
use super::shared::{self, DESCRIPTORS, NULL, Outside, field};
use super::wire::Message;
use super::{CheckpointOptions, CriuOptions};
use crate::error::{Context, Error, Failure};
use crate::path::Root;
use crate::status::Status;
use crate::store::{self, Folder, Record};
use crate::{Runtime, lifecycle, mountinfo, sys};

const LOG: &str = "dump.log";

impl Runtime {
    /// Writes the processes of a container to files. The container is deleted then, unless it is to go on; when it
    /// fails, it goes on as before.
    pub fn checkpoint(&self, id: &str, opts: &CheckpointOptions) -> Result<(), Error> {
        let record = {
            let folder = Folder::open(self.root(), id, "checkpoint")?;
            let record = folder.record(id)?;
            match lifecycle::status(&record) {
                Status::Running | Status::Paused => (),
                status => return Err(Error::WrongStatus { verb: "checkpoint", id: id.to_owned(), status }),
            }
            let spec = store::read_config(&self.folder(id), &record)?;
            shared::check(&spec)?;
            dump(&record, &spec, opts)?;
            record
        };
        if opts.pre_dump || opts.leave_running {
            return Ok(());
        }
        // Its processes are gone, whatever its status says of a moment ago.
        self.delete(&record.id, true)
    }
}

fn dump(record: &Record, spec: &Spec, opts: &CheckpointOptions) -> Result<(), Error> {
    let images = &opts.criu.images;
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(images).at("make", images.display())?;
    if let Some(parent) = &opts.parent {
        check_parent(images, parent)?;
    }
    let (mut message, log) = shared::begin(&opts.criu, spec, LOG)?;
    say_what(&mut message, record, spec, opts)?;
    let request = if opts.pre_dump { Request::PreDump } else { Request::Dump };
    if !opts.pre_dump {
        let inside = Inside::of(record.pid)?;
        for Outside { point, .. } in shared::outside(spec, &record.cgroups, &record.bundle, &record.rootfs)? {
            message.pair(field::EXT_MNT, shared::bytes(&point), shared::bytes(&point));
        }
        for path in inside.masked_files(spec) {
            message.pair(field::EXT_MNT, path.as_bytes(), NULL.as_bytes());
        }
        let descriptors = inside.descriptors(record.pid)?;
        for file in descriptors.iter().filter(|name| name.starts_with("file[")) {
            message.bytes(field::EXTERNAL, file.as_bytes());
        }
        write_descriptors(&opts.criu, &descriptors)?;
    }
    let criu = Criu::start(&opts.criu, Surroundings::default())?;
    let asked = criu.ask(request, &message, |notice| match (notice.script, opts.status_fd) {
        ("status-ready", Some(number)) => Ok(tell_ready(number)?),
        _ => Ok(()),
    });
    asked.map(drop).map_err(|error| log.explain(error))
}

/// What is written, and how.
fn say_what(message: &mut Message, record: &Record, spec: &Spec, opts: &CheckpointOptions) -> Result<(), Error> {
    message.number(field::PID, record.pid as u64);
    message.bytes(field::ROOT, shared::bytes(&record.rootfs));
    message.flag(field::LEAVE_RUNNING, opts.leave_running);
    message.flag(field::TCP_SKIP_IN_FLIGHT, opts.tcp_skip_in_flight);
    message.flag(field::LINK_REMAP, opts.link_remap);
    // Connections are held by iptables, if nobody says otherwise, which not every host has any more.
    if !criu::finds("iptables-restore") {
        message.number(field::NETWORK_LOCK, shared::NFTABLES);
    }
    if let Some(freezer) = record.cgroups.freezer_folder() {
        message.bytes(field::FREEZE_CGROUP, shared::bytes(freezer));
    }
    // Of a hierarchy in which the container has no group of its own CRIU would write down everybody's.
    let list = format!("/proc/{}/cgroup", record.pid);
    let groups = std::fs::read_to_string(&list).at("read", list)?;
    for names in groups.lines().filter_map(|line| line.split(':').nth(1)) {
        if record.cgroups.names_one(names) {
            message.bytes(field::CGROUP_DUMP_CONTROLLER, names.as_bytes());
        }
    }
    if let Some((address, port)) = &opts.page_server {
        let mut server = Message::default();
        server.bytes(1, address.as_bytes());
        server.number(2, (*port).into());
        message.bytes(field::PAGE_SERVER, server.as_bytes());
    }
    if let Some(parent) = &opts.parent {
        message.bytes(field::PARENT_IMG, shared::bytes(parent));
    }
    message.flag(field::TRACK_MEM, opts.pre_dump || opts.parent.is_some());
    for (kind, path) in shared::joined(spec) {
        // What is somebody else's is not written down, only that it was there.
        if let (name, Some(key)) = shared::names(kind) {
            let inode = std::fs::metadata(&path).at("open namespace", path.display())?.ino();
            message.bytes(field::EXTERNAL, format!("{name}[{inode}]:{key}").as_bytes());
        }
    }
    Ok(())
}

fn check_parent(images: &Path, parent: &Path) -> Result<(), Error> {
    if !matches!(parent.components().next(), Some(Component::Normal(_) | Component::ParentDir | Component::CurDir)) {
        return Err(Error::invalid("parent-path", "it must be relative, to the folder of the files"));
    }
    let path = images.join(parent);
    if !path.is_dir() {
        return Err(Error::invalid("parent-path", format!("{} is no folder", path.display())));
    }
    Ok(())
}

/// The container from inside.
struct Inside {
    root: Root,
    /// The mounts that its first process sees.
    mounts: Vec<u64>,
}

impl Inside {
    fn of(pid: i32) -> Result<Inside, Failure> {
        let path = format!("/proc/{pid}/root");
        let root = open(path.as_str(), OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
        let list = format!("/proc/{pid}/mountinfo");
        let text = std::fs::read_to_string(&list).at("read", &list)?;
        let mounts = mountinfo::entries(&text).map(|entry| entry.id).collect();
        Ok(Inside { root: Root::new(root.at("open", path)?), mounts })
    }

    /// The files that are masked; folders are by a filesystem, which is the container's.
    fn masked_files<'a>(&self, spec: &'a Spec) -> impl Iterator<Item = &'a String> {
        let all = spec.linux().as_ref().and_then(|linux| linux.masked_paths().as_ref()).into_iter().flatten();
        all.filter(|path| {
            let found = self.root.open(Path::new(path), OFlag::O_PATH);
            found.is_ok_and(|fd| !crate::mounts::is_folder(&fd).unwrap_or(true))
        })
    }

    /// Where the standard descriptors lead: `pipe:[1]`, or a path, or `file[MOUNT:INODE]` for one of the host,
    /// which is CRIU's name of it.
    fn descriptors(&self, pid: i32) -> Result<Vec<String>, Failure> {
        let describe = |number: i32| -> Result<String, Failure> {
            let path = format!("/proc/{pid}/fd/{number}");
            let Ok(link) = std::fs::read_link(&path) else { return Ok(NULL.to_owned()) };
            let link = link.to_string_lossy().into_owned();
            let meta = std::fs::metadata(&path).at("stat", &path)?;
            let kind = meta.file_type();
            if !kind.is_file() && !kind.is_char_device() || link.starts_with("/dev/pts/") {
                return Ok(link);
            }
            let info = format!("/proc/{pid}/fdinfo/{number}");
            let text = std::fs::read_to_string(&info).at("read", &info)?;
            let mount = text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
            Ok(match mount {
                Some(mount) if !self.mounts.contains(&mount) => format!("file[{mount:x}:{:x}]", meta.ino()),
                _ => link,
            })
        };
        (0..3).map(describe).collect()
    }
}

fn write_descriptors(criu: &CriuOptions, descriptors: &[String]) -> Result<(), Failure> {
    let path = criu.images.join(DESCRIPTORS);
    let mut options = std::fs::OpenOptions::new();
    let opened = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
    let text =
        serde_json::to_vec(descriptors).map_err(|why| Failure::refused("write", path.display(), why.to_string()))?;
    opened.and_then(|mut file| file.write_all(&text)).at("write", path.display())
}

/// Tells whoever waits for it that pages can be asked for.
fn tell_ready(number: RawFd) -> Result<(), Failure> {
    let object = || format!("descriptor {number}");
    let Some(fd) = sys::adopt(number) else {
        return Err(Failure::refused("write to", object(), "--status-fd names no descriptor from 3 on that is open"));
    };
    nix::unistd::write(&fd, &[0]).at("write to", object()).map(drop)
}
