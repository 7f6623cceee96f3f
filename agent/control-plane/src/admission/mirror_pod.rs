//! Mirrors of static pods. A static pod runs without the API, so its mirror names nothing in the API; if it could,
//! a node that may create it would get at any secret, and at any service account's token.

use serde_json::Value;

use crate::registry::{name_of, references};
use crate::status::Status;

/// Whether a pod is the mirror of a static one.
pub(super) fn is_mirror(pod: &Value) -> bool {
    !pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_null()
}

pub(super) fn check(pod: &Value) -> Result<(), Status> {
    let refuse = |why: &str| Err(Status::forbidden("", "pods", name_of(pod), why));
    let spec = &pod["spec"];
    if ["serviceAccountName", "serviceAccount"].iter().any(|f| !spec[f].as_str().unwrap_or_default().is_empty()) {
        return refuse("a mirror pod may not reference service accounts");
    }
    if references::any(spec, &mut |_, _| true) {
        return refuse("a mirror pod may not reference API objects (secrets, config maps, claims, tokens)");
    }
    Ok(())
}
