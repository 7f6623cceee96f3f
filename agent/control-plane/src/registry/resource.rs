//! The table of resources: everything the server stores, and what clients are told about it.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Event, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service,
    ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A sub-resource of a resource.
#[derive(Debug)]
pub(crate) struct Subresource {
    pub(crate) name: &'static str,
    /// Group, version and kind of its objects; empty group and version mean the resource's own.
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) verbs: &'static [&'static str],
}

/// One resource.
#[derive(Debug)]
pub(crate) struct Resource {
    /// Its name in the store: group (or `core`) and plural.
    pub(crate) storage: &'static str,
    /// Empty for the core group.
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) short_names: &'static [&'static str],
    pub(crate) categories: &'static [&'static str],
    pub(crate) namespaced: bool,
    /// Whether `metadata.generation` counts changes of the spec.
    pub(crate) generations: bool,
    pub(crate) subresources: &'static [Subresource],
    /// Fields that a field selector may name, beyond `metadata.name` and `metadata.namespace`.
    pub(crate) fields: &'static [&'static str],
    /// Decodes into the typed object and back: faults of type are errors, unknown fields disappear.
    pub(crate) round_trip: fn(&Value) -> Result<Value, serde_json::Error>,
}

impl Resource {
    /// `v1`, `apps/v1`.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    pub(crate) fn has(&self, subresource: &str) -> bool {
        self.subresources.iter().any(|s| s.name == subresource)
    }
}

impl PartialEq for Resource {
    fn eq(&self, other: &Self) -> bool {
        self.storage == other.storage
    }
}

fn typed<T: Serialize + DeserializeOwned>(value: &Value) -> Result<Value, serde_json::Error> {
    serde_json::to_value(T::deserialize(value)?)
}

/// What most resources share.
const PLAIN: Resource = Resource {
    storage: "",
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    namespaced: true,
    generations: false,
    subresources: &[],
    fields: &[],
    round_trip: |value| Ok(value.clone()),
};

const GET_PATCH_UPDATE: &[&str] = &["get", "patch", "update"];
const CREATE_GET: &[&str] = &["create", "get"];

const fn own(name: &'static str, kind: &'static str, verbs: &'static [&'static str]) -> Subresource {
    Subresource { name, group: "", version: "", kind, verbs }
}

const SCALES: Subresource =
    Subresource { name: "scale", group: "autoscaling", version: "v1", kind: "Scale", verbs: GET_PATCH_UPDATE };

/// What the scale sub-resource reads and writes; it is stored in no place of its own.
pub(crate) static SCALE: Resource =
    Resource { group: "autoscaling", kind: "Scale", round_trip: typed::<Scale>, ..PLAIN };

pub(crate) static NAMESPACES: Resource = Resource {
    storage: "core/namespaces",
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    namespaced: false,
    subresources: &[own("status", "Namespace", GET_PATCH_UPDATE), own("finalize", "Namespace", &["update"])],
    fields: &["status.phase", "name"],
    round_trip: typed::<Namespace>,
    ..PLAIN
};

pub(crate) static NODES: Resource = Resource {
    storage: "core/nodes",
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    namespaced: false,
    subresources: &[own("status", "Node", GET_PATCH_UPDATE)],
    fields: &["spec.unschedulable"],
    round_trip: typed::<Node>,
    ..PLAIN
};

pub(crate) static PODS: Resource = Resource {
    storage: "core/pods",
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    generations: true,
    subresources: &[
        own("status", "Pod", GET_PATCH_UPDATE),
        own("binding", "Binding", &["create"]),
        Subresource { name: "eviction", group: "policy", version: "v1", kind: "Eviction", verbs: &["create"] },
        own("ephemeralcontainers", "Pod", GET_PATCH_UPDATE),
        own("log", "Pod", &["get"]),
        own("exec", "PodExecOptions", CREATE_GET),
        own("attach", "PodAttachOptions", CREATE_GET),
        own("portforward", "PodPortForwardOptions", CREATE_GET),
    ],
    fields: &[
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.podIPs",
        "status.nominatedNodeName",
    ],
    round_trip: typed::<Pod>,
    ..PLAIN
};

pub(crate) static CONFIG_MAPS: Resource = Resource {
    storage: "core/configmaps",
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    round_trip: typed::<ConfigMap>,
    ..PLAIN
};

pub(crate) static SECRETS: Resource = Resource {
    storage: "core/secrets",
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    fields: &["type"],
    round_trip: typed::<Secret>,
    ..PLAIN
};

pub(crate) static SERVICE_ACCOUNTS: Resource = Resource {
    storage: "core/serviceaccounts",
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    subresources: &[Subresource {
        name: "token",
        group: "authentication.k8s.io",
        version: "v1",
        kind: "TokenRequest",
        verbs: &["create"],
    }],
    round_trip: typed::<ServiceAccount>,
    ..PLAIN
};

pub(crate) static SERVICES: Resource = Resource {
    storage: "core/services",
    kind: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    subresources: &[own("status", "Service", GET_PATCH_UPDATE)],
    fields: &["spec.clusterIP", "spec.type"],
    round_trip: typed::<Service>,
    ..PLAIN
};

