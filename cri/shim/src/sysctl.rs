//! A pod's sysctls: only those that belong to its own namespaces.

use std::collections::BTreeMap;

use orlop_shim::protocol::{Failure, FailureKind, PodNamespaces};

use crate::failure::failure;
use crate::proc::Proc;

/// Sets them all in the namespaces of the calling process, which are the pod's; none if one is refused.
pub(crate) fn apply(proc: &Proc, sysctls: &BTreeMap<String, String>, own: PodNamespaces) -> Result<(), Failure> {
    let checked: Vec<(String, &str)> =
        sysctls.iter().map(|(name, value)| check(name, value, own)).collect::<Result<_, _>>()?;
    checked.iter().try_for_each(|(path, value)| proc.write(path, value))
}

/// The path below /proc for a sysctl that a pod may set.
fn check<'a>(name: &str, value: &'a str, own: PodNamespaces) -> Result<(String, &'a str), Failure> {
    let refuse = |why: &str| Err(failure(FailureKind::Invalid, format!("sysctl {name:?}: {why}")));
    let path = path(name);
    let parts: Vec<&str> = path.split('/').collect();
    if parts.iter().any(|part| part.is_empty() || *part == "." || *part == "..") {
        return refuse("not a valid name");
    }
    if value.contains(['\n', '\0']) {
        return refuse("its value has a line break or a NUL");
    }
    match parts[..] {
        ["net", ..] if own.net => {}
        ["net", ..] => return refuse("the pod uses the host's network namespace"),
        ["kernel", "sem"] | ["fs", "mqueue", _] if own.ipc => {}
        ["kernel", leaf] if own.ipc && (leaf.starts_with("shm") || leaf.starts_with("msg")) => {}
        _ => return refuse("not one of a namespace that the pod has of its own"),
    }
    Ok((format!("sys/{path}"), value))
}

/// As sysctl(8): the first separator met is the separator, and the other character stands for it in names
/// (`net.ipv4.conf.eth0/1.forwarding` is the interface `eth0.1`).
fn path(name: &str) -> String {
    match name.find(['.', '/']).map(|at| name.as_bytes()[at]) {
        Some(b'.') => {
            let swap = |character| match character {
                '.' => '/',
                '/' => '.',
                other => other,
            };
            name.chars().map(swap).collect()
        }
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: PodNamespaces = PodNamespaces { net: true, ipc: true, uts: true, pid: false };

    #[test]
    fn paths() {
        for (name, expected) in [
            ("net.ipv4.ip_forward", "sys/net/ipv4/ip_forward"),
            ("net/ipv4/conf/eth0.1/forwarding", "sys/net/ipv4/conf/eth0.1/forwarding"),
            ("net.ipv4.conf.eth0/1.forwarding", "sys/net/ipv4/conf/eth0.1/forwarding"),
            ("kernel.shm_rmid_forced", "sys/kernel/shm_rmid_forced"),
            ("kernel.sem", "sys/kernel/sem"),
            ("fs.mqueue.msg_max", "sys/fs/mqueue/msg_max"),
        ] {
            assert_eq!(check(name, "1", ALL).map(|(path, _)| path), Ok(expected.to_owned()), "{name}");
        }
    }

    #[test]
    fn refusals() {
        let none = PodNamespaces::default();
        for (name, value, own) in [
            ("net.ipv4.ip_forward", "1", none),
            ("kernel.sem", "1", none),
            ("kernel.core_pattern", "|/x", ALL),
            ("kernel.shmmax/../core_pattern", "1", ALL),
            ("net/../kernel/core_pattern", "1", ALL),
            ("net", "1", none),
            ("net..x", "1", ALL),
            ("", "1", ALL),
            ("/net/x", "1", ALL),
            ("net.ipv4.ip_forward", "1\n2", ALL),
            ("fs.mqueue.a.b", "1", ALL),
            ("vm.swappiness", "1", ALL),
        ] {
            assert_eq!(check(name, value, own).map_err(|error| error.kind), Err(FailureKind::Invalid), "{name}");
        }
    }
}
