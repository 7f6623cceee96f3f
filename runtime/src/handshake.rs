//! What the caller of `create` or `exec` and the process it cloned tell each other, and how `start` reaches a
//! container that waits.
//!
//! ```text
//! create                                   init
//!   | -- Go::Mapped -----------------------> |   only with a new user namespace: its ids are mapped
//!   | -- Go::Equipped ----------------------> |   only with network devices: they are its own
//!   | <----------------------- MountsReady -- |   only with hooks that come before pivot_root
//!   | -- Go::HooksDone ---------------------> |
//!   | <---------------- Listener [seccomp's] -- |   only with a profile that asks somebody
//!   | -- Go::Listened ----------------------> |   it has the descriptor
//!   | <--- Ready [terminal's master] or Failed |
//!   | -- Go::Recorded ----------------------> |   the state is on disk; without this word init ends
//!   x                                        |   waits at the gate, <root>/<id>/start.sock
//!   | -- Go::Start -------------------------> |   instead of both, from a caller that starts it: there is no gate,
//!   | <---- Failed, or end of file: it runs -- x   and the rest is as with start
//! start                                      |
//!   | -- connect, one byte -----------------> |   runs startContainer hooks, executes the program
//!   | <---- Failed, or end of file: it runs -- x
//!
//! exec                                     process
//!   | <---------------- Listener [seccomp's] -- |   as above
//!   | -- Go::Listened ----------------------> |
//!   | <--- Ready [terminal's master] or Failed |
//!   | <---- Failed, or end of file: it runs -- x
//! ```
//! Sockets are SOCK_SEQPACKET, so a message comes whole or not at all, and every end is close-on-exec.
//! Whoever finds the other end gone gives up. The caller also gives up when the process does not answer, see
//! [`Patience`].

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind,
    connect, listen, recv, recvmsg, send, sendmsg, setsockopt, socket, socketpair, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Failure};
use crate::identity::ProcessStat;
use crate::path::fd_path;
use crate::sys;

/// The longest message: a failure names a path or two.
const MAX_MESSAGE: usize = 64 * 1024;

const STEP: &str = "talk to";
const INIT: &str = "the container's process";
const CALLER: &str = "the runtime";

/// How long a process may work on what it was last told, beside its hooks.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How long a silent process is waited for before a look at what it does, in milliseconds.
const LOOK_AFTER: i64 = 500;

/// For how long a process is waited for. It is in the container's process namespace, where a program can stop
/// it, over and over (nothing withstands SIGSTOP), and it opens files that may be on a filesystem that hangs.
/// Its caller, which may look after other containers too, must not hang with it.
#[derive(Debug)]
pub(crate) struct Patience {
    pid: i32,
    /// `None` when it runs a hook that may take as long as it likes.
    until: Option<Instant>,
    was_stopped: bool,
    is_over: bool,
}

impl Patience {
    /// For the process `pid` and the time that its hooks may take.
    pub(crate) fn new(pid: i32, hooks: Option<Duration>) -> Patience {
        let until = hooks.and_then(|time| Instant::now().checked_add(READY_WITHIN.saturating_add(time)));
        Patience { pid, until, was_stopped: false, is_over: false }
    }

    /// Whether the process was given up: it still has to be killed.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Looks at a process that is silent. One that is stopped is continued once: a stop may have been meant for
    /// its neighbours.
    fn look(&mut self) -> Result<(), Failure> {
        let stopped = ProcessStat::read(self.pid).is_some_and(|stat| stat.is_stopped());
        let why = if self.until.is_some_and(|until| Instant::now() >= until) {
            format!("it is not ready after {} s", READY_WITHIN.as_secs())
        } else if stopped && self.was_stopped {
            "it is stopped again and again (SIGSTOP): a program of the container does not let it run".to_owned()
        } else {
            if stopped {
                self.was_stopped = true;
                let _ = sys::pidfd_open(Pid::from_raw(self.pid))
                    .and_then(|pidfd| sys::pidfd_send_signal(pidfd, libc::SIGCONT));
            }
            return Ok(());
        };
        self.is_over = true;
        Err(Failure::refused("wait for", format!("{INIT} ({})", self.pid), why))
    }
}

/// What the new process says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Report {
    MountsReady,
    /// A filter asks somebody about system calls, who needs the descriptor that comes along.
    Listener,
    Ready,
    Failed(Failure),
}

/// What the new process is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Go {
    Mapped = b'm',
    Equipped = b'e',
    HooksDone = b'h',
    Listened = b'l',
    Recorded = b'r',
    Start = b's',
}

/// The two ends of one handshake.
pub(crate) fn pair() -> Result<(CallerEnd, ProcessEnd), Failure> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).at("make", "socket pair")?;
    be_patient(&ours)?;
    Ok((CallerEnd(ours), ProcessEnd(theirs)))
}

/// Lets [`receive`] wake up to look at who is silent.
fn be_patient(socket: &OwnedFd) -> Result<(), Failure> {
    setsockopt(socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(LOOK_AFTER)).at("set timeout of", "socket")
}