pub(crate) static EVENTS: Resource = Resource {
    storage: "core/events",
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    fields: &[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ],
    round_trip: typed::<Event>,
    ..PLAIN
};

pub(crate) static ENDPOINTS: Resource = Resource {
    storage: "core/endpoints",
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    short_names: &["ep"],
    round_trip: typed::<Endpoints>,
    ..PLAIN
};

pub(crate) static VOLUMES: Resource = Resource {
    storage: "core/persistentvolumes",
    kind: "PersistentVolume",
    plural: "persistentvolumes",
    singular: "persistentvolume",
    short_names: &["pv"],
    namespaced: false,
    subresources: &[own("status", "PersistentVolume", GET_PATCH_UPDATE)],
    round_trip: typed::<PersistentVolume>,
    ..PLAIN
};

pub(crate) static CLAIMS: Resource = Resource {
    storage: "core/persistentvolumeclaims",
    kind: "PersistentVolumeClaim",
    plural: "persistentvolumeclaims",
    singular: "persistentvolumeclaim",
    short_names: &["pvc"],
    subresources: &[own("status", "PersistentVolumeClaim", GET_PATCH_UPDATE)],
    round_trip: typed::<PersistentVolumeClaim>,
    ..PLAIN
};

pub(crate) static DEPLOYMENTS: Resource = Resource {
    storage: "apps/deployments",
    group: "apps",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    generations: true,
    subresources: &[own("status", "Deployment", GET_PATCH_UPDATE), SCALES],
    round_trip: typed::<Deployment>,
    ..PLAIN
};

pub(crate) static REPLICA_SETS: Resource = Resource {
    storage: "apps/replicasets",
    group: "apps",
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    short_names: &["rs"],
    categories: &["all"],
    generations: true,
    subresources: &[own("status", "ReplicaSet", GET_PATCH_UPDATE), SCALES],
    fields: &["status.replicas"],
    round_trip: typed::<ReplicaSet>,
    ..PLAIN
};

pub(crate) static LEASES: Resource = Resource {
    storage: "coordination.k8s.io/leases",
    group: "coordination.k8s.io",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    round_trip: typed::<Lease>,
    ..PLAIN
};

pub(crate) static ENDPOINT_SLICES: Resource = Resource {
    storage: "discovery.k8s.io/endpointslices",
    group: "discovery.k8s.io",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    round_trip: typed::<EndpointSlice>,
    ..PLAIN
};

pub(crate) static RUNTIME_CLASSES: Resource = Resource {
    storage: "node.k8s.io/runtimeclasses",
    group: "node.k8s.io",
    kind: "RuntimeClass",
    plural: "runtimeclasses",
    singular: "runtimeclass",
    namespaced: false,
    round_trip: typed::<RuntimeClass>,
    ..PLAIN
};

pub(crate) static PRIORITY_CLASSES: Resource = Resource {
    storage: "scheduling.k8s.io/priorityclasses",
    group: "scheduling.k8s.io",
    kind: "PriorityClass",
    plural: "priorityclasses",
    singular: "priorityclass",
    short_names: &["pc"],
    namespaced: false,
    round_trip: typed::<PriorityClass>,
    ..PLAIN
};

pub(crate) static CSI_NODES: Resource = Resource {
    storage: "storage.k8s.io/csinodes",
    group: "storage.k8s.io",
    kind: "CSINode",
    plural: "csinodes",
    singular: "csinode",
    namespaced: false,
    round_trip: typed::<CSINode>,
    ..PLAIN
};

pub(crate) static CSI_DRIVERS: Resource = Resource {
    storage: "storage.k8s.io/csidrivers",
    group: "storage.k8s.io",
    kind: "CSIDriver",
    plural: "csidrivers",
    singular: "csidriver",
    namespaced: false,
    round_trip: typed::<CSIDriver>,
    ..PLAIN
};

/// Every resource; those of one group and version stand together, in the order that discovery shows.
pub(crate) static ALL: [&Resource; 19] = [
    &CONFIG_MAPS,
    &ENDPOINTS,
    &EVENTS,
    &NAMESPACES,
    &NODES,
    &CLAIMS,
    &VOLUMES,
    &PODS,
    &SECRETS,
    &SERVICE_ACCOUNTS,
    &SERVICES,
    &DEPLOYMENTS,
    &REPLICA_SETS,
    &LEASES,
    &ENDPOINT_SLICES,
    &RUNTIME_CLASSES,
    &PRIORITY_CLASSES,
    &CSI_DRIVERS,
    &CSI_NODES,
];

/// The resource at `/apis/<group>/<version>/<plural>`.
pub(crate) fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    ALL.iter().copied().find(|r| r.group == group && r.version == version && r.plural == plural)
}

/// The resource of an object's `apiVersion` and `kind`.
pub(crate) fn by_kind(api_version: &str, kind: &str) -> Option<&'static Resource> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ALL.iter().copied().find(|r| r.group == group && r.version == version && r.kind == kind)
}

/// The resource of a store name.
pub(crate) fn by_storage(storage: &str) -> Option<&'static Resource> {
    ALL.iter().copied().find(|r| r.storage == storage)
}
