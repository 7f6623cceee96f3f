//! The patch types of the API, as functions from the present object to the new one.

mod json;
mod schema;
mod strategic;

use serde_json::Value;

use crate::status::Status;

/// JSON patches longer than this are refused.
const MAX_OPERATIONS: usize = 10_000;

/// A patch of one of the types that a PATCH request can carry.
#[derive(Debug, Clone)]
pub(crate) enum Patch {
    /// RFC 6902.
    Json(json_patch::Patch),
    /// RFC 7386.
    Merge(Value),
    /// Kubernetes' merge, which knows how lists merge.
    Strategic(Value),
}

impl Patch {
    /// Parses the body of a request by its content type.
    pub(crate) fn parse(content_type: &str, body: &[u8]) -> Result<Self, Status> {
        let malformed = |e: serde_json::Error| Status::bad_request(format!("error decoding patch: {e}"));
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => {
                let patch: json_patch::Patch = serde_json::from_slice(body).map_err(malformed)?;
                if patch.0.len() > MAX_OPERATIONS {
                    let message = format!(
                        "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
                        patch.0.len()
                    );
                    return Err(Status::new(413, "RequestEntityTooLarge", message));
                }
                Ok(Self::Json(patch))
            }
            "application/merge-patch+json" => serde_json::from_slice(body).map(Self::Merge).map_err(malformed),
            "application/strategic-merge-patch+json" => {
                serde_json::from_slice(body).map(Self::Strategic).map_err(malformed)
            }
            "application/apply-patch+yaml" => Err(Status::unsupported_media_type(
                "server-side apply is not implemented by this server; use client-side apply (kubectl apply without \
                 --server-side)",
            )),
            other => Err(Status::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json \
                 (got {other:?})"
            ))),
        }
    }

    /// The object after the patch. `kind` decides how lists merge.
    pub(crate) fn apply(&self, kind: &str, object: &Value) -> Result<Value, Status> {
        let mut patched = object.clone();
        match self {
            Self::Json(patch) => json::apply(&mut patched, patch)?,
            Self::Merge(patch) => json_patch::merge(&mut patched, patch),
            Self::Strategic(patch) => strategic::apply(kind, &mut patched, patch)?,
        }
        if !patched.is_object() {
            return Err(Status::bad_request("the patch does not leave an object"));
        }
        Ok(patched)
    }
}
