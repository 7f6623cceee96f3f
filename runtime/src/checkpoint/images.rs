//! What has to be known of CRIU's files before CRIU reads them.

use std::path::Path;

use super::wire::{Fields, Value};
use crate::error::{Context, Failure};

/// The first four bytes of most files, before four that tell their kind (criu, criu/include/magic.h).
const MAGIC: [u8; 4] = 0x5456_4319_u32.to_le_bytes();

/// The controllers in whose hierarchies processes were in a group other than the root: `memory`, `name=systemd`, or
/// nothing for version 2. None when there is no file about them, for CRIU was to leave them alone.
pub(super) fn cgroups(images: &Path) -> Result<Vec<String>, Failure> {
    let path = images.join("cgroup.img");
    match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        result => Ok(joined(&result.at("read", path.display())?)),
    }
}

/// One entry, after its length: sets of groups (1), each with a member (2) for each hierarchy, its name (1) and path
/// (2) (criu, images/cgroup.proto).
fn joined(file: &[u8]) -> Vec<String> {
    let Some(entry) = file.strip_prefix(&MAGIC).and_then(|rest| rest.get(8..)) else { return Vec::new() };
    let nested = |message, wanted| {
        Fields(message).filter_map(move |(field, value)| match value {
            Value::Bytes(bytes) if field == wanted => Some(bytes),
            _ => None,
        })
    };
    let mut names = Vec::new();
    for member in nested(entry, 1).flat_map(|set| nested(set, 2)) {
        let member = Fields(member);
        let text = |field| String::from_utf8_lossy(member.bytes(field).unwrap_or_default()).into_owned();
        let (name, path) = (text(1), text(2));
        if path != "/" && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::super::wire::Message;
    use super::*;

    #[test]
    fn groups_that_are_not_the_root() {
        let mut set = Message::default();
        set.number(1, 2);
        for (name, path) in [("memory", "/a"), ("cpu", "/"), ("name=systemd", "/a/b"), ("", "/a")] {
            set.pair(2, name.as_bytes(), path.as_bytes());
        }
        let mut entry = Message::default();
        entry.bytes(1, set.as_bytes());
        entry.bytes(1, set.as_bytes());
        let file = [&MAGIC[..], b"kind", &(entry.as_bytes().len() as u32).to_le_bytes(), entry.as_bytes()].concat();
        assert_eq!(joined(&file), ["memory", "name=systemd", ""]);
        assert!(joined(&file[..20]).is_empty() && joined(b"").is_empty());
    }
}
