//! The form that a client wants its answer in.

use http::HeaderMap;

use crate::status::Status;

/// How objects are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Object,
    /// Rows and columns for people.
    Table,
    /// Type and metadata only.
    Metadata,
}

/// The first form of the Accept header that can be served.
pub(super) fn form(headers: &HeaderMap) -> Result<Form, Status> {
    let accept = headers.get(http::header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if accept.trim().is_empty() {
        return Ok(Form::Object);
    }
    for entry in accept.split(',') {
        let mut parts = entry.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        if !matches!(media, "application/json" | "*/*" | "application/*") {
            continue;
        }
        let parameter = |name: &str| {
            entry.split(';').skip(1).filter_map(|p| p.trim().split_once('=')).find(|(key, _)| *key == name).map(|p| p.1)
        };
        match (parameter("as"), parameter("v")) {
            (None, _) => return Ok(Form::Object),
            (Some("Table"), Some("v1") | None) => return Ok(Form::Table),
            (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), Some("v1") | None) => {
                return Ok(Form::Metadata);
            }
            _ => {}
        }
    }
    let message = "only the following media types are accepted: application/json";
    Err(Status::new(406, "NotAcceptable", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(accept: &str) -> Result<Form, Status> {
        let mut headers = HeaderMap::new();
        headers.insert(http::header::ACCEPT, accept.parse().unwrap());
        form(&headers)
    }

    #[test]
    fn the_first_form_that_can_be_served_wins() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(of(table).unwrap(), Form::Table);
        assert_eq!(of("application/vnd.kubernetes.protobuf, */*").unwrap(), Form::Object);
        let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
        assert_eq!(of(metadata).unwrap(), Form::Metadata);
        assert_eq!(of("application/cbor").unwrap_err().code, 406);
        assert_eq!(form(&HeaderMap::new()).unwrap(), Form::Object);
    }
}
