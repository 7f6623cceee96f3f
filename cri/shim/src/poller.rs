//! The descriptors that the shim waits for.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// What a readiness is about. Serials are never used twice, so news of something that has just been closed
/// finds nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    Signals,
    Listener,
    Connection(u32),
    /// A container's stdout (0) or stderr (1).
    Output(u32, u8),
    /// The out-of-memory notification of a container.
    Oom(u32),
    /// A descriptor (0 or 1) of an attacher.
    Attacher(u32, u8),
}

impl Token {
    fn pack(self) -> u64 {
        let (kind, serial, part) = match self {
            Token::Signals => (0, 0, 0),
            Token::Listener => (1, 0, 0),
            Token::Connection(serial) => (2, serial, 0),
            Token::Output(serial, part) => (3, serial, part),
            Token::Oom(serial) => (4, serial, 0),
            Token::Attacher(serial, part) => (5, serial, part),
        };
        u64::from(serial) << 32 | u64::from(part) << 8 | kind
    }

    fn unpack(data: u64) -> Token {
        let (serial, part) = ((data >> 32) as u32, (data >> 8) as u8);
        match data & 0xff {
            0 => Token::Signals,
            1 => Token::Listener,
            2 => Token::Connection(serial),
            3 => Token::Output(serial, part),
            4 => Token::Oom(serial),
            _ => Token::Attacher(serial, part),
        }
    }
}

/// An epoll instance, shared by those whose descriptors are in it.
#[derive(Debug, Clone)]
pub(crate) struct Poller(Rc<Epoll>);

impl Poller {
    pub(crate) fn new() -> nix::Result<Poller> {
        Ok(Poller(Rc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?)))
    }

    pub(crate) fn watch(&self, fd: OwnedFd, token: Token, events: EpollFlags) -> nix::Result<Watched> {
        self.0.add(&fd, EpollEvent::new(events, token.pack()))?;
        Ok(Watched { fd, token, poller: self.clone() })
    }

    /// Waits at most `timeout`; what is ready.
    pub(crate) fn wait<'a>(
        &self,
        events: &'a mut [EpollEvent],
        timeout: EpollTimeout,
    ) -> nix::Result<impl Iterator<Item = Token> + use<'a>> {
        let ready = self.0.wait(events, timeout)?;
        Ok(events[..ready].iter().map(|event| Token::unpack(event.data())))
    }
}

/// A descriptor that is waited for until it is dropped.
///
/// Closing alone would not do: an epoll entry lives as long as the open file, of which others have
/// descriptors too when it was passed.
#[derive(Debug)]
pub(crate) struct Watched {
    fd: OwnedFd,
    token: Token,
    poller: Poller,
}

impl Watched {
    /// Waits for other events from now on; for hang-ups and errors in any case.
    pub(crate) fn rearm(&self, events: EpollFlags) -> nix::Result<()> {
        self.poller.0.modify(&self.fd, &mut EpollEvent::new(events, self.token.pack()))
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // It fails only for a descriptor that is not in it, which is what is wanted.
        let _ = self.poller.0.delete(&self.fd);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_packing() {
        for token in [
            Token::Signals,
            Token::Listener,
            Token::Connection(u32::MAX),
            Token::Output(7, 1),
            Token::Oom(0),
            Token::Attacher(1, 1),
        ] {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }
}
