//! JSON. From outside it comes as bytes and may be hostile: what never ends, or is huge, must not take the host's
//! memory.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Context, Failure};

/// The largest document that is read, in bytes: far more than a process can get of arguments and environment
/// (6 MiB), and little enough to hold whatever it says.
pub const MAX_DOCUMENT: u64 = 16 << 20;

/// An object of these members. For each kind of iterator `collect` would bring a sort of its own, 5 KiB of program.
pub(crate) fn members(list: impl Iterator<Item = (String, Value)>) -> Map<String, Value> {
    let mut members = Map::new();
    members.extend(list);
    members
}

/// Reads a file of a bundle. One that is no regular file may block for ever, or act when it is opened.
pub(crate) fn read_regular(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut options = File::options();
    let opened = options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    read(opened.at("read", path.display())?, path, true)
}

/// Reads a file that the caller named, which may be a pipe.
pub(crate) fn read_any(path: &Path) -> Result<Vec<u8>, Failure> {
    read(File::open(path).at("read", path.display())?, path, false)
}

fn read(file: File, path: &Path, only_regular: bool) -> Result<Vec<u8>, Failure> {
    let refused = |why: &str| Failure::refused("read", path.display(), why);
    let too_large = || refused(&format!("it has more than {} MiB", MAX_DOCUMENT >> 20));
    let meta = file.metadata().at("read", path.display())?;
    if only_regular && !meta.is_file() {
        return Err(refused("it is not a regular file"));
    }
    // Room for all at once: what is not written to costs nothing, and doubling would.
    let length = if meta.is_file() { meta.len() } else { MAX_DOCUMENT };
    if length > MAX_DOCUMENT {
        return Err(too_large());
    }
    // The smallest read of the standard library more, so that it finds the end without another buffer.
    let mut bytes = Vec::with_capacity(length as usize + 32);
    file.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).at("read", path.display())?;
    if bytes.len() as u64 > MAX_DOCUMENT { Err(too_large()) } else { Ok(bytes) }
}
