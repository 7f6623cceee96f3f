//! One program: its input, its output, and its end.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

/// What is kept of each output: a result has some kilobytes.
const MOST_OUTPUT: usize = 1 << 20;

/// Runs the program with `input`, and reaps it. It has until `until`, then it is killed with all that it
/// started; without, who runs us looks after that.
///
/// Its end is what counts: something that it left running may keep the outputs open.
pub(crate) fn run_program(mut program: Command, input: &str, until: Option<Instant>) -> io::Result<Output> {
    if until.is_some() {
        program.process_group(0);
    }
    let mut child = program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let talked = Talk::begin(&mut child, input).and_then(|mut talk| {
        while !talk.is_over(until)? {}
        Ok((talk.stdout.kept, talk.stderr.kept))
    });
    if talked.is_err() {
        // Not reaped yet, so the number is still its own.
        let _ = match until {
            Some(_) => killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL).map_err(io::Error::from),
            None => child.kill(),
        };
    }
    let status = child.wait()?;
    talked.map(|(stdout, stderr)| Output { status, stdout, stderr })
}

/// What goes on with a program that runs.
struct Talk<'a> {
    input: &'a [u8],
    stdin: Option<std::process::ChildStdin>,
    stdout: Source<std::process::ChildStdout>,
    stderr: Source<std::process::ChildStderr>,
    /// Hangs up when it ended.
    end: OwnedFd,
}

impl<'a> Talk<'a> {
    fn begin(child: &mut Child, input: &'a str) -> io::Result<Talk<'a>> {
        let (end, open) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let pid = Pid::from_raw(child.id() as i32);
        std::thread::Builder::new().name("cni-plugin".to_owned()).spawn(move || {
            // It stays to be reaped: until then its number is no other's.
            while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
            drop(open);
        })?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        if let Some(stdin) = &stdin {
            set_nonblocking(stdin)?;
        }
        Ok(Talk { input: input.as_bytes(), stdin, stdout: Source::new(stdout)?, stderr: Source::new(stderr)?, end })
    }

    /// Waits for something to happen, and does it. When the program has ended, only what it has written by then
    /// is still read.
    fn is_over(&mut self, until: Option<Instant>) -> io::Result<bool> {
        let left = match until.map(|until| until.saturating_duration_since(Instant::now())) {
            None => PollTimeout::NONE,
            Some(left) if left.is_zero() => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "it is not done in time, and was killed"));
            }
            // Rounded up, or the last millisecond would be spent busily.
            Some(left) => {
                i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX).try_into().unwrap_or(PollTimeout::MAX)
            }
        };
        let mut fds = vec![PollFd::new(self.end.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.stdout.pipe.iter().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        fds.extend(self.stderr.pipe.iter().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        fds.extend(self.stdin.iter().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)));
        match poll(&mut fds, left) {
            Err(Errno::EINTR) | Ok(0) => return Ok(false),
            result => result?,
        };
        let has_ended = fds[0].any().unwrap_or(false);
        self.stdout.read()?;
        self.stderr.read()?;
        self.write();
        Ok(has_ended)
    }

    /// A plugin that does not read its input is judged by its answer.
    fn write(&mut self) {
        let Some(stdin) = &mut self.stdin else { return };
        match stdin.write(self.input) {
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return,
            Ok(length) if length < self.input.len() => return self.input = &self.input[length..],
            _ => (),
        }
        self.stdin = None;
    }
}

/// One of its outputs.
struct Source<T> {
    pipe: Option<T>,
    kept: Vec<u8>,
}

impl<T: Read + AsFd> Source<T> {
    fn new(pipe: Option<T>) -> io::Result<Source<T>> {
        pipe.iter().try_for_each(|pipe| set_nonblocking(pipe))?;
        Ok(Source { pipe, kept: Vec::new() })
    }

    /// Reads what there is, and drops what is too much: the program shall not wait for us.
    fn read(&mut self) -> io::Result<()> {
        let mut buffer = [0; 8192];
        for _ in 0..MOST_OUTPUT / buffer.len() {
            let Some(pipe) = &mut self.pipe else { return Ok(()) };
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(length) => {
                    let room = MOST_OUTPUT.saturating_sub(self.kept.len());
                    self.kept.extend_from_slice(&buffer[..length.min(room)]);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => (),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

fn set_nonblocking(pipe: &impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(pipe, FcntlArg::F_GETFL)?);
    fcntl(pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
