//! From a container's specification to the runtime's: configuration, security, mounts, hooks.

pub(crate) mod config;
pub(crate) mod hooks;
mod mounts;
mod sandbox;
mod security;

pub(crate) use sandbox::{SandboxInput, sandbox_config, sandbox_log_dir};

/// Labels and annotations that carry a pod's identity through the runtime; the names are the kubelet's.
pub(crate) mod keys {
    pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
    pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
    pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    pub(crate) const HASH: &str = "io.kubernetes.container.hash";
    pub(crate) const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    pub(crate) const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    pub(crate) const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    pub(crate) const GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";
}

/// What changed means "another container": the name and the image.
pub(crate) fn hash(container: &k8s_openapi::api::core::v1::Container) -> String {
    use sha2::{Digest, Sha256};
    let mut hasher = Sha256::new();
    hasher.update(container.name.as_bytes());
    hasher.update([0]);
    hasher.update(container.image.as_deref().unwrap_or_default().as_bytes());
    hasher.finalize()[..4].iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}
