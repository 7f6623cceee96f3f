//! The default profile, out of its table in default.toml.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use nix::libc;
use oci_spec::runtime::{
    Arch, Capability, LinuxCapabilities, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};
use serde::Deserialize;

use crate::error::{Context, Error, Result};

/// The table, parsed once. It is part of the program, so that a mistake in it is found by the tests.
static TABLE: LazyLock<std::result::Result<Table, toml::de::Error>> =
    LazyLock::new(|| toml::from_str(include_str!("default.toml")));

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    always: Vec<String>,
    socket_families: Vec<u64>,
    personalities: Vec<u64>,
    clone_flags_refused: u64,
    architecture: BTreeMap<String, Vec<String>>,
    capability: BTreeMap<String, Vec<String>>,
}

/// The profile for a container with these capabilities.
pub(super) fn build(capabilities: &LinuxCapabilities) -> Result<LinuxSeccomp> {
    let table = TABLE.as_ref().map_err(|error| Error::internal(format!("the default seccomp profile: {error}")))?;
    table.profile(capabilities).step(|| "make the default seccomp profile".to_owned())
}

type Made<T> = std::result::Result<T, oci_spec::OciSpecError>;

impl Table {
    fn profile(&self, capabilities: &LinuxCapabilities) -> Made<LinuxSeccomp> {
        let has = |name: &str| {
            let bare = name.strip_prefix("CAP_").unwrap_or(name);
            bare.parse::<Capability>()
                .is_ok_and(|capability| capabilities.bounding().as_ref().is_some_and(|set| set.contains(&capability)))
        };
        let mut names = self.always.clone();
        names.extend(self.architecture.get(std::env::consts::ARCH).into_iter().flatten().cloned());
        for (_, more) in self.capability.iter().filter(|(capability, _)| has(capability)) {
            names.extend(more.iter().filter(|name| !names.contains(name)).cloned().collect::<Vec<_>>());
        }
        let mut rules = vec![allow(names, None)?];
        for &family in &self.socket_families {
            rules.push(allow(vec!["socket".to_owned()], Some(equals(family)?))?);
        }
        for &personality in &self.personalities {
            rules.push(allow(vec!["personality".to_owned()], Some(equals(personality)?))?);
        }
        if !has("CAP_SYS_ADMIN") {
            rules.push(allow(vec!["clone".to_owned()], Some(without(self.clone_flags_refused)?))?);
            rules.push(
                LinuxSyscallBuilder::default()
                    .names(vec!["clone3".to_owned()])
                    .action(LinuxSeccompAction::ScmpActErrno)
                    .errno_ret(libc::ENOSYS as u32)
                    .build()?,
            );
        }
        LinuxSeccompBuilder::default()
            .default_action(LinuxSeccompAction::ScmpActErrno)
            .default_errno_ret(libc::EPERM as u32)
            .architectures(architectures())
            .syscalls(rules)
            .build()
    }
}

fn architectures() -> Vec<Arch> {
    match std::env::consts::ARCH {
        "x86_64" => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
        "aarch64" => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        _ => vec![Arch::ScmpArchNative],
    }
}

fn allow(names: Vec<String>, arg: Option<LinuxSeccompArg>) -> Made<LinuxSyscall> {
    let builder = LinuxSyscallBuilder::default().names(names).action(LinuxSeccompAction::ScmpActAllow);
    match arg {
        Some(arg) => builder.args(vec![arg]).build(),
        None => builder.build(),
    }
}

/// The first argument is `value`.
fn equals(value: u64) -> Made<LinuxSeccompArg> {
    LinuxSeccompArgBuilder::default().index(0_usize).value(value).op(LinuxSeccompOperator::ScmpCmpEq).build()
}

/// The first argument has none of the bits of `mask`.
fn without(mask: u64) -> Made<LinuxSeccompArg> {
    LinuxSeccompArgBuilder::default()
        .index(0_usize)
        .value(mask)
        .value_two(0_u64)
        .op(LinuxSeccompOperator::ScmpCmpMaskedEq)
        .build()
}

#[cfg(test)]
mod tests {
    use super::build;
    use oci_spec::runtime::{Capability, LinuxCapabilities, LinuxSeccompAction};

    /// Whether a call is allowed whatever its arguments.
    fn allowed(name: &str, capabilities: &[Capability]) -> bool {
        let mut sets = LinuxCapabilities::default();
        sets.set_bounding(Some(capabilities.iter().copied().collect()));
        let profile = build(&sets).unwrap();
        profile.syscalls().iter().flatten().any(|rule| {
            rule.action() == LinuxSeccompAction::ScmpActAllow
                && rule.args().as_ref().is_none_or(Vec::is_empty)
                && rule.names().iter().any(|allowed| allowed == name)
        })
    }

    #[test]
    fn capabilities_open_their_calls() {
        for name in ["read", "execve", "openat2", "futex", "arch_prctl"] {
            assert!(allowed(name, &[]) || !cfg!(target_arch = "x86_64"), "{name}");
        }
        for name in
            ["mount", "bpf", "keyctl", "io_uring_setup", "kexec_load", "clone", "clone3", "socket", "userfaultfd"]
        {
            assert!(!allowed(name, &[]), "{name}");
        }
        assert!(allowed("mount", &[Capability::SysAdmin]) && allowed("clone3", &[Capability::SysAdmin]));
        assert!(allowed("chroot", &[Capability::SysChroot]) && !allowed("chroot", &[Capability::SysAdmin]));
        assert!(!allowed("keyctl", &[Capability::SysAdmin]));
    }

    #[test]
    fn vsock_and_the_kernels_crypto_are_not_among_the_sockets() {
        let profile = build(&LinuxCapabilities::default()).unwrap();
        let families: Vec<u64> = profile
            .syscalls()
            .iter()
            .flatten()
            .filter(|rule| rule.names().iter().any(|name| name == "socket"))
            .flat_map(|rule| {
                rule.args().iter().flatten().map(oci_spec::runtime::LinuxSeccompArg::value).collect::<Vec<_>>()
            })
            .collect();
        assert!(families.contains(&2) && families.contains(&10) && families.contains(&16));
        assert!(!families.contains(&38) && !families.contains(&40));
    }
}
