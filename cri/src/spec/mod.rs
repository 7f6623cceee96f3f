//! The OCI spec of a container, out of the CRI request, the image and the sandbox.
//!
//! Nothing here changes the machine: files are read, the spec is a value.

mod capabilities;
mod devices;
mod layers;
mod mounts;
mod namespaces;
mod process;
mod resources;
mod seccomp;
mod signal;
mod sysctl;
mod user;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxBuilder, RootBuilder, Spec, SpecBuilder};
use orlop_proto::v1;

pub(crate) use mounts::{ImageVolume, image_mounts};
pub(crate) use process::exec_process;
pub(crate) use resources::linux_resources;
pub(crate) use signal::stop_signal;
pub(crate) use sysctl::pod_sysctls;
pub(crate) use user::User;

use crate::error::{Context, Error, Result};
use crate::host::Host;
use crate::image::ProcessDefaults;
use crate::store::Sandbox;

/// The version of the OCI runtime spec that the documents follow.
const OCI_VERSION: &str = "1.2.0";

/// What the spec of a container is made from.
#[derive(Debug)]
pub(crate) struct Inputs<'a> {
    pub(crate) id: &'a str,
    pub(crate) config: &'a v1::ContainerConfig,
    pub(crate) sandbox: &'a Sandbox,
    /// `RUN/pods/<sandbox>`.
    pub(crate) pod_dir: &'a Path,
    pub(crate) image: &'a ProcessDefaults,
    /// The image's layers, top first.
    pub(crate) layers: &'a [PathBuf],
    /// The images that are mounted, by their place in `config.mounts`.
    pub(crate) volumes: &'a HashMap<usize, ImageVolume>,
    /// The first process of the container named by `target_id`.
    pub(crate) target_pid: Option<i32>,
    pub(crate) host: &'a Host,
}

impl Inputs<'_> {
    /// The container's security context; the protocol's defaults when the request has none.
    fn security(&self) -> v1::LinuxContainerSecurityContext {
        self.config.linux.as_ref().and_then(|linux| linux.security_context.clone()).unwrap_or_default()
    }
}

/// The spec, and what else was decided on the way.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) spec: Spec,
    pub(crate) user: User,
}

/// Checks the request and makes the spec.
pub(crate) fn build(inputs: &Inputs<'_>) -> Result<Built> {
    let security = inputs.security();
    refuse_what_is_not_there(inputs, &security)?;
    let user = user::resolve(inputs, &security)?;
    let capabilities = capabilities::of(&security, inputs.host)?;
    let seccomp = seccomp::profile(&security, &capabilities)?;
    let process = process::container_process(inputs, &security, &user, capabilities)?;
    let mounts = mounts::of(inputs, &security)?;
    let devices = devices::of(inputs, &security)?;
    let resources = resources::of(inputs, devices.rules)?;

    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces::of(inputs, &security)?)
        .cgroups_path(inputs.sandbox.cgroup.join(inputs.id))
        .resources(resources)
        .devices(devices.nodes)
        .masked_paths(mounts::masked_paths(&security))
        .readonly_paths(mounts::readonly_paths(&security))
        .build()
        .step(|| "make the OCI spec: linux".to_owned())?;
    linux.set_seccomp(seccomp);
    linux.set_rootfs_propagation(mounts.rootfs_propagation);

    let root = RootBuilder::default()
        .path("rootfs")
        .readonly(security.readonly_rootfs)
        .build()
        .step(|| "make the OCI spec: root".to_owned())?;
    let mut spec = SpecBuilder::default()
        .version(OCI_VERSION)
        .root(root)
        .process(process)
        .mounts(mounts.list)
        .annotations(annotations(inputs))
        .linux(linux)
        .build()
        .step(|| "make the OCI spec".to_owned())?;
    // The UTS namespace is the pod's, and the shim has set its hostname.
    spec.set_hostname(None);
    Ok(Built { spec, user })
}

/// Only the daemon's own: annotations of the request can switch features of an OCI runtime on (crun's
/// `run.oci.*`, `org.systemd.property.*`), so they never reach it. The words are those that runtimes for
/// sandboxes know from containerd.
fn annotations(inputs: &Inputs<'_>) -> HashMap<String, String> {
    let metadata = inputs.sandbox.metadata();
    let name = inputs.config.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default();
    [
        ("container-type", "container".to_owned()),
        ("sandbox-id", inputs.sandbox.id.clone()),
        ("sandbox-name", metadata.name),
        ("sandbox-namespace", metadata.namespace),
        ("sandbox-uid", metadata.uid),
        ("container-name", name),
    ]
    .into_iter()
    .map(|(key, value)| (format!("io.kubernetes.cri.{key}"), value))
    .collect()
}

fn refuse_what_is_not_there(inputs: &Inputs<'_>, security: &v1::LinuxContainerSecurityContext) -> Result<()> {
    if !inputs.config.cdi_devices.is_empty() {
        return Err(Error::unimplemented("CDI devices are not supported"));
    }
    if namespaces::wants_user_namespace(security.namespace_options.as_ref()) {
        return Err(Error::unimplemented("user namespaces (hostUsers: false) are not supported"));
    }
    let apparmor = security.apparmor.as_ref();
    if apparmor.is_some_and(|profile| profile.profile_type() == v1::security_profile::ProfileType::Localhost)
        && !inputs.host.apparmor
    {
        return Err(Error::invalid("an AppArmor profile is asked for, but AppArmor is not enabled on this host"));
    }
    Ok(())
}

/// Whether a pod asks for a user namespace of its own.
pub(crate) fn pod_wants_user_namespace(sandbox: &v1::NamespaceOption) -> bool {
    namespaces::wants_user_namespace(Some(sandbox))
}
