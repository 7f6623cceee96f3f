//! When and where a process runs, and where its memory is: `process.scheduler`, `process.execCPUAffinity` and
//! `linux.memoryPolicy`, checked and in the kernel's terms.

use oci_spec::runtime::{
    ExecCPUAffinity, LinuxMemoryPolicy, LinuxSchedulerFlag, LinuxSchedulerPolicy, MemoryPolicyFlagType,
    MemoryPolicyModeType, Scheduler,
};

use crate::error::{Context, Error, Failure};
use crate::sys::{self, SchedAttr};

/// The most CPUs and memory nodes that a kernel can be built for.
const MAX_CPUS: usize = 8192;
const MAX_NODES: usize = 1024;

/// Understands `process.scheduler` (sched(7)).
pub(crate) fn scheduler(scheduler: &Scheduler) -> Result<SchedAttr, Error> {
    use LinuxSchedulerPolicy as Policy;
    let policy = *scheduler.policy();
    let nice = scheduler.nice().unwrap_or(0);
    if matches!(policy, Policy::SchedOther | Policy::SchedBatch) && !(-20..=19).contains(&nice) {
        return Err(Error::invalid("process.scheduler.nice", format!("{nice} is not between -20 and 19")));
    }
    let priority = scheduler.priority().unwrap_or(0);
    if priority != 0 && !matches!(policy, Policy::SchedFifo | Policy::SchedRr) {
        return Err(Error::invalid(
            "process.scheduler.priority",
            format!("{policy} has none, SCHED_FIFO and SCHED_RR have"),
        ));
    }
    let priority = u32::try_from(priority)
        .map_err(|_| Error::invalid("process.scheduler.priority", format!("{priority} is negative")))?;
    let time = |field: &str, value: &Option<u64>| match value.unwrap_or(0) {
        0 => Ok(0),
        value if policy == Policy::SchedDeadline => Ok(value),
        _ => {
            Err(Error::invalid(format!("process.scheduler.{field}"), format!("{policy} has none, SCHED_DEADLINE has")))
        }
    };
    let flag = |flag: &LinuxSchedulerFlag| match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    };
    Ok(SchedAttr {
        policy: match policy {
            Policy::SchedOther => 0,
            Policy::SchedFifo => 1,
            Policy::SchedRr => 2,
            Policy::SchedBatch => 3,
            Policy::SchedIso => 4,
            Policy::SchedIdle => 5,
            Policy::SchedDeadline => 6,
        },
        flags: scheduler.flags().iter().flatten().fold(0, |all, one| all | flag(one)),
        nice,
        priority,
        runtime: time("runtime", scheduler.runtime())?,
        deadline: time("deadline", scheduler.deadline())?,
        period: time("period", scheduler.period())?,
        ..SchedAttr::default()
    })
}

/// A set of CPUs, a bit for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cpus(Vec<u64>);

impl Cpus {
    /// Lets the calling thread run on these CPUs only.
    pub(crate) fn apply(&self) -> Result<(), Failure> {
        sys::set_affinity(&self.0).at("set", "CPU affinity (process.execCPUAffinity)")
    }

    /// Puts the calling thread onto these CPUs, and with it the children that it makes, until the guard goes.
    pub(crate) fn lend(&self) -> Result<CpuGuard, Failure> {
        let guard = CpuGuard(Cpus(sys::affinity(MAX_CPUS / 64).at("get", "CPU affinity")?));
        self.apply()?;
        Ok(guard)
    }
}

/// Puts the calling thread back onto the CPUs that it had.
#[derive(Debug)]
pub(crate) struct CpuGuard(Cpus);

impl Drop for CpuGuard {
    fn drop(&mut self) {
        // The mask is the kernel's own. All that can keep it from being taken again is a cpuset that changed.
        let _ = self.0.apply();
    }
}

/// Lets the calling thread run on all CPUs of its cgroup, whichever its caller was bound to: a node's daemon may be kept
/// to a few, its containers are not for that. As runc since 1.3, which leaves it, too, where it cannot be done.
pub(crate) fn leave_callers_cpus() {
    let _ = sys::set_affinity(&[u64::MAX; MAX_CPUS / u64::BITS as usize]);
}

