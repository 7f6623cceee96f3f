//! Waiting for a process in the foreground: its signals, its terminal, its exit code.

use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, read, write};

use super::Failure;

/// The container's terminal, connected to ours; ours is raw meanwhile.
pub(super) struct Terminal {
    master: OwnedFd,
    before: Option<Termios>,
}

impl Terminal {
    pub(super) fn connect(master: OwnedFd) -> Result<Terminal, Failure> {
        let stdin = std::io::stdin();
        let before = stdin.is_terminal().then(|| tcgetattr(&stdin)).transpose()?;
        if let Some(before) = &before {
            let mut raw = before.clone();
            cfmakeraw(&mut raw);
            tcsetattr(&stdin, SetArg::TCSANOW, &raw)?;
        }
        let terminal = Terminal { master, before };
        terminal.resize();
        Ok(terminal)
    }

    /// Takes over the size of our own terminal.
    fn resize(&self) {
        if self.before.is_some() {
            orlop_runtime::copy_terminal_size(std::io::stdin(), &self.master);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, before);
        }
    }
}

/// Passes signals and terminal input on until the process ends; its exit code, or 128 and its signal. With
/// `orphans`, processes that become our children meanwhile are reaped.
pub(super) fn wait_for(
    pid: Pid,
    pidfd: &OwnedFd,
    terminal: Option<Terminal>,
    orphans: bool,
) -> Result<ExitCode, Failure> {
    let mut signals = SigSet::all();
    for kept in [Signal::SIGURG, Signal::SIGTTIN, Signal::SIGTTOU] {
        signals.remove(kept);
    }
    if !orphans {
        signals.remove(Signal::SIGCHLD);
    }
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), None)?;
    let inbox = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
    let mut input_open = terminal.is_some();
    let mut ended = false;
    loop {
        let watch = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = vec![watch(inbox.as_fd())];
        if !ended {
            fds.push(watch(pidfd.as_fd()));
        }
        let master_at = terminal.as_ref().map(|terminal| {
            fds.push(watch(terminal.master.as_fd()));
            fds.len() - 1
        });
        let input_at = input_open.then(|| {
            fds.push(watch(stdin.as_fd()));
            fds.len() - 1
        });
        // After the end only what the terminal still holds is of interest.
        let timeout = if ended { PollTimeout::ZERO } else { PollTimeout::NONE };
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => continue,
            result => result?,
        };
        let ready = |at: usize| fds[at].any().unwrap_or(false);
        let (master_ready, input_ready) = (master_at.is_some_and(ready), input_at.is_some_and(ready));
        let (signalled, process_ended) = (ready(0), !ended && ready(1));
        if signalled {
            while let Ok(Some(signal)) = inbox.read_signal() {
                match signal.ssi_signo as i32 {
                    libc::SIGCHLD => reap_others(pid),
                    number => pass_on(number, pid, terminal.as_ref()),
                }
            }
        }
        let mut drained = true;
        if let (true, Some(terminal)) = (master_ready, &terminal) {
            drained = !copy(&terminal.master, &stdout);
        }
        if let (true, Some(terminal)) = (input_ready, &terminal) {
            input_open = copy(&stdin, &terminal.master);
        }
        ended |= process_ended;
        if ended && drained && !process_ended {
            break;
        }
        if ended && terminal.is_none() {
            break;
        }
    }
    loop {
        return match waitpid(pid, None) {
            Err(Errno::EINTR) => continue,
            Ok(WaitStatus::Exited(_, code)) => Ok(ExitCode::from(code as u8)),
            Ok(WaitStatus::Signaled(_, signal, _)) => Ok(ExitCode::from(128 + signal as u8)),
            Ok(status) => Err(format!("unexpected end of process {pid}: {status:?}").into()),
            Err(errno) => Err(errno.into()),
        };
    }
}

/// Reaps processes of the container that lost their parent and became ours (`PR_SET_CHILD_SUBREAPER`).
fn reap_others(pid: Pid) {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    while let Ok(WaitStatus::Exited(ended, _) | WaitStatus::Signaled(ended, ..)) = waitid(Id::All, flags) {
        // Its own end is told by its pidfd.
        if ended == pid || waitpid(ended, None).is_err() {
            break;
        }
    }
}

fn pass_on(number: i32, pid: Pid, terminal: Option<&Terminal>) {
    match (Signal::try_from(number), terminal) {
        (Ok(Signal::SIGWINCH), Some(terminal)) => terminal.resize(),
        (Ok(signal), _) => {
            let _ = kill(pid, signal);
        }
        (Err(_), _) => (),
    }
}

/// Copies what there is to read; `false` when there will be no more.
fn copy(from: impl AsFd, to: impl AsFd) -> bool {
    let mut buffer = [0; 8192];
    match read(&from, &mut buffer) {
        Err(Errno::EINTR | Errno::EAGAIN) => true,
        // A master gives EIO when the last slave is closed.
        Err(_) | Ok(0) => false,
        Ok(length) => {
            let mut rest = &buffer[..length];
            while !rest.is_empty() {
                match write(&to, rest) {
                    Err(Errno::EINTR) => (),
                    Err(_) => return false,
                    Ok(written) => rest = &rest[written..],
                }
            }
            true
        }
    }
}
