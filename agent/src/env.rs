//! The environment of containers: `$(VAR)`, ConfigMaps, Secrets, the downward API and services.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, Pod};

use crate::downward::{self, Surroundings};
use crate::objects::{ObjectData, ObjectKey, Snapshot};

/// Everything a container's variables can come from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sources<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) container: &'a Container,
    pub(crate) around: &'a Surroundings,
    pub(crate) objects: &'a Snapshot,
    pub(crate) services: &'a BTreeMap<String, String>,
}

/// Replaces `$(NAME)`; `$$` is a dollar sign, unknown names stay as they are written.
pub(crate) fn expand<'a>(text: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            if let Some(value) = lookup(name) {
                out.push_str(value);
            } else {
                out.push_str("$(");
                out.push_str(name);
                out.push(')');
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out + rest
}

/// The container's whole environment.
///
/// # Errors
/// The message of a CreateContainerConfigError.
pub(crate) fn environment(from: Sources<'_>) -> Result<BTreeMap<String, String>, String> {
    let mut env = BTreeMap::new();
    let namespace = from.pod.metadata.namespace.as_deref().unwrap_or_default();
    for source in from.container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let (key, optional) = if let Some(r) = &source.config_map_ref {
            (ObjectKey::config_map(namespace, &r.name), r.optional)
        } else if let Some(r) = &source.secret_ref {
            (ObjectKey::secret(namespace, &r.name), r.optional)
        } else {
            continue;
        };
        let Some(object) = from.objects.get(&key, optional == Some(true))? else {
            continue;
        };
        for (name, value) in &object.data {
            let value = String::from_utf8_lossy(value).into_owned();
            env.insert(format!("{prefix}{name}"), value);
        }
    }
    for var in from.container.env.iter().flatten() {
        if let Some(value) = value_of(var, &env, from)? {
            env.insert(var.name.clone(), value);
        }
    }
    for (name, value) in from.services {
        env.entry(name.clone()).or_insert_with(|| value.clone());
    }
    Ok(env)
}

fn value_of(var: &EnvVar, env: &BTreeMap<String, String>, from: Sources<'_>) -> Result<Option<String>, String> {
    let literal = var.value.as_deref().unwrap_or_default();
    let Some(source) = var.value_from.as_ref().filter(|_| literal.is_empty()) else {
        let lookup = |name: &str| env.get(name).or_else(|| from.services.get(name)).map(String::as_str);
        return Ok(Some(expand(literal, lookup)));
    };
    let namespace = from.pod.metadata.namespace.as_deref().unwrap_or_default();
    match source {
        EnvVarSource { field_ref: Some(r), .. } => downward::field(from.pod, &r.field_path, from.around).map(Some),
        EnvVarSource { resource_field_ref: Some(r), .. } => {
            downward::resource(from.pod, Some(from.container), r, from.around).map(Some)
        }
        EnvVarSource { config_map_key_ref: Some(r), .. } => {
            let optional = r.optional == Some(true);
            let object = from.objects.get(&ObjectKey::config_map(namespace, &r.name), optional)?;
            key_of(object, "ConfigMap", namespace, &r.name, &r.key, optional)
        }
        EnvVarSource { secret_key_ref: Some(r), .. } => {
            let optional = r.optional == Some(true);
            let object = from.objects.get(&ObjectKey::secret(namespace, &r.name), optional)?;
            key_of(object, "Secret", namespace, &r.name, &r.key, optional)
        }
        EnvVarSource { file_key_ref: Some(_), .. } => Err(format!(
            "variable {}: fileKeyRef is not supported by this agent; mount the file or use a ConfigMap",
            var.name
        )),
        _ => Ok(Some(String::new())),
    }
}

fn key_of(
    object: Option<&ObjectData>,
    kind: &str,
    namespace: &str,
    name: &str,
    key: &str,
    optional: bool,
) -> Result<Option<String>, String> {
    match object.and_then(|o| o.data.get(key)) {
        Some(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
        None if optional => Ok(None),
        None => Err(format!("couldn't find key {key} in {kind} {namespace}/{name}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn expansion() {
        let lookup = |name: &str| match name {
            "A" => Some("1"),
            "B.c" => Some("2"),
            _ => None,
        };
        for (text, want) in
            [("$(A)-$(B.c)", "1-2"), ("$$(A) $(X) $A $", "$(A) $(X) $A $"), ("$(A", "$(A"), ("$$$(A)", "$1")]
        {
            assert_eq!(expand(text, lookup), want);
        }
    }

    fn environment_of(container: serde_json::Value) -> Result<BTreeMap<String, String>, String> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": [container]}}))
        .expect("a pod");
        let mut objects = Snapshot::default();
        let data = |pairs: &[(&str, &str)]| ObjectData {
            data: pairs.iter().map(|(k, v)| ((*k).to_owned(), v.as_bytes().to_vec())).collect(),
            kind: None,
        };
        objects.insert(ObjectKey::config_map("ns", "cm"), Ok(Some(data(&[("A", "cm"), ("B", "cm")]))));
        objects.insert(ObjectKey::secret("ns", "s"), Ok(Some(data(&[("B", "secret")]))));
        objects.insert(ObjectKey::secret("ns", "gone"), Ok(None));
        let services = BTreeMap::from([("KUBERNETES_PORT".to_owned(), "tcp".to_owned())]);
        environment(Sources {
            pod: &pod,
            container: &pod.spec.as_ref().expect("a spec").containers[0],
            around: &Surroundings::default(),
            objects: &objects,
            services: &services,
        })
    }

    #[test]
    fn later_sources_win_and_values_expand() {
        let env = environment_of(json!({"name": "c",
            "envFrom": [{"configMapRef": {"name": "cm"}}, {"prefix": "P_", "secretRef": {"name": "s"}},
                        {"secretRef": {"name": "gone", "optional": true}}],
            "env": [{"name": "A", "value": "own"}, {"name": "C", "value": "$(A) $(B) $(KUBERNETES_PORT)"},
                    {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "O", "valueFrom": {"secretKeyRef": {"name": "gone", "key": "k", "optional": true}}}]}))
        .expect("an environment");
        assert_eq!(env["C"], "own cm tcp");
        assert_eq!(env["P_B"], "secret");
        assert_eq!(env["N"], "p");
        assert!(!env.contains_key("O"));
        assert_eq!(env["KUBERNETES_PORT"], "tcp");
    }

    #[test]
    fn missing_things_have_the_kubelets_words() {
        let env = |source| environment_of(json!({"name": "c", "env": [{"name": "X", "valueFrom": source}]}));
        assert_eq!(
            env(json!({"secretKeyRef": {"name": "gone", "key": "k"}})),
            Err("secret \"gone\" not found".to_owned())
        );
        assert_eq!(
            env(json!({"configMapKeyRef": {"name": "cm", "key": "k"}})),
            Err("couldn't find key k in ConfigMap ns/cm".to_owned())
        );
    }
}
