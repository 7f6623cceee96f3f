//! Bytes between our own standard streams and a container's terminal.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::unistd::{read, write};

/// What a write takes at least, once poll(2) said that there is room (pipe(7), PIPE_BUF). Nothing here may block:
/// whoever waits for one direction must not be kept from the other, nor from signals.
const PIECE: usize = 4096;

/// One direction: what was read and not yet written, and whether there is more to come.
#[derive(Debug)]
pub(super) struct Relay {
    pending: Vec<u8>,
    open: bool,
}

impl Relay {
    pub(super) fn new(open: bool) -> Relay {
        Relay { pending: Vec::new(), open }
    }

    /// Whether everything that was read is written.
    pub(super) fn has_nothing(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether nothing more will be written.
    pub(super) fn is_done(&self) -> bool {
        self.pending.is_empty() && !self.open
    }

    /// What it waits for: to write what is pending, or else to read.
    pub(super) fn interest<'fd>(&self, from: BorrowedFd<'fd>, to: BorrowedFd<'fd>) -> Option<PollFd<'fd>> {
        if !self.pending.is_empty() {
            return Some(PollFd::new(to, PollFlags::POLLOUT));
        }
        self.open.then(|| PollFd::new(from, PollFlags::POLLIN))
    }

    /// Goes on by one step, after poll(2) said so.
    pub(super) fn advance(&mut self, from: impl AsFd, to: impl AsFd) {
        if self.pending.is_empty() {
            let mut buffer = [0; PIECE];
            match read(&from, &mut buffer) {
                Err(Errno::EINTR | Errno::EAGAIN) => (),
                // A master gives EIO when the last slave is closed.
                Err(_) | Ok(0) => self.open = false,
                Ok(length) => self.pending.extend_from_slice(&buffer[..length]),
            }
            return;
        }
        match write(&to, &self.pending) {
            Err(Errno::EINTR | Errno::EAGAIN) => (),
            Ok(written) => drop(self.pending.drain(..written)),
            // Nobody takes it any more.
            Err(_) => *self = Relay::new(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::fcntl::OFlag;
    use nix::poll::{PollTimeout, poll};
    use nix::unistd::pipe2;

    use super::*;

    #[test]
    fn all_bytes_in_their_order_then_the_end() {
        let (from, source) = pipe2(OFlag::O_CLOEXEC).expect("pipe");
        let (sink, to) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).expect("pipe");
        let sent: Vec<u8> = (0..40_000_u32).map(|number| number as u8).collect();
        write(&source, &sent).expect("write");
        drop(source);
        let (mut relay, mut got) = (Relay::new(true), Vec::new());
        while let Some(interest) = relay.interest(from.as_fd(), to.as_fd()) {
            poll(&mut [interest], PollTimeout::NONE).expect("poll");
            relay.advance(&from, &to);
            let mut buffer = [0; 10_000];
            let length = read(&sink, &mut buffer).unwrap_or(0);
            got.extend_from_slice(&buffer[..length]);
        }
        assert!(relay.is_done());
        assert_eq!(got, sent);
    }

    #[test]
    fn what_nobody_takes_is_the_end() {
        let (from, source) = pipe2(OFlag::O_CLOEXEC).expect("pipe");
        let (sink, to) = pipe2(OFlag::O_CLOEXEC).expect("pipe");
        drop(sink);
        write(&source, b"x").expect("write");
        let mut relay = Relay::new(true);
        relay.advance(&from, &to);
        relay.advance(&from, &to);
        assert!(relay.is_done());
    }
}
