//! The capability sets of a container.

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, LinuxCapabilitiesBuilder};
use orlop_proto::v1;

use crate::error::{Context, Error, Result};
use crate::host::Host;

/// What a container gets that asks for nothing: the set of Docker and containerd.
const DEFAULT: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// The capabilities of the container's first process.
///
/// ALL means those that this host lets the daemon have. What is added by name is given or refused, never left
/// out. Nothing but
/// the ambient set is inheritable (CVE-2022-29162).
pub(super) fn of(security: &v1::LinuxContainerSecurityContext, host: &Host) -> Result<LinuxCapabilities> {
    let wanted = security.capabilities.clone().unwrap_or_default();
    let add = parse(&wanted.add_capabilities)?;
    let drop = parse(&wanted.drop_capabilities)?;
    let ambient = parse(&wanted.add_ambient_capabilities)?;

    let mut set: Capabilities = if security.privileged || add.all {
        host.capabilities.clone()
    } else if drop.all {
        Capabilities::new()
    } else {
        DEFAULT.into_iter().filter(|capability| host.capabilities.contains(capability)).collect()
    };
    if !security.privileged {
        if add.all && drop.all {
            set.clear();
        }
        set.extend(add.named);
        set.retain(|capability| !drop.named.contains(capability));
    }
    let ambient = if ambient.all { set.clone() } else { ambient.named };
    set.extend(ambient.iter().copied());

    LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set)
        .inheritable(ambient.clone())
        .ambient(ambient)
        .build()
        .step(|| "make the OCI spec: capabilities".to_owned())
}

#[derive(Default)]
struct Named {
    all: bool,
    named: Capabilities,
}

/// Reads names with or without CAP_, in any case.
fn parse(names: &[String]) -> Result<Named> {
    let mut parsed = Named::default();
    for name in names {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if bare == "ALL" {
            parsed.all = true;
            continue;
        }
        let capability =
            bare.parse::<Capability>().map_err(|_| Error::invalid(format!("unknown capability {name:?}")))?;
        parsed.named.insert(capability);
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::of;
    use crate::host::Host;
    use oci_spec::runtime::Capability;
    use orlop_proto::v1;

    fn bounding(add: &[&str], drop: &[&str]) -> Result<oci_spec::runtime::Capabilities, crate::Error> {
        let strings = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let security = v1::LinuxContainerSecurityContext {
            capabilities: Some(v1::Capability {
                add_capabilities: strings(add),
                drop_capabilities: strings(drop),
                add_ambient_capabilities: Vec::new(),
            }),
            ..Default::default()
        };
        let sets = of(&security, &Host::for_tests())?;
        assert!(sets.inheritable().as_ref().unwrap().is_empty());
        assert_eq!(sets.bounding(), sets.permitted());
        Ok(sets.bounding().clone().unwrap())
    }

    #[test]
    fn add_and_drop_meet_as_in_containerd() {
        assert_eq!(bounding(&[], &[]).unwrap().len(), 14);
        assert!(bounding(&["SYS_ADMIN"], &[]).unwrap().contains(&Capability::SysAdmin));
        assert!(!bounding(&[], &["CAP_NET_RAW"]).unwrap().contains(&Capability::NetRaw));
        let only = bounding(&["net_bind_service"], &["ALL"]).unwrap();
        assert_eq!(only.into_iter().collect::<Vec<_>>(), [Capability::NetBindService]);
        let all_but_one = bounding(&["ALL"], &["SYS_TIME"]).unwrap();
        assert!(all_but_one.contains(&Capability::SysAdmin) && !all_but_one.contains(&Capability::SysTime));
        assert!(bounding(&["EVERYTHING"], &[]).is_err());
    }
}
