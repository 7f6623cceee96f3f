//! CRIU as a process that is asked over a socket, one request and its answer: `criu swrk`.

use std::ffi::CString;
use std::io::IoSliceMut;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, Shutdown, SockFlag, SockType, recvmsg, send, shutdown, socketpair,
};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{AccessFlags, Pid, access};

use super::CriuOptions;
use super::wire::{Fields, Message};
use crate::cgroups::Entrance;
use crate::child::Child;
use crate::error::{Context, Error, Failure};
use crate::handshake::{self, Patience, ProcessEnd, Report, owned};
use crate::path::c_string;
use crate::sys::{self, ns};

/// `criu_req_type` of criu's images/rpc.proto.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum Request {
    Dump = 1,
    Restore = 2,
    PreDump = 4,
}

const NOTIFY: u64 = 6;

/// The longest answer; runc allows as much.
const MAX_MESSAGE: usize = 40 * 1024;

/// The descriptors that CRIU is given: its socket, the folder of the files, that of its log, and what else.
const SOCKET: RawFd = 3;
pub(super) const IMAGES: u64 = 4;
pub(super) const WORK: u64 = 5;
pub(super) const EXTRA: u64 = 6;

/// What a process of CRIU begins with.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    /// The cgroups that it and what it restores live in.
    pub(super) entrance: Entrance,
    /// A folder and the mount point at which CRIU is to find it, seen by nobody else.
    pub(super) root: Option<(PathBuf, PathBuf)>,
    /// Descriptors from [`EXTRA`] on.
    pub(super) extra: Vec<OwnedFd>,
}

/// A process of CRIU, which ends with this value.
#[derive(Debug)]
pub(super) struct Criu {
    pid: Pid,
    socket: OwnedFd,
}

/// One thing that CRIU tells while it works.
#[derive(Debug)]
pub(super) struct Notice<'a> {
    pub(super) script: &'a str,
    pub(super) pid: i32,
    pub(super) descriptor: Option<OwnedFd>,
}

impl Criu {
    /// Starts CRIU, which waits for a request then.
    pub(super) fn start(options: &CriuOptions, surroundings: Surroundings) -> Result<Criu, Error> {
        let (caller, process) = handshake::pair()?;
        let programs = candidates(&options.program)?;
        let namespace = if surroundings.root.is_some() { ns::MOUNT } else { 0 };
        let cloned = sys::clone_process(namespace, surroundings.entrance.unified());
        let Some((pid, pidfd)) = cloned.at("clone", "a process for criu")? else {
            become_criu(&programs, options, &surroundings, process);
            sys::exit_now(1)
        };
        let child = Child::new(pid, pidfd);
        drop(process);
        let mut patience = Patience::new(pid.as_raw(), None);
        let socket = match caller.report(&mut patience)? {
            Some((Report::Ready, Some(socket))) => socket,
            Some((Report::Failed(failure), _)) => return Err(failure.into()),
            _ => return Err(Failure::refused("start", "criu", "it went away").into()),
        };
        match caller.report(&mut patience)? {
            None => {
                child.keep();
                Ok(Criu { pid, socket })
            }
            Some((Report::Failed(failure), _)) if failure.errno == Errno::ENOENT as i32 => {
                let name = options.program.display();
                let why = format!("the program {name} is not installed: install the package criu");
                Err(Error::unsupported("checkpoint and restore", why))
            }
            Some((Report::Failed(failure), _)) => Err(failure.into()),
            Some(_) => Err(Failure::refused("start", "criu", "it is not understood").into()),
        }
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Asks for something and answers what CRIU tells meanwhile, until it is done; the number of the first process
    /// of a restore.
    pub(super) fn ask(
        &self,
        request: Request,
        options: &Message,
        mut hear: impl FnMut(Notice<'_>) -> Result<(), Error>,
    ) -> Result<Option<i32>, Error> {
        let mut message = Message::default();
        message.number(1, request as u64);
        message.bytes(2, options.as_bytes());
        self.tell(&message)?;
        let mut buffer = vec![0; MAX_MESSAGE];
        loop {
            let (length, descriptor) = self.hear(&mut buffer)?;
            let answer = Fields(&buffer[..length]);
            if answer.number(2) != Some(1) {
                let text = answer.bytes(9).map(|text| String::from_utf8_lossy(text).into_owned()).unwrap_or_default();
                let errno = answer.number(7).and_then(|errno| i32::try_from(errno).ok()).unwrap_or(0);
                return Err(Failure { errno, ..Failure::refused("ask", "criu", text) }.into());
            }
            match answer.number(1) {
                Some(NOTIFY) => {
                    let notice = Fields(answer.bytes(5).unwrap_or_default());
                    let script = std::str::from_utf8(notice.bytes(1).unwrap_or_default()).unwrap_or_default();
                    let pid = notice.number(2).and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0);
                    hear(Notice { script, pid, descriptor })?;
                    let mut heard = Message::default();
                    heard.number(1, NOTIFY);
                    heard.number(3, 1);
                    self.tell(&heard)?;
                }
                Some(kind) if kind == request as u64 => {
                    let pid = answer.bytes(4).and_then(|restored| Fields(restored).number(1));
                    return Ok(pid.and_then(|pid| i32::try_from(pid).ok()));
                }
                kind => return Err(Failure::refused("ask", "criu", format!("unexpected answer {kind:?}")).into()),
            }
        }
    }

    fn tell(&self, message: &Message) -> Result<(), Failure> {
        send(self.socket.as_raw_fd(), message.as_bytes(), MsgFlags::MSG_NOSIGNAL).at("ask", "criu").map(drop)
    }

    fn hear(&self, buffer: &mut [u8]) -> Result<(usize, Option<OwnedFd>), Failure> {
        let mut space = nix::cmsg_space!([RawFd; 1]);
        loop {
            let mut parts = [IoSliceMut::new(buffer)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            match recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut space), flags) {
                Err(Errno::EINTR) => (),
                Err(errno) => return Err(Failure::new("hear", "criu", errno)),
                Ok(message) => {
                    let mut descriptor = None;
                    for control in message.cmsgs().at("hear", "criu")? {
                        if let ControlMessageOwned::ScmRights(fds) = control {
                            descriptor = fds.into_iter().map(owned).next();
                        }
                    }
                    return match message.bytes {
                        0 => Err(Failure::refused("hear", "criu", "it ended without an answer")),
                        length => Ok((length, descriptor)),
                    };
                }
            }
        }
    }
}

