//! Pseudo terminals (pty(7), ioctl_tty(2)).

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use super::{check, check_fd};

/// Lets the slave of a new master be opened.
pub(crate) fn unlock_terminal(master: impl AsFd) -> nix::Result<()> {
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    check(unsafe { libc::ioctl(master.as_fd().as_raw_fd(), libc::TIOCSPTLCK as _, &raw const unlock) }.into()).map(drop)
}

/// Opens the slave of a master, by no path that something could be mounted over.
pub(crate) fn open_terminal_peer(master: impl AsFd) -> nix::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags and makes a descriptor.
    check_fd(unsafe { libc::ioctl(master.as_fd().as_raw_fd(), libc::TIOCGPTPEER as _, flags) }.into())
}

/// Makes a terminal the controlling one of the caller's session.
pub(crate) fn set_controlling_terminal(terminal: impl AsFd) -> nix::Result<()> {
    // SAFETY: TIOCSCTTY takes a number.
    check(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSCTTY as _, 0) }.into()).map(drop)
}

/// Sets the size of a terminal in characters.
pub(crate) fn set_terminal_size(terminal: impl AsFd, columns: u16, rows: u16) -> nix::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize.
    check(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ as _, &raw const size) }.into()).map(drop)
}

/// The size of a terminal in characters: columns and rows.
pub(crate) fn terminal_size(terminal: impl AsFd) -> nix::Result<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ fills one winsize.
    check(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCGWINSZ as _, &raw mut size) }.into())?;
    Ok((size.ws_col, size.ws_row))
}
