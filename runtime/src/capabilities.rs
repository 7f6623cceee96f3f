//! Capabilities (capabilities(7)).

use nix::errno::Errno;
use oci_spec::runtime::{Capabilities, LinuxCapabilities};

use crate::error::{Context, Failure};
use crate::sys;

/// The names by number, without `CAP_`.
pub(crate) const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The sets a process is to have, each a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CapabilitySets {
    bounding: u64,
    effective: u64,
    permitted: u64,
    inheritable: u64,
    ambient: u64,
}

impl CapabilitySets {
    /// What the spec asks for, as far as it is there to give, and warnings of what is not: the specification
    /// wants that warned about, not failed. No capabilities in the spec is no capabilities.
    pub(crate) fn plan(wanted: Option<&LinuxCapabilities>) -> (CapabilitySets, Vec<String>) {
        let Some(wanted) = wanted else { return (CapabilitySets::default(), Vec::new()) };
        let sets = CapabilitySets {
            bounding: bits(wanted.bounding().as_ref()),
            effective: bits(wanted.effective().as_ref()),
            permitted: bits(wanted.permitted().as_ref()),
            inheritable: bits(wanted.inheritable().as_ref()),
            ambient: bits(wanted.ambient().as_ref()),
        };
        let all = sets.bounding | sets.effective | sets.permitted | sets.inheritable | sets.ambient;
        let available = (0..NAMES.len() as u32)
            .filter(|number| all & 1 << number != 0 && sys::has_bounding(*number).unwrap_or(false))
            .fold(0, |available, number| available | 1_u64 << number);
        let given = sets.within(available);
        let names = |set: u64| {
            let list = NAMES.iter().enumerate().filter(|(number, _)| set & 1 << number != 0);
            list.map(|(_, name)| format!("CAP_{name}")).collect::<Vec<_>>().join(" ")
        };
        let mut warnings = Vec::new();
        if all & !available != 0 {
            let missing = names(all & !available);
            warnings.push(format!("capabilities that this host has not to give are left out: {missing}"));
        }
        if sets.ambient & available & !given.ambient != 0 {
            let lost = names(sets.ambient & available & !given.ambient);
            warnings.push(format!("ambient capabilities that are not permitted and inheritable are left out: {lost}"));
        }
        (given, warnings)
    }

    fn within(self, available: u64) -> CapabilitySets {
        let permitted = self.permitted & available;
        let inheritable = self.inheritable & available;
        CapabilitySets {
            bounding: self.bounding & available,
            effective: self.effective & permitted,
            permitted,
            inheritable,
            ambient: self.ambient & permitted & inheritable,
        }
    }

    /// Takes everything else out of the bounding set. Needs CAP_SETPCAP, so it comes before [`Self::apply`].
    pub(crate) fn drop_bounding(&self) -> Result<(), Failure> {
        // The kernel may know more than we do: go on until it knows no further.
        for number in (0..64).filter(|number| self.bounding & 1 << number == 0) {
            match sys::drop_bounding(number) {
                Err(Errno::EINVAL) => break,
                // Who may drop none may still have none to drop.
                Err(Errno::EPERM) if sys::has_bounding(number) == Ok(false) => (),
                dropped => dropped.at("drop capability", number)?,
            }
        }
        Ok(())
    }

    /// Sets all other sets.
    pub(crate) fn apply(&self) -> Result<(), Failure> {
        sys::clear_ambient().at("clear", "ambient capabilities")?;
        sys::set_capabilities(self.effective, self.permitted, self.inheritable).at("set", "capabilities")?;
        for number in (0..64).filter(|number| self.ambient & 1 << number != 0) {
            sys::raise_ambient(number).at("raise ambient capability", number)?;
        }
        Ok(())
    }
}

fn bits(capabilities: Option<&Capabilities>) -> u64 {
    let number = |name: String| NAMES.iter().position(|known| *known == name);
    let numbers = capabilities.into_iter().flatten().filter_map(|capability| number(capability.to_string()));
    numbers.fold(0, |all, number| all | 1 << number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets() {
        let wanted: LinuxCapabilities = serde_json::from_str(
            r#"{"bounding":["CAP_CHOWN","CAP_KILL"],"permitted":["CAP_CHOWN"],"effective":["CAP_CHOWN","CAP_KILL"],
                "inheritable":[],"ambient":["CAP_CHOWN"]}"#,
        )
        .expect("test data");
        assert_eq!(bits(wanted.bounding().as_ref()), 0b10_0001);
        let (sets, _) = CapabilitySets::plan(Some(&wanted));
        assert_eq!(sets.effective & !sets.permitted, 0, "effective is within permitted");
        assert_eq!(sets.ambient, 0, "ambient is within inheritable");
        assert_eq!(CapabilitySets::plan(None), (CapabilitySets::default(), Vec::new()));
    }

    #[test]
    fn within_what_there_is() {
        let all = CapabilitySets { bounding: 7, effective: 7, permitted: 7, inheritable: 7, ambient: 7 };
        let some = CapabilitySets { bounding: 5, effective: 5, permitted: 5, inheritable: 5, ambient: 5 };
        assert_eq!(all.within(5), some);
    }
}
