//! From the configuration to all that the container's process needs to know.

use oci_spec::runtime::Linux;

use super::Checked;
use crate::cgroups::Entrance;
use crate::error::Error;
use crate::handshake::ProcessEnd;
use crate::init::InitPlan;
use crate::mounts::{self, PlannedMount};
use crate::namespaces::Namespaces;
use crate::options::CreateOptions;
use crate::process::{ProcessPlan, ProcessRequest};
use crate::status::{State, Status};
use crate::store::Record;
use crate::user_namespace::Caller;
use crate::{Runtime, devices, net_devices, rootfs};

/// Decides everything before anything is made, where a mistake costs least. The groups come later, and the sources of
/// mounts, which may be in them.
pub(super) fn plan(
    runtime: &Runtime,
    record: &Record,
    opts: CreateOptions,
    checked: &Checked,
    linux: &Linux,
    caller: ProcessEnd,
) -> Result<InitPlan, Error> {
    let spec = &checked.spec;
    let process = spec.process().as_ref().ok_or_else(|| Error::invalid("process", "it is missing"))?;
    let request = ProcessRequest {
        id: &opts.id,
        process,
        seccomp: linux.seccomp().as_ref(),
        personality: linux.personality().as_ref(),
        memory_policy: linux.memory_policy().as_ref(),
        stdio: opts.stdio,
        preserve_fds: opts.listen_fds.saturating_add(opts.preserve_fds),
        listen_fds: opts.listen_fds,
        new_keyring: !opts.no_new_keyring,
        find_program: !opts.program_by_start,
    };
    let process = ProcessPlan::new(request, runtime.warn)?;
    let label = linux.mount_label().as_deref().filter(|label| !label.is_empty());
    let mounts = spec.mounts().iter().flatten().map(|mount| PlannedMount::new(mount, &checked.bundle, label, linux));
    let mounts = mounts.collect::<Result<Vec<_>, _>>()?;
    let pairs = linux.sysctl().iter().flatten().map(|(name, value)| (name.clone(), value.clone()));
    let given = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
    let propagation = linux.rootfs_propagation().as_deref().filter(|text| !text.is_empty());
    let propagation = propagation.map(mounts::rootfs_propagation).transpose()?;
    if opts.no_pivot && propagation.is_some_and(|(mode, _)| mode == libc::MS_SHARED) {
        let why = "without pivot_root the host's mounts would change; use another linux.rootfsPropagation";
        return Err(Error::unsupported("--no-pivot with shared propagation", why));
    }
    let namespaces = Namespaces::plan(linux)?;
    Ok(InitPlan {
        process,
        open: namespaces.has_new_user() && !namespaces.joins_any() && Caller::current().is_ordinary(),
        namespaces,
        entrance: Entrance::default(),
        cgroups: mounts::CgroupView::default(),
        rootfs: checked.rootfs.clone(),
        detached: rootfs::mount_detached(&opts.rootfs)?,
        read_only: spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly).unwrap_or(false),
        propagation,
        mounts,
        nodes: devices::plan(linux.devices().as_deref().unwrap_or_default())?,
        no_pivot: opts.no_pivot,
        masked: linux.masked_paths().clone().unwrap_or_default(),
        protected: linux.readonly_paths().clone().unwrap_or_default(),
        sysctl: pairs.collect(),
        hostname: given(spec.hostname()),
        domainname: given(spec.domainname()),
        net_devices: net_devices::wanted(linux),
        hooks: spec.hooks().clone().unwrap_or_default(),
        state: State::of(record, Status::Creating),
        gate: None,
        caller,
    })
}
