//! Entrances for the targets in fuzz/: all that is done with bytes from outside before the kernel is asked for
//! anything. Only in builds with `--cfg fuzzing`.

use std::path::Path;

use oci_spec::runtime::{LinuxResources, LinuxSeccomp, Process, Spec};

use crate::cgroups::{self, Place};
use crate::config;
use crate::devices;
use crate::mounts::{self, PlannedMount};
use crate::options::Stdio;
use crate::process::{ProcessPlan, ProcessRequest};
use crate::seccomp::Filter;
use crate::validate;

/// config.json as `create` takes it.
pub fn config(bytes: &[u8]) {
    let Ok((spec, _)) = config::parse_spec(bytes, Path::new("config.json")) else { return };
    if validate::check(&spec).is_ok() {
        plan(&spec);
    }
}

fn plan(spec: &Spec) {
    let Some(linux) = spec.linux() else { return };
    let _ = Place::new(linux.cgroups_path().as_deref(), "fuzz");
    if let Some(resources) = linux.resources() {
        cgroups::understand(resources);
    }
    for mount in spec.mounts().iter().flatten() {
        let _ = PlannedMount::new(mount, Path::new("/bundle"), None, linux);
    }
    let _ = devices::plan(linux.devices().as_deref().unwrap_or_default());
    let _ = linux.rootfs_propagation().as_deref().map(mounts::rootfs_propagation);
    if let Some(process) = spec.process() {
        plan_process(process, Some(spec));
    }
}

fn plan_process(process: &Process, spec: Option<&Spec>) {
    let linux = spec.and_then(|spec| spec.linux().as_ref());
    let request = ProcessRequest {
        id: "fuzz",
        process,
        seccomp: linux.and_then(|linux| linux.seccomp().as_ref()),
        personality: linux.and_then(|linux| linux.personality().as_ref()),
        memory_policy: linux.and_then(|linux| linux.memory_policy().as_ref()),
        stdio: Stdio::Inherit,
        preserve_fds: 0,
        listen_fds: 0,
        new_keyring: true,
        find_program: true,
    };
    let _ = ProcessPlan::new(request, |_| ());
}

/// process.json as `exec` takes it.
pub fn process(bytes: &[u8]) {
    let Ok((process, _)) = config::parse_process(bytes, Path::new("process.json")) else { return };
    if validate::check_process(&process).is_ok() {
        plan_process(&process, None);
    }
}

/// The limits of `update`.
pub fn resources(bytes: &[u8]) {
    let mut values = serde_json::Deserializer::from_slice(bytes).into_iter::<serde_json::Value>();
    let Some(Ok(value)) = values.next() else { return };
    if let Ok(resources) = serde_json::from_value::<LinuxResources>(value) {
        cgroups::understand(&resources);
    }
}

/// The instructions of a seccomp profile: code, jump if true, jump if false, operand.
pub fn seccomp(bytes: &[u8]) -> Option<Vec<(u16, u8, u8, u32)>> {
    let profile: LinuxSeccomp = serde_json::from_slice(bytes).ok()?;
    let filter = Filter::compile(&profile).ok()?;
    Some(filter.instructions().collect())
}
