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

mod gate;
mod outside;
mod patience;

pub(crate) use gate::{GATE, Gate};
pub(crate) use outside::{send_console, send_pidfd};
pub(crate) use patience::{Patience, wait_readable};

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recv, recvmsg, send, sendmsg,
    socketpair,
};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Failure};
use patience::be_patient;

/// The longest message: a failure names a path or two.
const MAX_MESSAGE: usize = 64 * 1024;

const STEP: &str = "talk to";
const INIT: &str = "the container's process";
const CALLER: &str = "the runtime";

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

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
