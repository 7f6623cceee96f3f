//! What this host can do, found out once at start.

use std::fs;
use std::path::Path;

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use oci_spec::runtime::{Capabilities, Capability};

use crate::error::{Context, Result};

/// CAP_SYS_RESOURCE (capabilities(7)).
const CAP_SYS_RESOURCE: u32 = 24;

/// Facts about the host and about what the daemon may do.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    /// Those that the daemon has and may hand on.
    pub(crate) capabilities: Capabilities,
    /// The one tree of cgroup v2; otherwise v1, or hybrid.
    pub(crate) cgroup2: bool,
    /// Swap of a cgroup can be limited.
    pub(crate) swap_accounting: bool,
    pub(crate) apparmor: bool,
    /// Below this the daemon cannot set a score.
    lowest_oom_score_adj: i32,
}

impl Host {
    /// Looks around. What the daemon lacks is said in the log, once.
    pub(crate) fn probe() -> Result<Host> {
        let status = fs::read_to_string("/proc/self/status").step(|| "read /proc/self/status".to_owned())?;
        let effective = status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
            .unwrap_or(0);
        let root = Path::new("/sys/fs/cgroup");
        let cgroup2 = statfs(root).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC);
        let swap_accounting = if cgroup2 {
            Path::new("/proc/swaps").exists()
        } else {
            root.join("memory/memory.memsw.limit_in_bytes").exists()
        };
        let may_lower = effective & (1 << CAP_SYS_RESOURCE) != 0;
        let present: i32 =
            fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        if !may_lower {
            tracing::warn!(
                lowest = present,
                "no CAP_SYS_RESOURCE: oom_score_adj of containers cannot be set below the daemon's own"
            );
        }
        Ok(Host {
            capabilities: capabilities(effective),
            cgroup2,
            swap_accounting,
            apparmor: fs::read_to_string("/sys/module/apparmor/parameters/enabled")
                .is_ok_and(|text| text.starts_with('Y')),
            lowest_oom_score_adj: if may_lower { -1000 } else { present },
        })
    }

    /// The wanted score, or the nearest that can be set.
    pub(crate) fn oom_score_adj(&self, wanted: i64) -> i32 {
        (wanted.clamp(-1000, 1000) as i32).max(self.lowest_oom_score_adj)
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> Host {
        Host {
            capabilities: capabilities((1 << NAMES.len()) - 1),
            cgroup2: false,
            swap_accounting: true,
            apparmor: false,
            lowest_oom_score_adj: 0,
        }
    }
}

/// By number (linux/capability.h).
const NAMES: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

fn capabilities(bits: u64) -> Capabilities {
    NAMES.iter().enumerate().filter(|(number, _)| bits & (1 << number) != 0).map(|(_, &name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::Host;

    #[test]
    fn a_score_is_clamped_to_what_can_be_set() {
        let host = Host::for_tests();
        assert_eq!(host.oom_score_adj(-997), 0);
        assert_eq!(host.oom_score_adj(2000), 1000);
        assert_eq!(host.oom_score_adj(3), 3);
    }
}
