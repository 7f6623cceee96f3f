//! The pipes and terminals between a container and its shim.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::Mode;
use nix::unistd::pipe2;
use orlop_shim::protocol::{Create, Failure};

use crate::failure::Step;

/// What a container may write before it must wait for the shim, in bytes.
const OUTPUT_PIPE: i32 = 256 * 1024;
/// How far who is attached may fall behind, in bytes.
const ATTACH_PIPE: i32 = 1024 * 1024;

/// The write end of a container's stdin.
#[derive(Debug, Default)]
pub(crate) enum Stdin {
    /// There never was one, or it was closed.
    #[default]
    Closed,
    /// Shared with each who attaches.
    Open(OwnedFd),
    /// Given away to the first who attaches: when that one closes it, the container reads end-of-file.
    Once(OwnedFd),
}

impl Stdin {
    /// The end for one who attaches.
    pub(crate) fn take(&mut self) -> std::io::Result<Option<OwnedFd>> {
        match std::mem::take(self) {
            Stdin::Closed => Ok(None),
            Stdin::Once(fd) => Ok(Some(fd)),
            Stdin::Open(fd) => {
                let copy = fd.try_clone();
                *self = Stdin::Open(fd);
                copy.map(Some)
            }
        }
    }
}

/// The container's ends.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// The shim's ends.
#[derive(Debug)]
pub(crate) struct Outer {
    pub(crate) stdin: Stdin,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// Pipes for a container without a terminal.
pub(crate) fn pipes(create: &Create) -> Result<(Inner, Outer), Failure> {
    let (stdin, write_end) = if create.stdin {
        let (ours, theirs) =
            pipe2(OFlag::O_CLOEXEC).step("make a pipe for stdin").map(|(read, write)| (write, read))?;
        (theirs, if create.stdin_once { Stdin::Once(ours) } else { Stdin::Open(ours) })
    } else {
        (dev_null()?, Stdin::Closed)
    };
    let (read_out, stdout) = output()?;
    let (read_err, stderr) = output()?;
    Ok((Inner { stdin, stdout, stderr }, Outer { stdin: write_end, stdout: read_out, stderr: read_err }))
}

fn output() -> Result<(OwnedFd, OwnedFd), Failure> {
    let (ours, theirs) = pipe2(OFlag::O_CLOEXEC).step("make a pipe for the output")?;
    // A smaller pipe does as well, only slower: the host may forbid larger ones.
    let _ = fcntl(&ours, FcntlArg::F_SETPIPE_SZ(OUTPUT_PIPE));
    set_nonblocking(ours.as_fd())?;
    Ok((ours, theirs))
}

/// Makes a descriptor to attach fit for it: never waiting, and a pipe as large as permitted.
pub(crate) fn prepare_attached(fd: BorrowedFd<'_>) -> Result<(), Failure> {
    let _ = fcntl(fd, FcntlArg::F_SETPIPE_SZ(ATTACH_PIPE));
    set_nonblocking(fd)
}

pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>) -> Result<(), Failure> {
    let flags = fcntl(fd, FcntlArg::F_GETFL).step("read a descriptor's flags")?;
    let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
    fcntl(fd, FcntlArg::F_SETFL(flags)).step("make a descriptor non-blocking")?;
    Ok(())
}

pub(crate) fn dev_null() -> Result<OwnedFd, Failure> {
    open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).step("open /dev/null")
}
