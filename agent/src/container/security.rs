//! Security contexts: what pod and container ask for, in the runtime's terms.

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, Pod, PodSpec, SELinuxOptions, SeccompProfile, SecurityContext,
};
use orlop_proto::v1;
use std::path::Path;
use v1::security_profile::ProfileType;

use crate::resources::all_containers;

const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn namespaces(spec: &PodSpec) -> v1::NamespaceOption {
    let pick = |host: Option<bool>, own: v1::NamespaceMode| {
        let mode = if host == Some(true) { v1::NamespaceMode::Node } else { own };
        i32::from(mode)
    };
    let pid =
        if spec.share_process_namespace == Some(true) { v1::NamespaceMode::Pod } else { v1::NamespaceMode::Container };
    v1::NamespaceOption {
        network: pick(spec.host_network, v1::NamespaceMode::Pod),
        pid: pick(spec.host_pid, pid),
        ipc: pick(spec.host_ipc, v1::NamespaceMode::Pod),
        target_id: String::new(),
        userns_options: None,
    }
}

fn number(value: i64) -> v1::Int64Value {
    v1::Int64Value { value }
}

fn selinux(options: &SELinuxOptions) -> v1::SeLinuxOption {
    v1::SeLinuxOption {
        user: options.user.clone().unwrap_or_default(),
        role: options.role.clone().unwrap_or_default(),
        r#type: options.type_.clone().unwrap_or_default(),
        level: options.level.clone().unwrap_or_default(),
    }
}

fn groups(spec: &PodSpec) -> Vec<i64> {
    let Some(pod) = &spec.security_context else {
        return Vec::new();
    };
    let supplemental = pod.supplemental_groups.iter().flatten();
    supplemental.copied().chain(pod.fs_group).collect()
}

fn groups_policy(spec: &PodSpec) -> i32 {
    let pod = spec.security_context.as_ref();
    let strict = pod.and_then(|s| s.supplemental_groups_policy.as_deref()) == Some("Strict");
    let policy = if strict { v1::SupplementalGroupsPolicy::Strict } else { v1::SupplementalGroupsPolicy::Merge };
    policy.into()
}

/// The sandbox's security context.
pub(super) fn sandbox(spec: &PodSpec) -> v1::LinuxSandboxSecurityContext {
    let pod = spec.security_context.as_ref();
    let privileged = |c: &Container| c.security_context.as_ref().and_then(|s| s.privileged) == Some(true);
    v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(spec)),
        selinux_options: pod.and_then(|s| s.se_linux_options.as_ref()).map(selinux),
        run_as_user: pod.and_then(|s| s.run_as_user).map(number),
        run_as_group: pod.and_then(|s| s.run_as_group).map(number),
        supplemental_groups: groups(spec),
        supplemental_groups_policy: groups_policy(spec),
        privileged: all_containers(spec).any(privileged),
        seccomp: Some(v1::SecurityProfile {
            profile_type: ProfileType::RuntimeDefault.into(),
            localhost_ref: String::new(),
        }),
        ..v1::LinuxSandboxSecurityContext::default()
    }
}

/// Who the image runs as, when nothing else is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ImageUser {
    Id(i64),
    Name(String),
}

impl ImageUser {
    /// An image that names nobody runs as root.
    pub(crate) fn of(image: &v1::Image) -> Self {
        match (&image.uid, image.username.as_str()) {
            (Some(uid), _) => Self::Id(uid.value),
            (None, "") => Self::Id(0),
            (None, name) => Self::Name(name.to_owned()),
        }
    }
}

/// The container's security context.
///
/// # Errors
/// `runAsNonRoot` is broken or cannot be checked: the message of a CreateContainerConfigError.
pub(super) fn container(
    pod: &Pod,
    spec: &PodSpec,
    container: &Container,
    image_user: &ImageUser,
    seccomp_root: &Path,
) -> Result<v1::LinuxContainerSecurityContext, String> {
    let default = SecurityContext::default();
    let own = container.security_context.as_ref().unwrap_or(&default);
    let of_pod = spec.security_context.as_ref();
    let user = own.run_as_user.or(of_pod.and_then(|s| s.run_as_user));
    let non_root = own.run_as_non_root.or(of_pod.and_then(|s| s.run_as_non_root));
    if non_root == Some(true) {
        check_non_root(pod, container, user, image_user)?;
    }
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked");
    let paths = |list: &[&str]| {
        let shown = if unmasked { &[] } else { list };
        shown.iter().map(|p| (*p).to_owned()).collect()
    };
    let (run_as_user, run_as_username) = match (user, image_user) {
        (Some(id), _) => (Some(number(id)), String::new()),
        (None, ImageUser::Id(id)) => (Some(number(*id)), String::new()),
        (None, ImageUser::Name(name)) => (None, name.clone()),
    };
    let seccomp = own.seccomp_profile.as_ref().or(of_pod.and_then(|s| s.seccomp_profile.as_ref()));
    let apparmor = own.app_armor_profile.as_ref().or(of_pod.and_then(|s| s.app_armor_profile.as_ref()));
    let labels = own.se_linux_options.as_ref().or(of_pod.and_then(|s| s.se_linux_options.as_ref()));
    let capabilities = own.capabilities.as_ref().map(|c| v1::Capability {
        add_capabilities: c.add.clone().unwrap_or_default(),
        drop_capabilities: c.drop.clone().unwrap_or_default(),
        add_ambient_capabilities: Vec::new(),
    });
    let group = own.run_as_group.or(of_pod.and_then(|s| s.run_as_group));
    Ok(v1::LinuxContainerSecurityContext {
        capabilities,
        privileged: own.privileged == Some(true),
        namespace_options: Some(namespaces(spec)),
        selinux_options: labels.map(selinux),
        run_as_user,
        run_as_group: group.map(number),
        run_as_username,
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: groups(spec),
        supplemental_groups_policy: groups_policy(spec),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED_PATHS),
        readonly_paths: paths(&READONLY_PATHS),
        seccomp: Some(seccomp_profile(seccomp, seccomp_root)),
        apparmor: apparmor.map(apparmor_profile),
        ..v1::LinuxContainerSecurityContext::default()
    })
}