/// The end of `create` and `exec`.
#[derive(Debug)]
pub(crate) struct CallerEnd(OwnedFd);

impl CallerEnd {
    /// One that has ended meanwhile left a report that says why, which is read next.
    pub(crate) fn tell(&self, go: Go) -> Result<(), Failure> {
        match send(self.0.as_raw_fd(), &[go as u8], MsgFlags::MSG_NOSIGNAL) {
            Err(Errno::EPIPE | Errno::ECONNRESET) if !matches!(go, Go::Recorded | Go::Start) => Ok(()),
            result => result.at(STEP, INIT).map(drop),
        }
    }

    /// The next report; `None` when the process executed its program or ended.
    pub(crate) fn report(&self, patience: &mut Patience) -> Result<Option<(Report, Option<OwnedFd>)>, Failure> {
        receive(&self.0, patience)
    }

    /// Lets a process that has no gate go on, and waits until the program runs.
    pub(crate) fn start(&self, patience: &mut Patience) -> Result<(), Failure> {
        self.tell(Go::Start)?;
        runs(&self.0, patience)
    }
}

/// Waits for the end of the talk, which says that the program runs.
fn runs(socket: &OwnedFd, patience: &mut Patience) -> Result<(), Failure> {
    match receive(socket, patience)? {
        None => Ok(()),
        Some((Report::Failed(failure), _)) => Err(failure),
        Some((report, _)) => Err(Failure::refused(STEP, INIT, format!("unexpected report {report:?}"))),
    }
}

/// The end of the new process.
#[derive(Debug)]
pub(crate) struct ProcessEnd(OwnedFd);

impl AsFd for ProcessEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl ProcessEnd {
    /// This end by another descriptor.
    pub(crate) fn moved(to: OwnedFd) -> ProcessEnd {
        ProcessEnd(to)
    }

    pub(crate) fn report(&self, report: &Report, terminal: Option<BorrowedFd<'_>>) -> Result<(), Failure> {
        transmit(&self.0, report, terminal)
    }

    /// Waits for one word, and takes no other.
    pub(crate) fn wait_for(&self, go: Go) -> Result<(), Failure> {
        let mut word = [0];
        match recv(self.0.as_raw_fd(), &mut word, MsgFlags::empty()).at(STEP, CALLER)? {
            1 if word[0] == go as u8 => Ok(()),
            0 => Err(Failure::refused(STEP, CALLER, "it ended")),
            _ => Err(Failure::refused(STEP, CALLER, format!("unexpected word {}", word[0]))),
        }
    }
}

/// Where a created container waits for `start`.
#[derive(Debug)]
pub(crate) struct Gate(OwnedFd);

impl AsFd for Gate {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The gate's file in the container's folder.
pub(crate) const GATE: &str = "start.sock";

/// The gate's address below the container's folder, by descriptor: socket addresses have 107 bytes only.
fn gate_address(folder: BorrowedFd<'_>) -> Result<UnixAddr, Failure> {
    UnixAddr::new(format!("{}/{GATE}", fd_path(folder)).as_str()).at("address", GATE)
}

fn gate_socket() -> Result<OwnedFd, Failure> {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).at("make", GATE)
}

impl Gate {
    /// Sets the gate up in the container's folder.
    pub(crate) fn new(folder: BorrowedFd<'_>) -> Result<Gate, Failure> {
        let gate = gate_socket()?;
        bind(gate.as_raw_fd(), &gate_address(folder)?).at("bind", GATE)?;
        listen(&gate, Backlog::new(8).at("listen on", GATE)?).at("listen on", GATE)?;
        Ok(Gate(gate))
    }

    /// Waits until `create` has recorded the container and `start` knocks. Until the former, the end of the
    /// caller is the end of this container: nobody knows of it.
    pub(crate) fn wait(&self, caller: &ProcessEnd) -> Result<ProcessEnd, Failure> {
        caller.wait_for(Go::Recorded)?;
        loop {
            let connection = match accept4(self.0.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
                Err(Errno::EINTR | Errno::ECONNABORTED) => continue,
                result => owned(result.at("wait on", GATE)?),
            };
            let mut word = [0];
            // Somebody who connects and goes away without a word changes nothing.
            if recv(connection.as_raw_fd(), &mut word, MsgFlags::empty()) == Ok(1) {
                return Ok(ProcessEnd(connection));
            }
        }
    }

    /// Knocks at a gate from outside and waits until the program runs.
    pub(crate) fn open(folder: BorrowedFd<'_>, patience: &mut Patience) -> Result<(), Failure> {
        let gate = gate_socket()?;
        be_patient(&gate)?;
        connect(gate.as_raw_fd(), &gate_address(folder)?).at("connect to", GATE)?;
        send(gate.as_raw_fd(), &[1], MsgFlags::MSG_NOSIGNAL).at(STEP, INIT)?;
        runs(&gate, patience)
    }
}

