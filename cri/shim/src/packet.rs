//! Packets with descriptors, over a SOCK_SEQPACKET unix socket.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, RecvMsg, SockFlag, SockType, UnixAddr, bind, connect,
    recv, recvmsg, sendmsg, socket, socketpair,
};
use nix::sys::stat::Mode;

use crate::protocol::{ELSEWHERE, LONGEST_MESSAGE, MAX_DESCRIPTORS, MAX_MESSAGE};

/// One packet, and the descriptors that came with it.
#[derive(Debug, Default)]
pub struct Packet {
    pub bytes: Vec<u8>,
    pub descriptors: Vec<OwnedFd>,
}

/// Two connected sockets, non-blocking and close-on-exec.
///
/// # Errors
/// As socketpair(2).
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?)
}

/// Connects to the socket at `path`; non-blocking and close-on-exec.
///
/// # Errors
/// As connect(2): ENOENT or ECONNREFUSED when nobody listens, EAGAIN when the backlog is full.
pub fn connect_to(path: &Path) -> io::Result<OwnedFd> {
    let fd = stream_socket()?;
    with_address(path, |address| connect(fd.as_raw_fd(), address))?;
    Ok(fd)
}

/// Binds a new socket to `path`; non-blocking and close-on-exec. The file's mode follows the umask.
///
/// # Errors
/// As bind(2).
pub fn bind_to(path: &Path) -> io::Result<OwnedFd> {
    let fd = stream_socket()?;
    with_address(path, |address| bind(fd.as_raw_fd(), address))?;
    Ok(fd)
}

fn stream_socket() -> nix::Result<OwnedFd> {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
}

/// A path longer than a socket address (unix(7): 108 bytes) is reached through a descriptor of its folder.
fn with_address(path: &Path, act: impl FnOnce(&UnixAddr) -> nix::Result<()>) -> io::Result<()> {
    if let Ok(address) = UnixAddr::new(path) {
        return Ok(act(&address)?);
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::EINVAL.into());
    };
    let folder = open(folder, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    Ok(act(&UnixAddr::new(&short)?)?)
}

/// Sends one packet whole, or fails.
///
/// # Errors
/// EMSGSIZE over [`LONGEST_MESSAGE`]; EAGAIN when the peer does not read; EPIPE when it is gone.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    if bytes.len() > LONGEST_MESSAGE || descriptors.len() > MAX_DESCRIPTORS {
        return Err(Errno::EMSGSIZE.into());
    }
    if bytes.len() <= MAX_MESSAGE {
        return send_packet(socket, bytes, descriptors);
    }
    let mut elsewhere = File::from(memfd_create("orlop message", MFdFlags::MFD_CLOEXEC)?);
    elsewhere.write_all(bytes)?;
    let all: Vec<_> = descriptors.iter().copied().chain([elsewhere.as_fd()]).collect();
    send_packet(socket, ELSEWHERE, &all)
}

fn send_packet(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &rights[..0] } else { &rights[..] };
    loop {
        let sent = sendmsg::<()>(
            socket.as_raw_fd(),
            &[IoSlice::new(bytes)],
            control,
            MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT,
            None,
        );
        match sent {
            Err(Errno::EINTR) => {}
            other => return Ok(other.map(drop)?),
        }
    }
}

/// Receives one packet; none when the peer has closed.
///
/// The buffer is made to the packet's measure: a process that waits for years keeps no large one.
///
/// # Errors
/// EAGAIN when there is none yet; EMSGSIZE for one over [`LONGEST_MESSAGE`] or with too many descriptors,
/// after which the connection is of no more use.
pub fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<Packet>> {
    let length = next_length(socket)?;
    if length > MAX_MESSAGE {
        return Err(Errno::EMSGSIZE.into());
    }
    let mut bytes = vec![0; length];
    let mut space = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS + 1]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT,
    )?;
    let mut descriptors = owned(&message)?;
    let (received, cut) = (message.bytes, message.flags.contains(MsgFlags::MSG_CTRUNC));
    if cut {
        return Err(Errno::EMSGSIZE.into());
    }
    if bytes == ELSEWHERE {
        let elsewhere = descriptors.pop().ok_or(Errno::EBADMSG)?;
        bytes = read_whole(&File::from(elsewhere))?;
    }
    Ok((received > 0).then_some(Packet { bytes, descriptors }))
}

fn read_whole(file: &File) -> io::Result<Vec<u8>> {
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    if length > LONGEST_MESSAGE {
        return Err(Errno::EMSGSIZE.into());
    }
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// The length of the waiting packet; 0 when the peer has closed.
fn next_length(socket: BorrowedFd<'_>) -> io::Result<usize> {
    loop {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC | MsgFlags::MSG_DONTWAIT;
        match recv(socket.as_raw_fd(), &mut [], flags) {
            Err(Errno::EINTR) => {}
            // The peer closed with packets of ours unread.
            Err(Errno::ECONNRESET) => return Ok(0),
            other => return Ok(other?),
        }
    }
}

/// Receives one descriptor over a stream socket, as runc sends a terminal; none if there came none.
///
/// # Errors
/// As recvmsg(2).
pub fn receive_descriptor(socket: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let mut space = nix::cmsg_space!([RawFd; 1]);
    // The bytes are the terminal's name, of which nobody has a use.
    let mut name = [0; 4096];
    let mut parts = [IoSliceMut::new(&mut name)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    Ok(owned(&message)?.pop())
}

fn owned(message: &RecvMsg<'_, '_, ()>) -> nix::Result<Vec<OwnedFd>> {
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            // SAFETY: the kernel has just made these descriptors for this process; nobody else owns them.
            descriptors.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok(descriptors)
}
