//! How the lists of built-in kinds merge in a strategic merge patch.

/// What a list in the API is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum List {
    /// Replaced as a whole.
    Atomic,
    /// A set of strings.
    Set,
    /// Objects identified by this field.
    Keyed(&'static str),
}

/// The list at `path` (field names from the object's root, without indices) of a `kind`.
pub(super) fn list(kind: &str, path: &[&str]) -> List {
    let Some((field, parents)) = path.split_last() else { return List::Atomic };
    let in_container = |name: &str| matches!(name, "containers" | "initContainers" | "ephemeralContainers");
    let parent = parents.last().copied().unwrap_or_default();
    let key = match *field {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "volumes"
        | "imagePullSecrets"
        | "resourceClaims"
        | "schedulingGates"
            if parent == "spec" =>
        {
            "name"
        }
        "env" if in_container(parent) => "name",
        "ports" if in_container(parent) => "containerPort",
        "ports" if kind == "Service" && parent == "spec" => "port",
        "volumeMounts" if in_container(parent) => "mountPath",
        "volumeDevices" if in_container(parent) => "devicePath",
        "hostAliases" if parent == "spec" => "ip",
        "podIPs" | "hostIPs" if parent == "status" => "ip",
        "topologySpreadConstraints" if parent == "spec" => "topologyKey",
        "conditions" if parent == "status" => "type",
        "addresses" if kind == "Node" && parent == "status" => "type",
        "ownerReferences" if parent == "metadata" => "uid",
        "secrets" | "imagePullSecrets" if kind == "ServiceAccount" && parents.is_empty() => "name",
        "drivers" if kind == "CSINode" && parent == "spec" => "name",
        "finalizers" if parent == "metadata" => return List::Set,
        "podCIDRs" if kind == "Node" => return List::Set,
        _ => return List::Atomic,
    };
    List::Keyed(key)
}
