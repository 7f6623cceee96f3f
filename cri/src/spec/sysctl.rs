//! The sysctls of a pod: only those that belong to namespaces of its own.

use std::collections::BTreeMap;

use orlop_proto::v1::{self, NamespaceMode};

use crate::error::{Error, Result};

/// The sysctls that the shim is to set. Checked so that no key or value can mean anything else
/// (CVE-2022-0811); ping and low ports are opened to every user of the pod unless the pod says otherwise.
pub(crate) fn pod_sysctls(
    linux: Option<&v1::LinuxPodSandboxConfig>,
    namespaces: &v1::NamespaceOption,
) -> Result<BTreeMap<String, String>> {
    let mut sysctls = BTreeMap::new();
    for (key, value) in linux.map(|linux| &linux.sysctls).into_iter().flatten() {
        let key = dotted(key)?;
        check_namespace(&key, namespaces)?;
        check_value(&key, value)?;
        sysctls.insert(key, value.clone());
    }
    if namespaces.network() != NamespaceMode::Node {
        for (key, value) in
            [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")]
        {
            sysctls.entry(key.to_owned()).or_insert_with(|| value.to_owned());
        }
    }
    Ok(sysctls)
}

/// `a/b/c` is another way to write `a.b.c`; with both, the first separator decides which one separates
/// (sysctl.d(5)). Only what is certain to name one file below /proc/sys passes.
fn dotted(key: &str) -> Result<String> {
    let invalid = |why: &str| Error::invalid(format!("sysctl {key:?}: {why}"));
    if !key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte)) {
        return Err(invalid("a name is made of letters, digits, '_', '-', '.' and '/'"));
    }
    let slashes = key.find('/').is_some_and(|slash| key.find('.').is_none_or(|dot| slash < dot));
    let dotted = if slashes {
        key.chars()
            .map(|c| match c {
                '/' => '.',
                '.' => '/',
                other => other,
            })
            .collect()
    } else {
        key.to_owned()
    };
    if dotted.split(['.', '/']).any(str::is_empty) {
        return Err(invalid("a part of the name is empty"));
    }
    Ok(dotted)
}

fn check_namespace(key: &str, namespaces: &v1::NamespaceOption) -> Result<()> {
    const IPC: [&str; 9] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.msg_next_id",
    ];
    let (what, mode) = if IPC.contains(&key) || key.starts_with("fs.mqueue.") {
        ("IPC", namespaces.ipc())
    } else if key.starts_with("net.") {
        ("network", namespaces.network())
    } else {
        return Err(Error::invalid(format!("sysctl {key:?} does not belong to a namespace of the pod")));
    };
    if mode == NamespaceMode::Node {
        return Err(Error::invalid(format!(
            "sysctl {key:?} would change the host: the pod shares its {what} namespace"
        )));
    }
    Ok(())
}

fn check_value(key: &str, value: &str) -> Result<()> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b" \t.,:;_-/".contains(&byte);
    if value.is_empty() || value.len() > 1024 || !value.bytes().all(fits) {
        return Err(Error::invalid(format!("the value of sysctl {key:?} is not a plain word or number")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::pod_sysctls;
    use orlop_proto::v1;

    fn check(key: &str, value: &str, options: &v1::NamespaceOption) -> bool {
        let linux =
            v1::LinuxPodSandboxConfig { sysctls: [(key.to_owned(), value.to_owned())].into(), ..Default::default() };
        pod_sysctls(Some(&linux), options).is_ok()
    }

    #[test]
    fn only_the_pods_own_pass() {
        let pod = v1::NamespaceOption::default();
        let mut host = v1::NamespaceOption::default();
        host.set_network(v1::NamespaceMode::Node);
        host.set_ipc(v1::NamespaceMode::Node);
        for (key, value) in [
            ("net.ipv4.tcp_rmem", "4096 87380 6291456"),
            ("net/ipv4/ip_forward", "1"),
            ("kernel.shmmax", "65536"),
            ("fs.mqueue.msg_max", "10"),
            ("net/ipv4/conf/eth0.100/forwarding", "1"),
        ] {
            assert!(check(key, value, &pod), "{key}");
            assert!(!check(key, value, &host), "{key} on the host");
        }
        for (key, value) in [
            ("kernel.core_pattern", "x"),
            ("vm.swappiness", "1"),
            ("kernel.shmmax", "1+kernel.core_pattern=|/x"),
            ("kernel.shmmax", "1\nkernel.core_pattern"),
            ("net.ipv4..x", "1"),
            ("net.ipv4/../../kernel/x", "1"),
            ("", "1"),
            ("net.ipv4.ip_forward", ""),
            ("net.ipv4.ip forward", "1"),
            ("kernel.shm_rmid_forcedx", "1"),
        ] {
            assert!(!check(key, value, &pod), "{key} {value:?}");
        }
    }

    #[test]
    fn low_ports_are_open_unless_the_pod_says_otherwise() {
        let pod = v1::NamespaceOption::default();
        let sysctls = pod_sysctls(None, &pod).unwrap();
        assert_eq!(sysctls["net.ipv4.ip_unprivileged_port_start"], "0");
        let linux = v1::LinuxPodSandboxConfig {
            sysctls: [("net.ipv4.ip_unprivileged_port_start".to_owned(), "1024".to_owned())].into(),
            ..Default::default()
        };
        assert_eq!(pod_sysctls(Some(&linux), &pod).unwrap()["net.ipv4.ip_unprivileged_port_start"], "1024");
        let mut host = v1::NamespaceOption::default();
        host.set_network(v1::NamespaceMode::Node);
        assert!(pod_sysctls(None, &host).unwrap().is_empty());
    }
}