fn check_non_root(pod: &Pod, container: &Container, user: Option<i64>, image_user: &ImageUser) -> Result<(), String> {
    let meta = &pod.metadata;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let who = format!(
        "(pod: \"{}_{}({})\", container: {})",
        text(&meta.name),
        text(&meta.namespace),
        text(&meta.uid),
        container.name
    );
    match (user, image_user) {
        (Some(0), _) => Err(format!("container's runAsUser breaks non-root policy {who}")),
        (None, ImageUser::Id(0)) => Err(format!("container has runAsNonRoot and image will run as root {who}")),
        (Some(_), _) | (None, ImageUser::Id(_)) => Ok(()),
        (None, ImageUser::Name(name)) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {who}"
        )),
    }
}

/// No profile is unconfined, as in Kubernetes.
fn seccomp_profile(profile: Option<&SeccompProfile>, root: &Path) -> v1::SecurityProfile {
    let (kind, file) = match profile.map(|p| p.type_.as_str()) {
        Some("RuntimeDefault") => (ProfileType::RuntimeDefault, String::new()),
        Some("Localhost") => {
            let name = profile.and_then(|p| p.localhost_profile.as_deref()).unwrap_or_default();
            (ProfileType::Localhost, root.join(name).to_string_lossy().into_owned())
        }
        _ => (ProfileType::Unconfined, String::new()),
    };
    v1::SecurityProfile { profile_type: kind.into(), localhost_ref: file }
}

fn apparmor_profile(profile: &AppArmorProfile) -> v1::SecurityProfile {
    let kind = match profile.type_.as_str() {
        "Localhost" => ProfileType::Localhost,
        "Unconfined" => ProfileType::Unconfined,
        _ => ProfileType::RuntimeDefault,
    };
    v1::SecurityProfile {
        profile_type: kind.into(),
        localhost_ref: profile.localhost_profile.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn context(
        pod_context: serde_json::Value,
        own: serde_json::Value,
        user: &ImageUser,
    ) -> Result<v1::LinuxContainerSecurityContext, String> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"securityContext": pod_context, "containers": [{"name": "c", "securityContext": own}]}}))
        .expect("a pod");
        let spec = pod.spec.as_ref().expect("a spec");
        container(&pod, spec, &spec.containers[0], user, Path::new("/seccomp"))
    }

    #[test]
    fn non_root_is_checked() {
        let non_root = json!({"runAsNonRoot": true});
        let root = context(non_root.clone(), json!({}), &ImageUser::Id(0));
        assert_eq!(
            root,
            Err("container has runAsNonRoot and image will run as root (pod: \"p_ns(u)\", container: c)".to_owned())
        );
        assert!(context(non_root.clone(), json!({}), &ImageUser::Name("www".to_owned())).is_err());
        assert!(context(non_root.clone(), json!({"runAsUser": 0}), &ImageUser::Id(5)).is_err());
        assert!(context(non_root.clone(), json!({"runAsUser": 7}), &ImageUser::Id(0)).is_ok());
        assert!(context(non_root, json!({"runAsNonRoot": false}), &ImageUser::Id(0)).is_ok());
    }

    #[test]
    fn container_overrides_pod() {
        let got = context(
            json!({"runAsUser": 1, "fsGroup": 9, "supplementalGroups": [8],
                   "seccompProfile": {"type": "RuntimeDefault"}}),
            json!({"runAsUser": 2, "allowPrivilegeEscalation": false,
                   "seccompProfile": {"type": "Localhost", "localhostProfile": "a.json"}}),
            &ImageUser::Id(0),
        )
        .expect("a context");
        assert_eq!(got.run_as_user, Some(number(2)));
        assert_eq!(got.supplemental_groups, [8, 9]);
        assert!(got.no_new_privs);
        assert_eq!(got.seccomp.map(|s| s.localhost_ref), Some("/seccomp/a.json".to_owned()));
        assert_eq!(got.masked_paths.len(), 12);
    }
}