impl Drop for Criu {
    fn drop(&mut self) {
        // It has answered, or will not: a pre-dump waits for more requests, and what is half restored ends with it.
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
        let _ = waitpid(self.pid, Some(WaitPidFlag::__WALL));
    }
}

/// Where a program may be.
fn candidates(program: &Path) -> Result<Vec<CString>, Failure> {
    let name = |path: PathBuf| c_string(&path).at("name", path.display());
    if program.components().count() > 1 {
        return Ok(vec![name(program.to_path_buf())?]);
    }
    let search = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    std::env::split_paths(&search).map(|folder| name(folder.join(program))).collect()
}

/// Whether CRIU would find a program that it runs.
pub(super) fn finds(program: &str) -> bool {
    let is_there = |path: &CString| access(path.as_c_str(), AccessFlags::X_OK).is_ok();
    candidates(Path::new(program)).is_ok_and(|all| all.iter().any(is_there))
}

/// Runs in the clone; returns only when it did not become CRIU, and has told why.
fn become_criu(programs: &[CString], options: &CriuOptions, surroundings: &Surroundings, caller: ProcessEnd) {
    // The value must not close what set_up gives another meaning.
    let caller = ManuallyDrop::new(caller);
    match set_up(options, surroundings, &caller) {
        Ok(moved) => {
            let _ = moved.report(&Report::Failed(execute(programs)), None);
        }
        Err(failure) => {
            let _ = caller.report(&Report::Failed(failure), None);
        }
    }
}

fn execute(programs: &[CString]) -> Failure {
    let args = [c"criu", c"swrk", c"3"].map(CString::from);
    let env: Vec<CString> = std::env::vars_os()
        .filter_map(|(mut variable, value)| {
            variable.push("=");
            variable.push(value);
            c_string(variable).ok()
        })
        .collect();
    let mut last = Errno::ENOENT;
    for program in programs {
        match nix::unistd::execve(program, &args, &env) {
            Ok(never) => match never {},
            Err(Errno::ENOENT | Errno::ENOTDIR) => (),
            Err(errno) => last = errno,
        }
    }
    Failure::new("execute", "criu", last)
}

/// Returns the caller's end, which has another number by then.
fn set_up(options: &CriuOptions, surroundings: &Surroundings, caller: &ProcessEnd) -> Result<ProcessEnd, Failure> {
    sys::reset_signals();
    surroundings.entrance.enter()?;
    if let Some((folder, point)) = &surroundings.root {
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none).at("make slave", "/")?;
        let object = || folder.display().to_string();
        mount(Some(folder), point, none, MsFlags::MS_BIND | MsFlags::MS_REC, none).at("bind", object())?;
    }
    // CRIU works in these folders, and mounts there: they must be those of its own mount namespace. It takes them
    // by the number that they have in the process that made its socket, which is this one for the same reason.
    let folder = |path: &Path| {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        open(path, flags, Mode::empty()).at("open", path.display())
    };
    // Their numbers are given to others below: these values must not close them.
    let images = ManuallyDrop::new(folder(&options.images)?);
    let work = ManuallyDrop::new(folder(options.work.as_ref().unwrap_or(&options.images))?);
    let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
    let (theirs, ours) = pair.at("make", "socket pair")?;
    let ours = ManuallyDrop::new(ours);
    caller.report(&Report::Ready, Some(theirs.as_fd()))?;
    drop(theirs);
    let all: Vec<_> = [&*ours, &*images, &*work].into_iter().chain(&surroundings.extra).map(AsFd::as_fd).collect();
    let after = SOCKET as u32 + all.len() as u32;
    // The caller's end stays, to be closed by the execution.
    let kept = sys::line_up(&all, SOCKET, caller).at("arrange", "descriptors")?;
    sys::close_all_but(after, vec![kept.as_raw_fd()]).at("close", "descriptors")?;
    Ok(ProcessEnd::moved(kept))
}