/// Takes the ownership of a descriptor that the kernel just made.
#[allow(unsafe_code)]
pub(crate) fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: the callers have it from accept4 or SCM_RIGHTS: the number is new, open, and known to nobody else.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn transmit(socket: &OwnedFd, report: &Report, descriptor: Option<BorrowedFd<'_>>) -> Result<(), Failure> {
    let bytes = serde_json::to_vec(report).map_err(|error| Failure::refused(STEP, CALLER, error.to_string()))?;
    let fds: Vec<RawFd> = descriptor.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let rights = if fds.is_empty() { &rights[..0] } else { &rights[..] };
    let parts = [IoSlice::new(&bytes)];
    sendmsg::<()>(socket.as_raw_fd(), &parts, rights, MsgFlags::MSG_NOSIGNAL, None).at(STEP, CALLER).map(drop)
}

fn receive(socket: &OwnedFd, patience: &mut Patience) -> Result<Option<(Report, Option<OwnedFd>)>, Failure> {
    let from = INIT;
    // Most messages are a word: the space is made when the length is known.
    let length = loop {
        match recv(socket.as_raw_fd(), &mut [], MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC) {
            Err(Errno::EINTR) => (),
            Err(Errno::EAGAIN) => patience.look()?,
            Err(Errno::ECONNRESET) => return Ok(None),
            result => break result.at(STEP, from)?,
        }
    };
    if length == 0 {
        return Ok(None);
    }
    let mut bytes = vec![0; length.min(MAX_MESSAGE)];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = loop {
        match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags) {
            Err(Errno::EINTR) => (),
            result => break result.at(STEP, from)?,
        }
    };
    let mut descriptor = None;
    for control in message.cmsgs().at(STEP, from)? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            descriptor = fds.into_iter().map(owned).next();
        }
    }
    let length = message.bytes;
    let report = serde_json::from_slice(&bytes[..length])
        .map_err(|error| Failure::refused(STEP, from, format!("not understood: {error}")))?;
    Ok(Some((report, descriptor)))
}

/// Sends a terminal's master to the listener of a console socket, with the terminal's name, as runc does.
pub(crate) fn send_console(path: &Path, master: BorrowedFd<'_>) -> Result<(), Failure> {
    send_to("console socket", path, "/dev/ptmx", master)
}

/// Sends a pidfd to the listener of a pidfd socket, with what kind of process it is of, as runc does.
pub(crate) fn send_pidfd(path: &Path, kind: &str, pidfd: BorrowedFd<'_>) -> Result<(), Failure> {
    send_to("pidfd socket", path, kind, pidfd)
}

fn send_to(what: &str, path: &Path, text: &str, fd: BorrowedFd<'_>) -> Result<(), Failure> {
    let object = || path.display().to_string();
    let step = format!("connect to {what}");
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).at("make", what)?;
    let address = UnixAddr::new(path).at(&step, object())?;
    connect(socket.as_raw_fd(), &address).at(&step, object())?;
    let fds = [fd.as_raw_fd()];
    let parts = [IoSlice::new(text.as_bytes())];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(socket.as_raw_fd(), &parts, &rights, MsgFlags::MSG_NOSIGNAL, None)
        .at(&format!("send to {what}"), object())
        .map(drop)
}

/// Waits until a descriptor is readable; `false` when the time is over.
pub(crate) fn wait_readable(fd: impl AsFd, milliseconds: u32) -> nix::Result<bool> {
    let timeout = PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX);
    loop {
        match poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout) {
            Err(Errno::EINTR) => (),
            result => return result.map(|ready| ready > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patience() -> Patience {
        Patience::new(std::process::id() as i32, Some(Duration::ZERO))
    }

    #[test]
    fn a_failure_crosses_whole() {
        let (caller, process) = pair().expect("pair");
        let failure = Failure::new("mount", "proc at /proc", Errno::EPERM);
        process.report(&Report::Failed(failure.clone()), None).expect("report");
        let (report, descriptor) = caller.report(&mut patience()).expect("report").expect("message");
        assert_eq!(report, Report::Failed(failure));
        assert!(descriptor.is_none());
        drop(process);
        assert!(caller.report(&mut patience()).expect("end").is_none());
    }

    #[test]
    fn a_descriptor_comes_along() {
        let (caller, process) = pair().expect("pair");
        let file = std::fs::File::open("/dev/null").expect("open");
        process.report(&Report::Ready, Some(file.as_fd())).expect("report");
        let (_, descriptor) = caller.report(&mut patience()).expect("report").expect("message");
        let stat = |fd: BorrowedFd<'_>| nix::sys::stat::fstat(fd).expect("stat").st_rdev;
        assert_eq!(stat(descriptor.expect("descriptor").as_fd()), stat(file.as_fd()));
    }

    #[test]
    fn only_the_right_word() {
        let (caller, process) = pair().expect("pair");
        caller.tell(Go::HooksDone).expect("tell");
        assert!(process.wait_for(Go::Recorded).is_err());
        drop(caller);
        assert!(process.wait_for(Go::Recorded).is_err());
    }
}
