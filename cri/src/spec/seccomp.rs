//! Which system calls a container may make.

mod default_profile;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use oci_spec::runtime::{LinuxCapabilities, LinuxSeccomp};
use orlop_proto::v1::{self, security_profile::ProfileType};

use crate::error::{Context, Error, Kind, Result};

/// The longest profile that is read, in bytes.
const FILE_LIMIT: u64 = 4 << 20;

/// The profile that the request asks for. One that says nothing gets the default; a privileged container has none.
pub(super) fn profile(
    security: &v1::LinuxContainerSecurityContext,
    capabilities: &LinuxCapabilities,
) -> Result<Option<LinuxSeccomp>> {
    if security.privileged {
        return Ok(None);
    }
    let Some(profile) = &security.seccomp else {
        return default_profile::build(capabilities).map(Some);
    };
    match ProfileType::try_from(profile.profile_type) {
        Ok(ProfileType::RuntimeDefault) => default_profile::build(capabilities).map(Some),
        Ok(ProfileType::Unconfined) => Ok(None),
        Ok(ProfileType::Localhost) => read(&profile.localhost_ref).map(Some),
        Err(_) => Err(Error::invalid(format!("unknown seccomp profile type {}", profile.profile_type))),
    }
}

/// Reads a profile. An empty name must not mean unconfined (CVE-2023-2431).
fn read(name: &str) -> Result<LinuxSeccomp> {
    // The kubelet hands the full path over, older clients with this in front.
    let path = Path::new(name.strip_prefix("localhost/").unwrap_or(name));
    if !path.is_absolute() || path.components().any(|part| part == std::path::Component::ParentDir) {
        return Err(Error::invalid(format!("the seccomp profile {name:?} is not an absolute path without ..")));
    }
    let step = || format!("read the seccomp profile {}", path.display());
    let file = File::open(path).context(Kind::InvalidArgument, step)?;
    if !file.metadata().context(Kind::InvalidArgument, step)?.is_file() {
        return Err(Error::invalid(format!("the seccomp profile {} is not a regular file", path.display())));
    }
    let mut text = Vec::new();
    file.take(FILE_LIMIT).read_to_end(&mut text).context(Kind::InvalidArgument, step)?;
    serde_json::from_slice(&text).context(Kind::InvalidArgument, step)
}

#[cfg(test)]
mod tests {
    use super::profile;
    use oci_spec::runtime::{LinuxCapabilities, LinuxSeccompAction};
    use orlop_proto::v1::{self, security_profile::ProfileType};

    fn security(kind: ProfileType, name: &str) -> v1::LinuxContainerSecurityContext {
        v1::LinuxContainerSecurityContext {
            seccomp: Some(v1::SecurityProfile { profile_type: kind as i32, localhost_ref: name.to_owned() }),
            ..Default::default()
        }
    }

    #[test]
    fn saying_nothing_is_the_default_and_odd_names_are_refused() {
        let capabilities = LinuxCapabilities::default();
        let none = v1::LinuxContainerSecurityContext::default();
        let profile_of = |security: v1::LinuxContainerSecurityContext| profile(&security, &capabilities);
        let default = profile_of(none).unwrap().unwrap();
        assert_eq!(default.default_action(), LinuxSeccompAction::ScmpActErrno);
        assert_eq!(profile_of(security(ProfileType::RuntimeDefault, "")).unwrap().unwrap(), default);
        assert!(profile_of(security(ProfileType::Unconfined, "")).unwrap().is_none());
        for name in ["", "x.json", "localhost/", "/proc/../etc/x", "/dev/zero", "/nonexistent"] {
            assert!(profile_of(security(ProfileType::Localhost, name)).is_err(), "{name:?}");
        }
    }
}
