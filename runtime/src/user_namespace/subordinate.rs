//! Mappings that only newuidmap(1) and newgidmap(1) may write for an ordinary user, and why they did not.

use std::io::ErrorKind;
use std::process::{Command, Output, Stdio};

use nix::unistd::Pid;
use oci_spec::runtime::LinuxIdMapping;

use super::Caller;
use crate::error::Failure;
use crate::identity::user_name;

/// Users or groups: what belongs to their mappings.
pub(super) struct Ids {
    /// The file of /proc/PID that holds the mapping.
    pub(super) map: &'static str,
    pub(super) field: &'static str,
    /// The caller's own id.
    pub(super) own: u32,
    tool: &'static str,
    /// Who has which ids beside their own (subuid(5)).
    ranges: &'static str,
    /// By whose name or number that file is looked into.
    user: u32,
}

impl Ids {
    pub(super) fn users(caller: Caller) -> Ids {
        let (map, field, tool, ranges) = ("uid_map", "linux.uidMappings", "newuidmap", "/etc/subuid");
        Ids { map, field, own: caller.uid, tool, ranges, user: caller.uid }
    }

    pub(super) fn groups(caller: Caller) -> Ids {
        let (map, field, tool, ranges) = ("gid_map", "linux.gidMappings", "newgidmap", "/etc/subgid");
        Ids { map, field, own: caller.gid, tool, ranges, user: caller.uid }
    }
}

/// Has the mapping written by the program for it, found in PATH.
pub(super) fn map(pid: Pid, mappings: &[LinuxIdMapping], ids: &Ids) -> Result<(), Failure> {
    let numbers = mappings.iter().flat_map(|map| [map.container_id(), map.host_id(), map.size()]);
    let numbers = numbers.map(|number| number.to_string());
    let refused = |why: String| Failure::refused(format!("map {} by", ids.field), ids.tool, why);
    match Command::new(ids.tool).arg(pid.to_string()).args(numbers).stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(refused(why(&output, mappings, ids))),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(refused(format!(
            "it is not found in PATH; install it (package uidmap, elsewhere shadow-utils or shadow-uidmap), or map your \
             own id only: {{\"containerID\": 0, \"hostID\": {}, \"size\": 1}}",
            ids.own
        ))),
        Err(error) => Err(refused(error.to_string())),
    }
}

/// What the program said, and what to do about it.
fn why(output: &Output, mappings: &[LinuxIdMapping], ids: &Ids) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    let said = match said.trim() {
        "" => output.status.to_string(),
        said => said.lines().collect::<Vec<_>>().join("; "),
    };
    let (ranges, user) = (ids.ranges, ids.user);
    let Some(name) = user_name(user) else {
        return format!("{said}; user {user} must have a line in /etc/passwd, and ranges in {ranges}");
    };
    let granted = granted(&std::fs::read_to_string(ranges).unwrap_or_default(), &name, user);
    match mappings.iter().enumerate().find(|(_, map)| !is_granted(map, ids.own, &granted)) {
        Some((at, map)) => {
            let (first, size) = (map.host_id(), map.size());
            let last = u64::from(first) + u64::from(size.max(1)) - 1;
            format!(
                "{said}; {}[{at}]: {ranges} has no range of {name} that holds {first} to {last}: add a line \
                 {name}:{first}:{size}, or map what is there",
                ids.field
            )
        }
        None => format!(
            "{said}; it must be set-user-ID root or have the file capability for it, and the caller must not have \
             no_new_privs set"
        ),
    }
}

/// The ranges of a user: first id and count.
fn granted(text: &str, name: &str, user: u32) -> Vec<(u64, u64)> {
    let range = |line: &str| {
        let mut fields = line.trim().split(':');
        let who = fields.next()?;
        let (first, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (who == name || who.parse() == Ok(user)).then_some((first, count))
    };
    text.lines().filter_map(range).collect()
}

/// Whether a mapping is the own id, or within ranges, which may lie next to each other.
fn is_granted(map: &LinuxIdMapping, own: u32, granted: &[(u64, u64)]) -> bool {
    if map.size() == 1 && map.host_id() == own {
        return true;
    }
    let (mut next, end) = (u64::from(map.host_id()), u64::from(map.host_id()) + u64::from(map.size()));
    while next < end {
        let holds = |(first, count): &&(u64, u64)| *first <= next && next < first.saturating_add(*count);
        match granted.iter().find(holds) {
            Some((first, count)) => next = first.saturating_add(*count),
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(host: u32, size: u32) -> LinuxIdMapping {
        serde_json::from_value(serde_json::json!({"containerID": 1, "hostID": host, "size": size})).expect("mapping")
    }

    #[test]
    fn ranges_of_a_user() {
        let text = "# comment\nann:100000:10\nbob:5:5\n1000:100010:10\nann:x:1\nann:7\n";
        assert_eq!(granted(text, "ann", 1000), [(100_000, 10), (100_010, 10)]);
        assert_eq!(granted(text, "eve", 7), []);
    }

    #[test]
    fn what_is_granted() {
        let granted = [(100_000, 10), (100_010, 10), (7, u64::MAX)];
        assert!(is_granted(&map(100_000, 20), 1000, &granted[..2]));
        assert!(!is_granted(&map(100_000, 21), 1000, &granted[..2]));
        assert!(!is_granted(&map(99_999, 2), 1000, &granted[..2]));
        assert!(is_granted(&map(1000, 1), 1000, &[]));
        assert!(!is_granted(&map(1000, 2), 1000, &[]));
        assert!(is_granted(&map(u32::MAX - 1, 1), 1000, &granted));
    }
}
