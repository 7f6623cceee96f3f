//! The most memory that a program ever had resident, itself and not what it executed or cloned.

use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// Runs a program to its end and returns its `VmHWM` (proc_pid_status(5)) in KiB. The times of the caller are no
/// measure of it: `ru_maxrss` (getrusage(2)) counts also what the process was before it executed the program.
pub(crate) fn of(command: Command) -> Result<f64> {
    // It waits for us in a shell, since a program that is executed by then could end before we look.
    let mut shell = Command::new("/bin/busybox");
    shell.args(["sh", "-c", "kill -STOP $$; exec \"$@\"", "sh"]).arg(command.get_program()).args(command.get_args());
    let null = || std::fs::File::options().read(true).write(true).open("/dev/null");
    let child = shell.stdin(null()?).stdout(null()?).stderr(null()?).spawn().context("start a shell")?;
    let pid = Pid::from_raw(child.id().cast_signed());
    ptrace::seize(pid, Options::PTRACE_O_TRACEEXIT).context("trace a program")?;
    let mut peak = None;
    loop {
        match waitpid(pid, None).context("wait for a program")? {
            WaitStatus::PtraceEvent(_, _, event) if event == Event::PTRACE_EVENT_EXIT as i32 => {
                peak = Some(resident(pid)?);
                ptrace::cont(pid, None)?;
            }
            WaitStatus::PtraceEvent(_, signal, _) => {
                // The stop that it asked for itself; the end of the stop is an event of its own.
                if signal == Signal::SIGSTOP {
                    kill(pid, Signal::SIGCONT)?;
                }
                ptrace::cont(pid, None)?;
            }
            WaitStatus::Stopped(_, signal) => ptrace::cont(pid, signal)?,
            WaitStatus::Exited(_, 0) => return peak.context("a program that was not seen to end"),
            status @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => bail!("{command:?} ended with {status:?}"),
            _ => (),
        }
    }
}

fn resident(pid: Pid) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM of a program")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
