//! Text that the kernel takes as C strings: with a NUL in it, it would be another one than was checked.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use oci_spec::runtime::{Linux, Mount, Process, Spec};

use crate::error::Error;

fn plain(field: &str, text: impl AsRef<OsStr>) -> Result<(), Error> {
    if text.as_ref().as_bytes().contains(&0) {
        return Err(Error::invalid(field, "it contains NUL"));
    }
    Ok(())
}

fn all<T: AsRef<OsStr>>(field: &str, texts: impl IntoIterator<Item = T>) -> Result<(), Error> {
    texts.into_iter().try_for_each(|text| plain(field, text))
}

/// Refuses NUL in names and paths of what is around the process.
pub(super) fn no_nul(spec: &Spec) -> Result<(), Error> {
    all("root.path", spec.root().as_ref().map(oci_spec::runtime::Root::path))?;
    all("hostname", spec.hostname())?;
    all("domainname", spec.domainname())?;
    spec.mounts().iter().flatten().try_for_each(in_mount)?;
    spec.linux().as_ref().map_or(Ok(()), in_linux)
}

/// The same for a process. Arguments and the environment are looked at when they are converted.
pub(super) fn in_process(process: &Process) -> Result<(), Error> {
    plain("process.cwd", process.cwd())?;
    all("process.apparmorProfile", process.apparmor_profile())?;
    all("process.selinuxLabel", process.selinux_label())
}

fn in_mount(mount: &Mount) -> Result<(), Error> {
    plain("mounts.destination", mount.destination())?;
    all("mounts.type", mount.typ())?;
    all("mounts.source", mount.source())?;
    all("mounts.options", mount.options().iter().flatten())
}

fn in_linux(linux: &Linux) -> Result<(), Error> {
    all("linux.cgroupsPath", linux.cgroups_path())?;
    all("linux.mountLabel", linux.mount_label())?;
    all("linux.maskedPaths", linux.masked_paths().iter().flatten())?;
    all("linux.readonlyPaths", linux.readonly_paths().iter().flatten())?;
    all("linux.sysctl", linux.sysctl().iter().flatten().flat_map(|(name, value)| [name, value]))?;
    all("linux.devices.path", linux.devices().iter().flatten().map(oci_spec::runtime::LinuxDevice::path))?;
    let paths = linux.namespaces().iter().flatten().filter_map(|namespace| namespace.path().as_ref());
    all("linux.namespaces.path", paths)
}
