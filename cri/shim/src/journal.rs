//! The shim's own complaints: lines on stderr, which is `shim.log` in the pod's folder.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;

use crate::clock;

/// The file begins anew at this length, in bytes: a shim that complains for years fills no disk.
const LIMIT: u64 = 256 * 1024;

/// Writes one line. It is the last resort, so it cannot fail.
pub(crate) fn write(line: fmt::Arguments<'_>) {
    let Ok(stderr) = std::io::stderr().as_fd().try_clone_to_owned() else {
        return;
    };
    let mut file = File::from(stderr);
    let full = file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() > LIMIT);
    if full && file.set_len(0).is_err() {
        return;
    }
    let at = clock::stamp(clock::now());
    let text = format!("{} {line}\n", String::from_utf8_lossy(&at));
    // A full disk loses the complaint, not the pod.
    drop(file.write_all(text.as_bytes()));
}

/// Notes something in `shim.log`, as `format!` does.
macro_rules! note {
    ($($part:tt)*) => { $crate::journal::write(format_args!($($part)*)) };
}
pub(crate) use note;
