//! Pods: where they come from, and one worker for each that makes the runtime agree.

mod actions;
mod admission;
mod conditions;
mod inotify;
pub(crate) mod manager;
mod mirror;
mod phase;
mod post;
mod reasons;
pub(crate) mod registry;
pub(crate) mod runtime;
mod sandbox;
pub(crate) mod source_api;
pub(crate) mod source_file;
pub(crate) mod source_runtime;
mod start;
mod status;
mod terminate;
mod worker;

use k8s_openapi::api::core::v1::Pod;

/// Annotation: where a pod came from, `api` or `file`.
pub(crate) const SOURCE: &str = "kubernetes.io/config.source";
/// Annotation of a static pod: the hash of its file.
pub(crate) const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// Annotation of a mirror pod: the hash of the static pod it shows.
pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";

fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Whether the pod is a static one.
pub(crate) fn is_static(pod: &Pod) -> bool {
    annotation(pod, SOURCE) == Some("file")
}

/// `name_namespace`, by which static pods and their mirrors find each other.
pub(crate) fn full_name(pod: &Pod) -> String {
    let meta = &pod.metadata;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    format!("{}_{}", text(&meta.name), text(&meta.namespace))
}

/// `name_namespace(uid)`, as the kubelet names pods in messages.
pub(crate) fn display_name(pod: &Pod) -> String {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    format!("{}({uid})", full_name(pod))
}

/// Succeeded or Failed: never to run again.
pub(crate) fn is_terminal(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}
