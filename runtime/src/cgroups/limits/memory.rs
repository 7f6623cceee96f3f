//! The limits on memory and swap.

use oci_spec::runtime::LinuxMemory;

use super::{Present, Setting, or_max, setting};
use crate::error::Error;

fn given(value: Option<i64>) -> Option<i64> {
    value.filter(|value| *value != 0)
}

/// `kernel`, `kernelTCP` and `useHierarchy` are obsolete, and ignored as runc does.
pub(super) fn v1(memory: &LinuxMemory, settings: &mut Vec<Setting>) -> Result<(), Error> {
    let mut push = |field: &str, file: &str, value: Option<i64>| {
        if let Some(value) = given(value) {
            settings.push(setting("memory", format!("memory.{field}"), file, value));
        }
    };
    push("limit", "memory.limit_in_bytes", memory.limit());
    push("swap", "memory.memsw.limit_in_bytes", memory.swap());
    push("reservation", "memory.soft_limit_in_bytes", memory.reservation());
    // The highest number is -1 as a signed one: none given, as in runc.
    if let Some(swappiness) = memory.swappiness().filter(|swappiness| *swappiness != u64::MAX) {
        if swappiness > 100 {
            let reason = format!("{swappiness} is not from 0 to 100");
            return Err(Error::invalid("linux.resources.memory.swappiness", reason));
        }
        settings.push(setting("memory", "memory.swappiness", "memory.swappiness", swappiness));
    }
    if memory.disable_oom_killer() == Some(true) {
        settings.push(setting("memory", "memory.disableOOMKiller", "memory.oom_control", 1));
    }
    Ok(())
}

pub(super) fn v2(memory: &LinuxMemory, present: Present<'_>, settings: &mut Vec<Setting>) -> Result<(), Error> {
    if memory.disable_oom_killer() == Some(true) {
        return Err(Error::unsupported("linux.resources.memory.disableOOMKiller", "cgroup v2 has no such switch"));
    }
    if let Some(value) = swap(memory, present)? {
        // A host that does not count swap has no such file, and needs none for "all" and "nothing".
        let optional = ["max", "0"].contains(&value.as_str());
        settings.push(Setting { optional, ..setting("memory", "memory.swap", "memory.swap.max", value) });
    }
    if let Some(limit) = given(memory.limit()) {
        settings.push(setting("memory", "memory.limit", "memory.max", or_max(limit)));
    }
    if let Some(reservation) = given(memory.reservation()) {
        settings.push(setting("memory", "memory.reservation", "memory.low", or_max(reservation)));
    }
    Ok(())
}

/// The spec counts memory and swap together, version 2 swap alone. What is not given is what is set already.
fn swap(memory: &LinuxMemory, present: Present<'_>) -> Result<Option<String>, Error> {
    let bytes = |file: &str| match present(file).as_deref() {
        Some("max") => Some(-1),
        Some(number) => number.parse::<i64>().ok(),
        None => None,
    };
    let limit = given(memory.limit());
    match (given(memory.swap()), limit) {
        (None, None) => Ok(None),
        (Some(swap), _) if swap < 0 => Ok(Some("max".to_owned())),
        (None, Some(limit)) if limit < 0 => Ok(Some("max".to_owned())),
        (None, Some(limit)) => Ok(match (bytes("memory.max"), bytes("memory.swap.max")) {
            (Some(memory), Some(swap)) if memory >= 0 && swap >= 0 => {
                memory.checked_add(swap).filter(|both| *both >= limit).map(|both| (both - limit).to_string())
            }
            _ => None,
        }),
        (Some(swap), _) => match limit.or_else(|| bytes("memory.max").filter(|limit| *limit > 0)) {
            Some(limit) if limit < 0 => Ok(Some(swap.to_string())),
            Some(limit) if swap >= limit => Ok(Some((swap - limit).to_string())),
            _ => Err(Error::invalid(
                "linux.resources.memory.swap",
                "it is memory and swap together: give memory.limit too, and not more than swap",
            )),
        },
    }
}
