//! A container's output: read, written to its log, copied to who is attached.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::unistd::{read, write};

use crate::clock;
use crate::lines::{Batch, LINE_LIMIT, Source};
use crate::log_file::LogFile;
use crate::poller::{Poller, Token, Watched};
use crate::scratch::{READ, Scratch};

/// The reading end of one output, and the beginning of a line whose end has not come yet.
#[derive(Debug)]
struct Output {
    fd: Watched,
    carry: Vec<u8>,
}

/// Who gets a copy of the output.
#[derive(Debug)]
struct Attacher {
    serial: u32,
    /// For stdout and stderr.
    fds: [Option<Watched>; 2],
}

/// What a read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Got {
    Some,
    NothingYet,
    End,
}

/// Stdout (0) and stderr (1) of a container.
#[derive(Debug, Default)]
pub(crate) struct Outputs {
    streams: [Option<Output>; 2],
    attachers: Vec<Attacher>,
    log: Option<LogFile>,
}

impl Outputs {
    pub(crate) fn new(log: Option<LogFile>) -> Outputs {
        Outputs { log, ..Outputs::default() }
    }

    /// Begins to read an output of the container of this serial.
    pub(crate) fn open(&mut self, poller: &Poller, serial: u32, part: u8, fd: OwnedFd) -> nix::Result<()> {
        let fd = poller.watch(fd, Token::Output(serial, part), EpollFlags::EPOLLIN)?;
        // Not touched, hence no memory, until a line comes in pieces.
        let carry = Vec::with_capacity(if self.log.is_some() { LINE_LIMIT } else { 0 });
        self.streams[usize::from(part)] = Some(Output { fd, carry });
        Ok(())
    }

    /// All has been read.
    pub(crate) fn is_finished(&self) -> bool {
        self.streams.iter().all(Option::is_none)
    }

    /// Relays what one read brings; the next wait tells when there is more, so that outputs take turns.
    pub(crate) fn relay(&mut self, part: u8, scratch: &mut Scratch) {
        self.relay_once(part, scratch);
    }

    /// Relays what lies in the pipes now. `limit` reads at most: a process that goes on writing must not
    /// hold up the pod.
    pub(crate) fn drain(&mut self, limit: usize, scratch: &mut Scratch) {
        for part in [0, 1] {
            let more = |got: &Got| *got == Got::Some;
            (0..limit).map(|_| self.relay_once(part, scratch)).take_while(more).for_each(drop);
        }
    }

    pub(crate) fn reopen_log(&mut self) -> std::io::Result<()> {
        self.log.as_mut().map_or(Ok(()), LogFile::reopen)
    }

    /// Copies the output from now on to `fds`, for stdout and stderr.
    pub(crate) fn attach(&mut self, poller: &Poller, serial: u32, fds: [Option<OwnedFd>; 2]) -> nix::Result<()> {
        let mut attacher = Attacher { serial, fds: [None, None] };
        for (part, fd) in fds.into_iter().enumerate() {
            // Only what has an output to copy stays open: at the end the other side reads end-of-file.
            let Some(fd) = fd.filter(|_| self.streams[part].is_some()) else { continue };
            // The kernel tells EPOLLERR, which needs no asking for, when nobody reads any more.
            let watched = poller.watch(fd, Token::Attacher(serial, part as u8), EpollFlags::empty())?;
            attacher.fds[part] = Some(watched);
        }
        self.attachers.push(attacher);
        self.drop_finished();
        Ok(())
    }

    /// The other side of an attached descriptor has gone; whether that was one of this container's.
    pub(crate) fn detach(&mut self, serial: u32, part: u8) -> bool {
        let found = self.attachers.iter_mut().find(|attacher| attacher.serial == serial);
        let found = found.map(|attacher| attacher.fds[usize::from(part)] = None).is_some();
        self.drop_finished();
        found
    }

    fn relay_once(&mut self, part: u8, scratch: &mut Scratch) -> Got {
        let index = usize::from(part);
        let Some(output) = &mut self.streams[index] else { return Got::End };
        let (input, buffer) = scratch.buffers();
        let carried = output.carry.len();
        let count = match read(&output.fd, &mut input[carried..carried + READ]) {
            Ok(count) => count,
            Err(Errno::EAGAIN | Errno::EINTR) => return Got::NothingYet,
            // EIO is how a terminal's master tells that nobody has the terminal open any more.
            Err(_) => 0,
        };
        let source = if part == 0 { Source::Stdout } else { Source::Stderr };
        if count > 0 {
            copy_to(&mut self.attachers, index, &input[carried..carried + count]);
            self.drop_finished();
        }
        let Some(log) = &mut self.log else { return self.close_at_end(index, count) };
        let Some(output) = &mut self.streams[index] else { return Got::End };
        let stamp = clock::stamp(clock::now());
        let mut batch = Batch::new(&stamp, source, buffer, |lines| log.append(lines));
        input[..carried].copy_from_slice(&output.carry);
        let data = &input[..carried + count];
        let done = batch.whole_lines(data);
        if count == 0 {
            batch.last_line(&data[done..]);
        }
        batch.flush();
        output.carry.clear();
        output.carry.extend_from_slice(&data[done..]);
        self.close_at_end(index, count)
    }

    fn close_at_end(&mut self, index: usize, count: usize) -> Got {
        if count > 0 {
            return Got::Some;
        }
        self.streams[index] = None;
        for attacher in &mut self.attachers {
            attacher.fds[index] = None;
        }
        self.drop_finished();
        Got::End
    }

    fn drop_finished(&mut self) {
        self.attachers.retain(|attacher| attacher.fds.iter().any(Option::is_some));
    }
}

/// Copies without ever waiting. The pipe is the buffer; who lets it run full is let go of, as there is no
/// way to leave out a part of the stream that the reader would notice.
fn copy_to(attachers: &mut [Attacher], index: usize, data: &[u8]) {
    for attacher in attachers {
        let Some(fd) = &attacher.fds[index] else { continue };
        let mut rest = data;
        while !rest.is_empty() {
            match write(fd.as_fd(), rest) {
                Ok(written) => rest = &rest[written..],
                Err(Errno::EINTR) => {}
                Err(_) => {
                    attacher.fds = [None, None];
                    break;
                }
            }
        }
    }
}
