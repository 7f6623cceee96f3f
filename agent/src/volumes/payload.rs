//! What the files of configMap, secret, downwardAPI and projected volumes hold.

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, DownwardAPIVolumeFile, DownwardAPIVolumeSource, KeyToPath, Pod, ProjectedVolumeSource,
    SecretVolumeSource, ServiceAccountTokenProjection,
};

use super::Reason;
use super::atomic::{File, Payload};
use super::ownership::Owner;
use super::token::{TokenKey, Tokens};
use crate::downward::{self, Surroundings};
use crate::objects::{ObjectData, ObjectKey, Snapshot};

const DEFAULT_MODE: i32 = 0o644;

/// What payloads are made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) objects: &'a Snapshot,
    pub(crate) around: &'a Surroundings,
    pub(crate) tokens: &'a Tokens,
}

/// How one object's keys become files.
#[derive(Clone, Copy)]
struct Selection<'a> {
    items: Option<&'a [KeyToPath]>,
    mode: i32,
    optional: bool,
}

impl Inputs<'_> {
    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    pub(super) fn config_map(&self, source: &ConfigMapVolumeSource) -> Result<Payload, Reason> {
        let select = Selection {
            items: source.items.as_deref(),
            mode: source.default_mode.unwrap_or(DEFAULT_MODE),
            optional: source.optional == Some(true),
        };
        self.object(&ObjectKey::config_map(self.namespace(), &source.name), select)
    }

    pub(super) fn secret(&self, source: &SecretVolumeSource) -> Result<Payload, Reason> {
        let select = Selection {
            items: source.items.as_deref(),
            mode: source.default_mode.unwrap_or(DEFAULT_MODE),
            optional: source.optional == Some(true),
        };
        let name = source.secret_name.as_deref().unwrap_or_default();
        self.object(&ObjectKey::secret(self.namespace(), name), select)
    }

    pub(super) fn downward(&self, source: &DownwardAPIVolumeSource) -> Result<Payload, Reason> {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        self.fields(source.items.as_deref().unwrap_or_default(), mode)
    }

    pub(super) fn projected(&self, source: &ProjectedVolumeSource, owner: Owner) -> Result<Payload, Reason> {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let mut payload = Payload::new();
        for part in source.sources.iter().flatten() {
            if let Some(p) = &part.config_map {
                let select = Selection { items: p.items.as_deref(), mode, optional: p.optional == Some(true) };
                payload.extend(self.object(&ObjectKey::config_map(self.namespace(), &p.name), select)?);
            } else if let Some(p) = &part.secret {
                let select = Selection { items: p.items.as_deref(), mode, optional: p.optional == Some(true) };
                payload.extend(self.object(&ObjectKey::secret(self.namespace(), &p.name), select)?);
            } else if let Some(p) = &part.downward_api {
                payload.extend(self.fields(p.items.as_deref().unwrap_or_default(), mode)?);
            } else if let Some(p) = &part.service_account_token {
                payload.insert(p.path.clone(), self.token(p, mode, owner)?);
            } else {
                return Err(Reason::Unsupported("projected with clusterTrustBundle or podCertificate"));
            }
        }
        Ok(payload)
    }

    fn object(&self, key: &ObjectKey, select: Selection<'_>) -> Result<Payload, Reason> {
        let found = self.objects.get(key, select.optional).map_err(Reason::Missing)?;
        let Some(object) = found else {
            return Ok(Payload::new());
        };
        files(object, select)
    }

    fn fields(&self, items: &[DownwardAPIVolumeFile], mode: i32) -> Result<Payload, Reason> {
        let mut payload = Payload::new();
        for item in items {
            let value = if let Some(r) = &item.field_ref {
                downward::field(self.pod, &r.field_path, self.around)
            } else if let Some(r) = &item.resource_field_ref {
                downward::resource(self.pod, None, r, self.around)
            } else {
                continue;
            };
            let content = value.map_err(Reason::Missing)?.into_bytes();
            payload.insert(item.path.clone(), file(content, item.mode.unwrap_or(mode)));
        }
        Ok(payload)
    }

    fn token(&self, source: &ServiceAccountTokenProjection, mode: i32, owner: Owner) -> Result<File, Reason> {
        let token = self.tokens.get(&TokenKey::of(source)).map_err(Reason::Missing)?;
        // A token that is meant for one user or group is not for the others.
        let private = owner.group.is_some() || owner.user.is_some();
        Ok(File {
            content: token.as_bytes().to_vec(),
            mode: if private { 0o600 } else { mode as u32 },
            user: owner.user.filter(|_| owner.group.is_none()),
        })
    }
}

fn file(content: Vec<u8>, mode: i32) -> File {
    File { content, mode: mode as u32 & 0o777, user: None }
}

fn files(object: &ObjectData, select: Selection<'_>) -> Result<Payload, Reason> {
    let Some(items) = select.items else {
        let all = object.data.iter();
        return Ok(all.map(|(k, v)| (k.clone(), file(v.clone(), select.mode))).collect());
    };
    let mut payload = Payload::new();
    for item in items {
        match object.data.get(&item.key) {
            Some(content) => {
                let mode = item.mode.unwrap_or(select.mode);
                payload.insert(item.path.clone(), file(content.clone(), mode));
            }
            None if select.optional => {}
            None => return Err(Reason::Missing("references non-existent config key: ".to_owned() + &item.key)),
        }
    }
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn items_choose_and_rename() {
        let object = ObjectData {
            data: BTreeMap::from([("a".to_owned(), b"1".to_vec()), ("b".to_owned(), b"2".to_vec())]),
            kind: None,
        };
        let items: Vec<KeyToPath> =
            serde_json::from_value(serde_json::json!([{"key": "b", "path": "x/y", "mode": 0o400}])).expect("items");
        let select = Selection { items: Some(&items), mode: 0o644, optional: false };
        let payload = files(&object, select).map_err(|e| e.to_string()).expect("a payload");
        assert_eq!(payload.keys().collect::<Vec<_>>(), ["x/y"]);
        assert_eq!(payload["x/y"].mode, 0o400);
        let all = files(&object, Selection { items: None, mode: 0o644, optional: false });
        assert_eq!(all.map_err(|e| e.to_string()).map(|p| p.len()), Ok(2));
        let absent: Vec<KeyToPath> =
            serde_json::from_value(serde_json::json!([{"key": "z", "path": "z"}])).expect("items");
        let select = Selection { items: Some(&absent), mode: 0o644, optional: false };
        let error = files(&object, select).map(|_| ()).map_err(|e| e.to_string());
        assert_eq!(error, Err("references non-existent config key: z".to_owned()));
    }
}
