//! Registry credentials from a pod's `imagePullSecrets`.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Pod;
use orlop_proto::v1::AuthConfig;
use serde::Deserialize;

use crate::objects::{ObjectData, ObjectKey, Snapshot};

#[derive(Deserialize)]
struct Login {
    username: Option<String>,
    password: Option<String>,
    auth: Option<String>,
    identitytoken: Option<String>,
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Login>,
}

/// The pull secrets the pod names that are not there.
pub(crate) fn pull_secrets_missing(pod: &Pod, objects: &Snapshot) -> Vec<String> {
    let missing = |name: &&str| !matches!(objects.get(&key(pod, name), false), Ok(Some(_)));
    names(pod).filter(missing).map(str::to_owned).collect()
}

/// The credentials that fit the image's registry, in the order of the secrets.
pub(super) fn for_image(pod: &Pod, objects: &Snapshot, image: &str) -> Vec<AuthConfig> {
    let (registry, path) = registry_and_path(image);
    let mut fitting = Vec::new();
    for name in names(pod) {
        let Ok(Some(secret)) = objects.get(&key(pod, name), true) else {
            continue;
        };
        // The longest match first: a login for a repository beats one for its registry.
        let mut logins: Vec<_> = logins(secret).into_iter().collect();
        logins.sort_by_key(|(server, _)| std::cmp::Reverse(server.len()));
        for (server, login) in logins {
            if matches_registry(&server, &registry, &path)
                && let Some(auth) = auth_config(&server, login)
            {
                fitting.push(auth);
            }
        }
    }
    fitting
}

fn names(pod: &Pod) -> impl Iterator<Item = &str> {
    let secrets = pod.spec.as_ref().and_then(|s| s.image_pull_secrets.as_ref());
    secrets.into_iter().flatten().map(|r| r.name.as_str())
}

fn key(pod: &Pod, name: &str) -> ObjectKey {
    ObjectKey::secret(pod.metadata.namespace.as_deref().unwrap_or_default(), name)
}

fn logins(secret: &ObjectData) -> BTreeMap<String, Login> {
    let get = |name: &str| secret.data.get(name);
    let parsed = match secret.kind.as_deref() {
        Some("kubernetes.io/dockerconfigjson") => get(".dockerconfigjson")
            .and_then(|text| serde_json::from_slice::<DockerConfig>(text).ok())
            .map(|config| config.auths),
        Some("kubernetes.io/dockercfg") => get(".dockercfg").and_then(|text| serde_json::from_slice(text).ok()),
        _ => None,
    };
    parsed.unwrap_or_default()
}

/// The registry and the repository's path of an image name.
fn registry_and_path(image: &str) -> (String, String) {
    match image.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host.to_owned(), path.to_owned()),
        _ => ("docker.io".to_owned(), image.to_owned()),
    }
}

fn matches_registry(server: &str, registry: &str, path: &str) -> bool {
    let bare = server.split_once("://").map_or(server, |(_, rest)| rest);
    let (host, prefix) = bare.split_once('/').unwrap_or((bare, ""));
    let host = if host == "index.docker.io" { "docker.io" } else { host };
    let prefix = prefix.trim_end_matches('/');
    // Docker's own configuration ends server names in an API version.
    let prefix = prefix.strip_prefix("v1").or(prefix.strip_prefix("v2")).unwrap_or(prefix);
    let host_fits = match host.strip_prefix("*.") {
        Some(suffix) => registry
            .strip_suffix(suffix)
            .is_some_and(|left| left.strip_suffix('.').is_some_and(|label| !label.is_empty() && !label.contains('.'))),
        None => host == registry,
    };
    host_fits && path.starts_with(prefix)
}

fn auth_config(server: &str, login: Login) -> Option<AuthConfig> {
    let decoded = login.auth.as_deref().and_then(|auth| {
        let bytes = STANDARD.decode(auth).ok()?;
        let text = String::from_utf8(bytes).ok()?;
        let (user, password) = text.split_once(':')?;
        Some((user.to_owned(), password.trim_end_matches('\0').to_owned()))
    });
    let (username, password) = match (decoded, login.username, login.password) {
        (Some(pair), _, _) => pair,
        (None, Some(user), Some(password)) => (user, password),
        _ if login.identitytoken.is_some() => Default::default(),
        _ => return None,
    };
    Some(AuthConfig {
        username,
        password,
        identity_token: login.identitytoken.unwrap_or_default(),
        server_address: server.to_owned(),
        ..AuthConfig::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_match_registries() {
        for (server, image, fits) in [
            ("https://index.docker.io/v1/", "busybox", true),
            ("reg.io", "reg.io/a/b:1", true),
            ("reg.io/a", "reg.io/a/b:1", true),
            ("reg.io/x", "reg.io/a/b:1", false),
            ("*.reg.io", "eu.reg.io/a", true),
            ("*.reg.io", "reg.io/a", false),
            ("localhost:5000", "localhost:5000/a", true),
        ] {
            let (registry, path) = registry_and_path(image);
            assert_eq!(matches_registry(server, &registry, &path), fits, "{server} {image}");
        }
    }

    #[test]
    fn a_secret_gives_a_login() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": "ns"},
            "spec": {"containers": [], "imagePullSecrets": [{"name": "s"}, {"name": "gone"}]}}))
        .expect("a pod");
        let config = serde_json::json!({"auths": {"reg.io": {"auth": STANDARD.encode("u:p:q")}}});
        let secret = ObjectData {
            data: BTreeMap::from([(".dockerconfigjson".to_owned(), config.to_string().into_bytes())]),
            kind: Some("kubernetes.io/dockerconfigjson".to_owned()),
        };
        let mut objects = Snapshot::default();
        objects.insert(ObjectKey::secret("ns", "s"), Ok(Some(secret)));
        let found = for_image(&pod, &objects, "reg.io/a:1");
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].username.as_str(), found[0].password.as_str()), ("u", "p:q"));
        assert!(for_image(&pod, &objects, "other.io/a:1").is_empty());
        assert_eq!(pull_secrets_missing(&pod, &objects), ["gone"]);
    }
}
