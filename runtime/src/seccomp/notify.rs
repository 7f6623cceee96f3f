//! The listener of a profile with `SCMP_ACT_NOTIFY`: somebody outside who decides about system calls. It gets
//! the filter's descriptor with the state of the process over a unix socket. OCI runtime specification,
//! "The Container Process State".

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction};
use serde_json::{Value, json};

use crate::error::{Context, Error, Failure};
use crate::status::State;

/// How long a listener may take to accept a connection, in seconds.
const ACCEPT_WITHIN: i64 = 10;

/// Who is to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listener {
    path: PathBuf,
    metadata: Option<String>,
}

impl Listener {
    /// The listener of a profile; `None` when nobody has to be asked.
    pub(crate) fn plan(profile: &LinuxSeccomp) -> Result<Option<Listener>, Error> {
        let path = profile.listener_path().as_ref().filter(|path| !path.as_os_str().is_empty());
        let metadata = profile.listener_metadata().as_ref().filter(|metadata| !metadata.is_empty());
        if path.is_none() && metadata.is_some() {
            return Err(Error::invalid("linux.seccomp.listenerMetadata", "it needs a listenerPath"));
        }
        if profile.default_action() == LinuxSeccompAction::ScmpActNotify {
            return Err(Error::invalid(
                "linux.seccomp.defaultAction",
                "SCMP_ACT_NOTIFY would stop the runtime before anybody can answer it",
            ));
        }
        let asks =
            profile.syscalls().iter().flatten().filter(|rule| rule.action() == LinuxSeccompAction::ScmpActNotify);
        let mut names = asks.flat_map(oci_spec::runtime::LinuxSyscall::names).peekable();
        if names.peek().is_none() {
            return Ok(None);
        }
        if names.any(|name| name == "sendmsg") {
            return Err(Error::invalid(
                "linux.seccomp.syscalls",
                "SCMP_ACT_NOTIFY cannot be used for sendmsg: the process hands its listener's descriptor over by it",
            ));
        }
        match path {
            Some(path) => Ok(Some(Listener { path: path.clone(), metadata: metadata.cloned() })),
            None => Err(Error::invalid("linux.seccomp.listenerPath", "SCMP_ACT_NOTIFY needs it")),
        }
    }

    /// Hands a filter's descriptor to the listener.
    pub(crate) fn tell(&self, filter: &OwnedFd, pid: i32, state: &State) -> Result<(), Failure> {
        let step = "hand the process over to seccomp listener";
        let object = || self.path.display();
        // The descriptors that come along are named in their order.
        let mut message = json!({
            "ociVersion": state.oci_version,
            "fds": ["seccompFd"],
            "pid": pid,
            "state": members(state),
        });
        if let Some(metadata) = &self.metadata {
            message["metadata"] = metadata.as_str().into();
        }
        let message = message.to_string().into_bytes();
        let socket = connected(&self.path).at(step, object())?;
        let fds = [filter.as_fd().as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&fds)];
        let parts = [IoSlice::new(&message)];
        match sendmsg::<()>(socket.as_raw_fd(), &parts, &rights, MsgFlags::MSG_NOSIGNAL, None).at(step, object())? {
            sent if sent == message.len() => Ok(()),
            _ => Err(Failure::refused(step, object(), "it took only a part of the message")),
        }
    }
}

/// The members of a state that the specification has.
fn members(state: &State) -> Value {
    let mut members = json!({
        "ociVersion": state.oci_version,
        "id": state.id,
        "status": state.status.to_string(),
        "pid": state.pid,
        "bundle": state.bundle.to_string_lossy(),
    });
    if !state.annotations.is_empty() {
        members["annotations"] = json!(state.annotations);
    }
    members
}

fn connected(path: &Path) -> nix::Result<OwnedFd> {
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // A listener with a full queue must not hold the runtime for ever.
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::seconds(ACCEPT_WITHIN))?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket)
}
