//! Limits: from the protocol's message to the OCI spec.

use std::path::Path;

use oci_spec::runtime::{
    LinuxCpu, LinuxDeviceCgroup, LinuxHugepageLimit, LinuxHugepageLimitBuilder, LinuxMemory, LinuxResources,
};
use orlop_proto::v1;

use super::Inputs;
use crate::error::{Context, Error, Result};
use crate::host::Host;

pub(super) fn of(inputs: &Inputs<'_>, devices: Vec<LinuxDeviceCgroup>) -> Result<LinuxResources> {
    let asked = inputs.config.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    let mut resources = match asked {
        Some(asked) => linux_resources(asked, inputs.host)?,
        None => LinuxResources::default(),
    };
    resources.set_devices(Some(devices));
    Ok(resources)
}

/// The limits that are set in `asked`; those that are not stay out, so that their cgroup files are not touched.
pub(crate) fn linux_resources(asked: &v1::LinuxContainerResources, host: &Host) -> Result<LinuxResources> {
    let mut resources = LinuxResources::default();
    resources.set_cpu(cpu(asked)?);
    resources.set_memory(memory(asked, host));
    let hugepages = hugepages(asked)?;
    resources.set_hugepage_limits((!hugepages.is_empty()).then_some(hugepages));
    if !asked.unified.is_empty() && host.cgroup2 {
        resources.set_unified(Some(asked.unified.iter().map(|(key, value)| (key.clone(), value.clone())).collect()));
    }
    Ok(resources)
}

fn cpu(asked: &v1::LinuxContainerResources) -> Result<Option<LinuxCpu>> {
    if asked.cpu_shares < 0 || asked.cpu_period < 0 {
        return Err(Error::invalid("cpu_shares and cpu_period must not be negative"));
    }
    let mut cpu = LinuxCpu::default();
    let positive = |value: i64| (value != 0).then_some(value as u64);
    cpu.set_shares(positive(asked.cpu_shares));
    cpu.set_period(positive(asked.cpu_period));
    cpu.set_quota((asked.cpu_quota != 0).then_some(asked.cpu_quota));
    let text = |value: &String| (!value.is_empty()).then(|| value.clone());
    cpu.set_cpus(text(&asked.cpuset_cpus));
    cpu.set_mems(text(&asked.cpuset_mems));
    Ok((cpu != LinuxCpu::default()).then_some(cpu))
}

/// Without a swap limit of its own a container with a memory limit gets no swap, as in containerd.
fn memory(asked: &v1::LinuxContainerResources, host: &Host) -> Option<LinuxMemory> {
    let mut memory = LinuxMemory::default();
    let limit = (asked.memory_limit_in_bytes != 0).then_some(asked.memory_limit_in_bytes);
    let swap = (asked.memory_swap_limit_in_bytes != 0).then_some(asked.memory_swap_limit_in_bytes);
    memory.set_limit(limit);
    if host.swap_accounting {
        memory.set_swap(swap.or(limit));
    }
    (memory != LinuxMemory::default()).then_some(memory)
}

/// The kubelet names every page size of the node, with 0 for those a container must not use. Where the node has
/// no pages of the size to give, 0 is what holds anyway, and no cgroup is made for it.
fn hugepages(asked: &v1::LinuxContainerResources) -> Result<Vec<LinuxHugepageLimit>> {
    asked
        .hugepage_limits
        .iter()
        .filter(|limit| limit.limit != 0 || node_has_pages(&limit.page_size))
        .map(|limit| {
            LinuxHugepageLimitBuilder::default()
                .page_size(limit.page_size.clone())
                .limit(i64::try_from(limit.limit).unwrap_or(i64::MAX))
                .build()
                .step(|| "make the OCI spec: hugepage limit".to_owned())
        })
        .collect()
}

fn node_has_pages(size: &str) -> bool {
    let Some(kib) = page_size_in_kib(size) else { return false };
    let folder = Path::new("/sys/kernel/mm/hugepages").join(format!("hugepages-{kib}kB"));
    ["nr_hugepages", "nr_overcommit_hugepages"]
        .iter()
        .any(|file| std::fs::read_to_string(folder.join(file)).is_ok_and(|count| count.trim() != "0"))
}

/// `2MB`, `1GB`, `64KB`.
fn page_size_in_kib(size: &str) -> Option<u64> {
    let digits = size.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: u64 = digits.parse().ok()?;
    let factor = match &size[digits.len()..] {
        "KB" => 1,
        "MB" => 1 << 10,
        "GB" => 1 << 20,
        _ => return None,
    };
    number.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::{linux_resources, page_size_in_kib};
    use crate::host::Host;
    use orlop_proto::v1;

    #[test]
    fn what_is_not_asked_is_not_touched() {
        let none = linux_resources(&v1::LinuxContainerResources::default(), &Host::for_tests()).unwrap();
        assert!(none.cpu().is_none() && none.memory().is_none() && none.hugepage_limits().is_none());
        let asked = v1::LinuxContainerResources {
            cpu_shares: 2,
            memory_limit_in_bytes: 1 << 20,
            cpu_quota: -1,
            ..Default::default()
        };
        let some = linux_resources(&asked, &Host::for_tests()).unwrap();
        let cpu = some.cpu().as_ref().unwrap();
        assert_eq!((cpu.shares(), cpu.quota(), cpu.period()), (Some(2), Some(-1), None));
        assert_eq!(some.memory().as_ref().unwrap().swap(), Some(1 << 20));
        assert!(linux_resources(&v1::LinuxContainerResources { cpu_period: -1, ..asked }, &Host::for_tests()).is_err());
    }

    #[test]
    fn page_sizes_are_read() {
        assert_eq!(page_size_in_kib("2MB"), Some(2048));
        assert_eq!(page_size_in_kib("1GB"), Some(1 << 20));
        assert_eq!(page_size_in_kib("2"), None);
        assert_eq!(page_size_in_kib("xMB"), None);
    }
}
