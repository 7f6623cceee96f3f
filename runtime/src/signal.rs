//! Signals by name and number, real-time ones too.

use std::fmt;
use std::str::FromStr;

/// A signal: its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Signal(i32);

impl Signal {
    /// No signal: the kernel only looks whether it could be sent (kill(2)).
    pub const NONE: Signal = Signal(0);
    /// SIGKILL.
    pub const KILL: Signal = Signal(libc::SIGKILL);
    /// SIGTERM.
    pub const TERM: Signal = Signal(libc::SIGTERM);
    /// The highest signal number of Linux (signal(7)).
    const MAX: i32 = 64;

    /// The signal of this number, 1 to 64.
    pub fn new(number: i32) -> Option<Signal> {
        (1..=Signal::MAX).contains(&number).then_some(Signal(number))
    }

    /// The signal's number.
    pub fn number(self) -> i32 {
        self.0
    }
}

/// Names without `SIG`, and numbers on x86_64, arm64 and riscv64 (signal(7)).
const NAMES: [(&str, i32); 37] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("IOT", libc::SIGIOT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", libc::SIGSTKFLT),
    ("CHLD", libc::SIGCHLD),
    ("CLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("POLL", libc::SIGPOLL),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
    ("UNUSED", libc::SIGSYS),
    // The libc keeps the first real-time signals to itself, so these are glibc's numbers.
    ("RTMIN", 34),
    ("RTMAX", 64),
];

/// The text names no signal.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown signal {0:?}: use a name such as TERM or SIGTERM, or a number from 1 to 64")]
pub struct ParseSignalError(String);

impl FromStr for Signal {
    type Err = ParseSignalError;

    /// Understands `15`, `TERM`, `sigterm`, `RTMIN+3` and `RTMAX-1`.
    fn from_str(text: &str) -> Result<Signal, ParseSignalError> {
        let unknown = || ParseSignalError(text.to_owned());
        if let Ok(number) = text.parse() {
            return Signal::new(number).ok_or_else(unknown);
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let (name, offset) = match name.find(['+', '-']) {
            Some(at) if name.starts_with("RTM") => {
                let offset: i32 = name[at..].parse().map_err(|_| unknown())?;
                (&name[..at], offset)
            }
            Some(_) => return Err(unknown()),
            None => (name, 0),
        };
        let number = NAMES.iter().find(|(known, _)| *known == name).ok_or_else(unknown)?.1 + offset;
        let lowest = if name.starts_with("RTM") { 34 } else { 1 };
        Signal::new(number).filter(|signal| signal.0 >= lowest).ok_or_else(unknown)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => write!(f, "SIG{name}"),
            None if self.0 < 34 => write!(f, "{}", self.0),
            None => write!(f, "SIGRTMIN+{}", self.0 - 34),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, number) in
            [("15", 15), ("TERM", 15), ("SIGTERM", 15), ("sigkill", 9), ("RTMIN+3", 37), ("SIGRTMAX-1", 63), ("64", 64)]
        {
            assert_eq!(text.parse(), Ok(Signal(number)), "{text}");
        }
        for text in ["", "0", "65", "-1", "SIG", "TERM+1", "RTMAX+1", "RTMIN-1", "NOPE", "1x"] {
            assert_eq!(text.parse::<Signal>(), Err(ParseSignalError(text.to_owned())), "{text}");
        }
    }
}
