//! The limits on block devices.

use oci_spec::runtime::{LinuxBlockIo, LinuxThrottleDevice};

use super::{Present, Setting, setting};
use crate::error::Error;

/// A list of the spec, and its name there.
type Throttles<'a> = (&'static str, Option<&'a Vec<LinuxThrottleDevice>>);

fn throttles(io: &LinuxBlockIo) -> [Throttles<'_>; 4] {
    [
        ("throttleReadBpsDevice", io.throttle_read_bps_device().as_ref()),
        ("throttleWriteBpsDevice", io.throttle_write_bps_device().as_ref()),
        ("throttleReadIOPSDevice", io.throttle_read_iops_device().as_ref()),
        ("throttleWriteIOPSDevice", io.throttle_write_iops_device().as_ref()),
    ]
}

/// The numbers of a device as the kernel's files have them.
fn device(field: &str, major: i64, minor: i64) -> Result<String, Error> {
    if let (Ok(major), Ok(minor)) = (u32::try_from(major), u32::try_from(minor)) {
        return Ok(format!("{major}:{minor}"));
    }
    let reason = format!("{major}:{minor} are not the numbers of a device");
    Err(Error::invalid(format!("linux.resources.blockIO.{field}"), reason))
}

/// A weight from 10 to 1000; 0 is none given.
fn weight(field: &str, weight: Option<u16>) -> Result<Option<u16>, Error> {
    match weight {
        None | Some(0) => Ok(None),
        Some(weight @ 10..=1000) => Ok(Some(weight)),
        Some(odd) => {
            let reason = format!("{odd} is not from 10 to 1000");
            Err(Error::invalid(format!("linux.resources.blockIO.{field}"), reason))
        }
    }
}

/// The names of the weight files are those of the CFQ scheduler; [`super::super::v1`] knows what BFQ calls them.
pub(super) fn v1(io: &LinuxBlockIo, settings: &mut Vec<Setting>) -> Result<(), Error> {
    let mut push = |field: &str, file: &str, value: String| {
        settings.push(setting("blkio", format!("blockIO.{field}"), file, value));
    };
    if let Some(weight) = weight("weight", io.weight())? {
        push("weight", "blkio.weight", weight.to_string());
    }
    if let Some(weight) = weight("leafWeight", io.leaf_weight())? {
        push("leafWeight", "blkio.leaf_weight", weight.to_string());
    }
    for entry in io.weight_device().iter().flatten() {
        let device = device("weightDevice", entry.major(), entry.minor())?;
        if let Some(weight) = weight("weightDevice", entry.weight())? {
            push("weightDevice", "blkio.weight_device", format!("{device} {weight}"));
        }
        if let Some(weight) = weight("weightDevice", entry.leaf_weight())? {
            push("weightDevice", "blkio.leaf_weight_device", format!("{device} {weight}"));
        }
    }
    let files = ["read_bps_device", "write_bps_device", "read_iops_device", "write_iops_device"];
    for ((field, list), file) in throttles(io).into_iter().zip(files) {
        for entry in list.into_iter().flatten() {
            let value = format!("{} {}", device(field, entry.major(), entry.minor())?, entry.rate());
            push(field, &format!("blkio.throttle.{file}"), value);
        }
    }
    Ok(())
}

/// Version 1 weights (10 to 1000) on the line to those of version 2 (1 to 10000), as runc draws it.
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight) - 10) * 9999 / 990
}

pub(super) fn v2(io: &LinuxBlockIo, present: Present<'_>, settings: &mut Vec<Setting>) -> Result<(), Error> {
    let leaves = io.weight_device().iter().flatten().any(|entry| entry.leaf_weight().is_some_and(|weight| weight != 0));
    if leaves || io.leaf_weight().is_some_and(|weight| weight != 0) {
        let field = if leaves { "weightDevice.leafWeight" } else { "leafWeight" };
        return Err(Error::unsupported(format!("linux.resources.blockIO.{field}"), "cgroup v2 has no such weight"));
    }
    let mut push = |field: &str, file: &str, value: String| {
        settings.push(setting("io", format!("blockIO.{field}"), file, value));
    };
    let weighted = io.weight().is_some() || io.weight_device().is_some();
    // Where the BFQ scheduler is, its weights count and have the old range.
    let bfq = weighted && present("io.bfq.weight").is_some();
    let file = if bfq { "io.bfq.weight" } else { "io.weight" };
    let number = |weight: u16| if bfq { weight.into() } else { io_weight(weight) };
    if let Some(weight) = weight("weight", io.weight())? {
        push("weight", file, number(weight).to_string());
    }
    for entry in io.weight_device().iter().flatten() {
        let device = device("weightDevice", entry.major(), entry.minor())?;
        if let Some(weight) = weight("weightDevice", entry.weight())? {
            push("weightDevice", file, format!("{device} {}", number(weight)));
        }
    }
    for ((field, list), key) in throttles(io).into_iter().zip(["rbps", "wbps", "riops", "wiops"]) {
        for entry in list.into_iter().flatten() {
            // A rate of 0 lifts the limit in version 1.
            let rate = if entry.rate() == 0 { "max".to_owned() } else { entry.rate().to_string() };
            push(field, "io.max", format!("{} {key}={rate}", device(field, entry.major(), entry.minor())?));
        }
    }
    Ok(())
}