/// The CPUs of a process of `exec` before and after it enters the container's cgroup.
#[derive(Clone, Debug, Default)]
pub(crate) struct ExecCpus {
    pub(crate) initial: Option<Cpus>,
    pub(crate) last: Option<Cpus>,
}

/// Understands `process.execCPUAffinity`.
pub(crate) fn exec_cpus(affinity: Option<&ExecCPUAffinity>) -> Result<ExecCpus, Error> {
    let Some(affinity) = affinity else { return Ok(ExecCpus::default()) };
    let cpus = |name: &str, list: &Option<String>| -> Result<Option<Cpus>, Error> {
        let list = list.as_deref().filter(|list| !list.is_empty());
        list.map(|list| numbers(&format!("process.execCPUAffinity.{name}"), list, MAX_CPUS).map(Cpus)).transpose()
    };
    Ok(ExecCpus { initial: cpus("initial", affinity.initial())?, last: cpus("final", affinity.cpu_affinity_final())? })
}

/// Where a process gets its memory from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemoryPolicy {
    mode: u32,
    nodes: Vec<u64>,
}

impl MemoryPolicy {
    /// Understands `linux.memoryPolicy`.
    pub(crate) fn plan(policy: &LinuxMemoryPolicy) -> Result<MemoryPolicy, Error> {
        let mode = match policy.mode() {
            MemoryPolicyModeType::MpolDefault => 0,
            MemoryPolicyModeType::MpolPreferred => 1,
            MemoryPolicyModeType::MpolBind => 2,
            MemoryPolicyModeType::MpolInterleave => 3,
            MemoryPolicyModeType::MpolLocal => 4,
            MemoryPolicyModeType::MpolPreferredMany => 5,
            MemoryPolicyModeType::MpolWeightedInterleave => 6,
        };
        let flag = |flag: &MemoryPolicyFlagType| match flag {
            MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
            MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
            MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
        };
        let nodes = match policy.nodes().as_deref().map(str::trim) {
            None | Some("") => Vec::new(),
            Some(list) => numbers("linux.memoryPolicy.nodes", list, MAX_NODES)?,
        };
        let mode = policy.flags().iter().flatten().fold(mode, |all, one| all | flag(one));
        Ok(MemoryPolicy { mode, nodes })
    }

    /// Sets it for the calling thread and what it will execute.
    pub(crate) fn apply(&self) -> Result<(), Failure> {
        sys::set_memory_policy(self.mode, &self.nodes).at("set", "linux.memoryPolicy")
    }
}

/// The numbers of a list like `0-3,7` as bits.
fn numbers(field: &str, list: &str, limit: usize) -> Result<Vec<u64>, Error> {
    let invalid =
        |what: &str| Error::invalid(field, format!("{what:?} is not a number below {limit} or a range of them"));
    let mut bits = vec![0_u64; limit / 64];
    for range in list.split(',').map(str::trim) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |text: &str| text.parse::<usize>().ok().filter(|number| *number < limit);
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => {
                (first..=last).for_each(|number| bits[number / 64] |= 1 << (number % 64));
            }
            _ => return Err(invalid(range)),
        }
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let bits = numbers("cpus", "0-2, 65", 128).expect("list");
        assert_eq!(bits, [0b111, 0b10]);
        for list in ["", "a", "3-1", "128", "1,,2", "-1", "0-"] {
            assert!(numbers("cpus", list, 128).is_err(), "{list:?}");
        }
    }

    #[test]
    fn schedulers() {
        let read = |json: &str| scheduler(&serde_json::from_str(json).expect("json"));
        let attr = read(r#"{"policy":"SCHED_FIFO","priority":3,"flags":["SCHED_FLAG_KEEP_PARAMS"]}"#).expect("fifo");
        assert_eq!((attr.policy, attr.priority, attr.flags), (1, 3, 0x10));
        for wrong in [
            r#"{"policy":"SCHED_OTHER","nice":20}"#,
            r#"{"policy":"SCHED_OTHER","priority":1}"#,
            r#"{"policy":"SCHED_RR","priority":-1}"#,
            r#"{"policy":"SCHED_BATCH","runtime":5}"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
