//! What a request is about, from its method and URI.

use std::collections::BTreeMap;

use http::{Method, Uri};

use crate::registry::resource::{self, Resource};
use crate::selectors::{FieldSelector, FieldTerm};
use crate::status::Status;

/// A request for an API resource. `resource` is none for the virtual ones (reviews).
#[derive(Debug, Clone)]
pub(super) struct ResourceRequest {
    pub(super) verb: &'static str,
    pub(super) group: String,
    pub(super) version: String,
    pub(super) plural: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) subresource: String,
    pub(super) resource: Option<&'static Resource>,
    pub(super) query: Query,
}

/// A request.
#[derive(Debug, Clone)]
pub(super) enum RequestInfo {
    Path { verb: &'static str, path: String },
    Resource(ResourceRequest),
}

/// Query parameters, decoded.
#[derive(Debug, Clone, Default)]
pub(super) struct Query(BTreeMap<String, Vec<String>>);

impl Query {
    pub(super) fn parse(query: &str) -> Self {
        let mut parameters: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            parameters.entry(decode(key)).or_default().push(decode(value));
        }
        Self(parameters)
    }

    /// The first value, or the empty string.
    pub(super) fn get(&self, key: &str) -> &str {
        self.0.get(key).and_then(|values| values.first()).map_or("", String::as_str)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    pub(super) fn flag(&self, key: &str) -> bool {
        matches!(self.get(key), "true" | "1" | "True")
    }

    /// A number, when the parameter is there.
    pub(super) fn number(&self, key: &str) -> Result<Option<i64>, Status> {
        match self.get(key) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| Status::bad_request(format!("{key}: {text:?} is not a number"))),
        }
    }

    /// Every pair, in order.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().flat_map(|(key, values)| values.iter().map(move |value| (key.as_str(), value.as_str())))
    }
}

/// Percent-decoding, with `+` as a space.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let mut ahead = rest.clone();
                let digits = (ahead.next(), ahead.next());
                let digit = |d: Option<u8>| d.and_then(|d| char::from(d).to_digit(16));
                if let (Some(high), Some(low)) = (digit(digits.0), digit(digits.1)) {
                    bytes.push((high * 16 + low) as u8);
                    rest = ahead;
                } else {
                    bytes.push(b'%');
                }
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Encodes everything that is not unreserved (RFC 3986).
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let digit = |half: u8| char::from(b"0123456789ABCDEF"[usize::from(half)]);
            out.extend(['%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    out
}

pub(super) fn parse(method: &Method, uri: &Uri) -> Result<RequestInfo, Status> {
    let path = uri.path();
    let segments: Vec<String> = path.split('/').filter(|s| !s.is_empty()).map(decode).collect();
    let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
        ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
        _ => {
            let verb = path_verb(method);
            return Ok(RequestInfo::Path { verb, path: path.to_owned() });
        }
    };
    let (namespace, rest) = match rest {
        // The namespace itself, or one of its sub-resources.
        ["namespaces", name, sub @ ("status" | "finalize")] => {
            return finish(method, uri, group, version, "", &["namespaces", name, sub]);
        }
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
        rest => ("", rest),
    };
    finish(method, uri, group, version, namespace, rest)
}

fn finish(
    method: &Method,
    uri: &Uri,
    group: &str,
    version: &str,
    namespace: &str,
    rest: &[&str],
) -> Result<RequestInfo, Status> {
    let (plural, name, subresource) = match rest {
        [plural] => (*plural, "", ""),
        [plural, name] => (*plural, *name, ""),
        [plural, name, subresource] => (*plural, *name, *subresource),
        _ => return Err(Status::no_such_path()),
    };
    let query = Query::parse(uri.query().unwrap_or_default());
    let verb = match *method {
        Method::GET | Method::HEAD if query.flag("watch") && subresource.is_empty() => "watch",
        Method::GET | Method::HEAD if name.is_empty() => "list",
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if name.is_empty() => "deletecollection",
        Method::DELETE => "delete",
        _ => return Err(Status::method_not_allowed()),
    };
    Ok(RequestInfo::Resource(ResourceRequest {
        verb,
        group: group.to_owned(),
        version: version.to_owned(),
        plural: plural.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        subresource: subresource.to_owned(),
        resource: resource::find(group, version, plural),
        query,
    }))
}

fn path_verb(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "other",
    }
}

impl ResourceRequest {
    /// The field selector, checked against the fields that the resource can be selected by. A watch of one object by
    /// its path is the same as one by a selector of its name.
    pub(super) fn fields(&self) -> Result<FieldSelector, Status> {
        let mut selector = FieldSelector::parse(self.query.get("fieldSelector"))?;
        if self.verb == "watch" && !self.name.is_empty() {
            let path = "metadata.name".to_owned();
            selector.0.insert(0, FieldTerm { path, value: self.name.clone(), equal: true });
        }
        let known = self.resource.map_or(&[][..], |r| r.fields);
        for term in &selector.0 {
            let common = matches!(term.path.as_str(), "metadata.name" | "metadata.namespace");
            if !common && !known.contains(&term.path.as_str()) {
                let message = format!("field label not supported: {}", term.path);
                return Err(Status::bad_request(message));
            }
        }
        Ok(selector)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(method: &Method, uri: &str) -> ResourceRequest {
        match parse(method, &uri.parse().unwrap()).unwrap() {
            RequestInfo::Resource(request) => request,
            RequestInfo::Path { path, .. } => panic!("{path} is no resource"),
        }
    }

    #[test]
    fn resources_are_found_in_paths() {
        let request = resource(&Method::GET, "/api/v1/namespaces/ns/pods/p/log?container=a%20b&follow=true");
        assert_eq!((request.verb, request.plural.as_str(), request.subresource.as_str()), ("get", "pods", "log"));
        assert_eq!((request.namespace.as_str(), request.name.as_str()), ("ns", "p"));
        assert_eq!(request.query.get("container"), "a b");
        let request = resource(&Method::GET, "/apis/apps/v1/deployments?watch=1");
        assert_eq!((request.verb, request.group.as_str(), request.namespace.as_str()), ("watch", "apps", ""));
        let request = resource(&Method::DELETE, "/api/v1/namespaces/ns");
        assert_eq!((request.verb, request.plural.as_str(), request.name.as_str()), ("delete", "namespaces", "ns"));
        let request = resource(&Method::PUT, "/api/v1/namespaces/ns/finalize");
        assert_eq!((request.plural.as_str(), request.subresource.as_str()), ("namespaces", "finalize"));
        assert!(matches!(parse(&Method::GET, &"/apis/apps/v1".parse().unwrap()), Ok(RequestInfo::Path { .. })));
    }
}
