//! What the kernel can do.

use std::fs;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::attempt::{self, in_child};
use super::{Finding, netlink};

/// Something to try, and what its absence means.
struct Probe {
    name: &'static str,
    what: &'static str,
    attempt: fn() -> Result<(), Errno>,
    needed: bool,
    advice: &'static str,
}

const NEWER: &str = "use a newer kernel (5.15 or later)";

const PROBES: &[Probe] = &[
    Probe {
        name: "clone3",
        what: "starts processes in their cgroup",
        attempt: attempt::clone3,
        needed: true,
        advice: NEWER,
    },
    Probe { name: "pidfd", what: "holds on to processes", attempt: attempt::pidfd_open, needed: true, advice: NEWER },
    Probe {
        name: "openat2",
        what: "resolves paths inside a container",
        attempt: attempt::openat2,
        needed: false,
        advice: "slower path resolution is used instead; use kernel 5.6 or later",
    },
    Probe {
        name: "mount API",
        what: "fsopen, fsmount, mount_setattr",
        attempt: attempt::new_mount_api,
        needed: true,
        advice: "use kernel 5.12 or later, and run as root with CAP_SYS_ADMIN",
    },
    Probe {
        name: "overlayfs",
        what: "puts a writable layer on an image",
        attempt: overlay,
        needed: true,
        advice: "load the module: modprobe overlay",
    },
    Probe {
        name: "namespaces",
        what: "mount, pid, net, ipc, uts, cgroup",
        attempt: namespaces,
        needed: true,
        advice: "run as root, outside of a container or in a privileged one",
    },
    Probe {
        name: "user namespaces",
        what: "for pods with hostUsers: false",
        attempt: || unshare(CloneFlags::CLONE_NEWUSER),
        needed: false,
        advice: "such pods will be refused; raise the sysctl user.max_user_namespaces",
    },
    Probe {
        name: "seccomp",
        what: "loads filters",
        attempt: attempt::seccomp_filter,
        needed: true,
        advice: "use a kernel with CONFIG_SECCOMP_FILTER",
    },
    Probe {
        name: "veth",
        what: "connects pods",
        attempt: || in_own_network(|| netlink::make_link("veth")),
        needed: true,
        advice: "load the module: modprobe veth",
    },
    Probe {
        name: "bridge",
        what: "connects pods with each other",
        attempt: || in_own_network(|| netlink::make_link("bridge")),
        needed: true,
        advice: "load the module: modprobe bridge",
    },
    Probe {
        name: "nftables",
        what: "a table with a NAT chain",
        attempt: || in_own_network(netlink::make_nat_chain),
        needed: true,
        advice: "load the modules: modprobe -a nf_tables nft_chain_nat nft_masq",
    },
];

pub(super) fn findings() -> Vec<Finding> {
    let mut findings = vec![version()];
    findings.extend(PROBES.iter().map(|probe| finding(probe, in_child(probe.attempt))));
    findings
}

fn version() -> Finding {
    let read = |name| fs::read_to_string(Path::new("/proc/sys/kernel").join(name)).unwrap_or_default();
    Finding::ok("kernel", format!("{} {}", read("ostype").trim(), read("osrelease").trim()))
}

fn finding(probe: &Probe, result: Result<(), Errno>) -> Finding {
    match result {
        Ok(()) => Finding::ok(probe.name, probe.what),
        Err(errno) => {
            let detail = format!("{}: failed with {errno}", probe.what);
            if probe.needed {
                Finding::missing(probe.name, detail, probe.advice)
            } else {
                Finding::warn(probe.name, detail, probe.advice)
            }
        }
    }
}

fn namespaces() -> Result<(), Errno> {
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWCGROUP,
    )
}

fn in_own_network(work: fn() -> Result<(), Errno>) -> Result<(), Errno> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    work()
}

/// Mounts an overlay within a tmpfs that only this process sees, over a folder that is always there.
fn overlay() -> Result<(), Errno> {
    const NONE: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    let top = PathBuf::from("/proc/sys");
    mount(Some("probe"), &top, Some("tmpfs"), MsFlags::empty(), NONE)?;
    let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(|name| top.join(name));
    for folder in [&lower, &upper, &work, &merged] {
        fs::create_dir(folder).map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    }
    let options =
        format!("lowerdir={},upperdir={},workdir={},volatile", lower.display(), upper.display(), work.display());
    mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(options.as_str()))?;
    umount2(&merged, MntFlags::MNT_DETACH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_is_missing_and_what_is_not_is_a_warning() {
        let [mut probe, ..] = [Probe { name: "x", what: "y", attempt: || Ok(()), needed: true, advice: "z" }];
        assert_eq!(finding(&probe, Ok(())).level, super::super::Level::Ok);
        assert_eq!(finding(&probe, Err(Errno::ENOSYS)).level, super::super::Level::Missing);
        probe.needed = false;
        let warning = finding(&probe, Err(Errno::ENOSYS));
        assert_eq!(warning.level, super::super::Level::Warn);
        assert!(warning.detail.contains("ENOSYS"), "{}", warning.detail);
    }
}
