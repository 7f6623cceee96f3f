//! Waiting for a process in the foreground: its signals, its terminal, its exit code.

use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use super::Failure;
use super::relay::Relay;

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
        orlop_runtime::pass_output_raw(&terminal.master)?;
        fcntl(&terminal.master, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))?;
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
    let master = terminal.as_ref().map(|terminal| terminal.master.as_fd());
    let (mut input, mut output) = (Relay::new(master.is_some()), Relay::new(master.is_some()));
    let mut ended = false;
    while !(ended && output.is_done()) {
        let mut fds = vec![PollFd::new(inbox.as_fd(), PollFlags::POLLIN)];
        let ended_at = add(&mut fds, (!ended).then(|| PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)));
        let output_at = add(&mut fds, master.and_then(|master| output.interest(master, stdout.as_fd())));
        let living = master.filter(|_| !ended);
        let input_at = add(&mut fds, living.and_then(|master| input.interest(stdin.as_fd(), master)));
        // After the end only what the terminal still holds is of interest.
        let timeout = if ended && output.has_nothing() { PollTimeout::ZERO } else { PollTimeout::NONE };
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => continue,
            result => result?,
        };
        let ready = |at: Option<usize>| at.is_some_and(|at| fds[at].any().unwrap_or(false));
        let (signalled, ends) = (ready(Some(0)), ready(ended_at));
        let (output_ready, input_ready) = (ready(output_at), ready(input_at));
        while let Some(signal) = signalled.then(|| inbox.read_signal().ok().flatten()).flatten() {
            match signal.ssi_signo as i32 {
                libc::SIGCHLD => reap_others(pid),
                // Only we are left to be ended.
                libc::SIGTERM | libc::SIGINT | libc::SIGHUP if ended => output = Relay::new(false),
                number => pass_on(number, pid, terminal.as_ref()),
            }
        }
        if let Some(master) = master {
            match output_ready {
                true => output.advance(master, &stdout),
                false if ended && output.has_nothing() => output = Relay::new(false),
                false => (),
            }
            if input_ready {
                input.advance(&stdin, master);
            }
        }
        ended |= ends;
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

/// Adds what is waited for; its place.
fn add<'fd>(fds: &mut Vec<PollFd<'fd>>, interest: Option<PollFd<'fd>>) -> Option<usize> {
    let place = fds.len();
    fds.extend(interest);
    (fds.len() > place).then_some(place)
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
