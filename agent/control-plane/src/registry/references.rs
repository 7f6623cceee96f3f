//! Which other objects a pod's spec names, wherever it does.

use serde_json::Value;

/// A kind of object that a pod can read through its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Referenced {
    Secret,
    ConfigMap,
    Claim,
    /// What is not an object with a name in the spec: a token, a certificate, a claim that is made for the pod.
    Other,
}

/// Whether `test` holds for a reference in a spec: by kind and name.
pub(crate) fn any(spec: &Value, test: &mut impl FnMut(Referenced, &str) -> bool) -> bool {
    match spec {
        Value::Array(items) => items.iter().any(|item| any(item, test)),
        Value::Object(map) => {
            map.iter().any(|(key, inner)| named(key, inner).any(|(kind, name)| test(kind, name)) || any(inner, test))
        }
        _ => false,
    }
}

/// What a field refers to. No field of a pod's spec has keys of the user's choice and objects below them.
fn named<'a>(key: &str, value: &'a Value) -> impl Iterator<Item = (Referenced, &'a str)> {
    let (kind, fields): (_, &[&str]) = match key {
        "secret" | "secretRef" | "secretKeyRef" | "nodePublishSecretRef" | "imagePullSecrets" | "azureFile" => {
            (Referenced::Secret, &["name", "secretName"])
        }
        "configMap" | "configMapRef" | "configMapKeyRef" => (Referenced::ConfigMap, &["name"]),
        "persistentVolumeClaim" => (Referenced::Claim, &["claimName"]),
        "resourceClaims" => (Referenced::Other, &["name"]),
        _ => (Referenced::Other, &[]),
    };
    let whole = ["ephemeral", "serviceAccountToken", "clusterTrustBundle", "podCertificate"];
    let whole = (whole.contains(&key) && value.is_object()).then_some((Referenced::Other, ""));
    let items = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    let names = items.iter().flat_map(move |item| fields.iter().filter_map(|field| item.get(*field)?.as_str()));
    names.map(move |name| (kind, name)).chain(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn references_are_found_wherever_a_pod_makes_them() {
        let spec = json!({
            "volumes": [{"name": "v", "secret": {"secretName": "a"}},
                {"name": "p", "projected": {"sources": [{"secret": {"name": "b"}}, {"configMap": {"name": "m"}}]}},
                {"name": "c", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "e"}}},
                {"name": "f", "cephfs": {"secretRef": {"name": "f"}}}, {"name": "z", "azureFile": {"secretName": "g"}},
                {"name": "q", "persistentVolumeClaim": {"claimName": "claim"}}],
            "imagePullSecrets": [{"name": "h"}],
            "ephemeralContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "d"}}]}],
            "containers": [{"name": "n", "env": [
                {"name": "E", "valueFrom": {"secretKeyRef": {"name": "c", "key": "k"}}}]}]});
        let mut found = Vec::new();
        any(&spec, &mut |kind, name| {
            found.push((kind, name.to_owned()));
            false
        });
        let names = |wanted: Referenced| {
            let mut names: Vec<&str> = found.iter().filter(|(k, _)| *k == wanted).map(|(_, n)| n.as_str()).collect();
            names.sort_unstable();
            names
        };
        assert_eq!(names(Referenced::Secret), ["a", "b", "c", "d", "e", "f", "g", "h"]);
        assert_eq!(names(Referenced::ConfigMap), ["m"]);
        assert_eq!(names(Referenced::Claim), ["claim"]);
        for other in [
            json!({"resourceClaims": [{"name": "r", "resourceClaimName": "x"}]}),
            json!({"volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": {}}}]}),
            json!({"volumes": [{"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}),
        ] {
            assert!(any(&other, &mut |kind, _| kind == Referenced::Other), "{other}");
        }
        let free = json!({"volumes": [{"name": "secret", "hostPath": {"path": "/"}}], "nodeSelector": {"secret": "a"},
            "containers": [{"name": "c", "env": [{"name": "secret", "value": "configMap"}]}]});
        assert!(!any(&free, &mut |_, _| true));
    }
}
