//! Reviews: questions about users that are answered and not stored; and tokens of service accounts.

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::{Value, json};

use super::authz::{Attributes, allowed};
use super::reply::Reply;
use super::request::ResourceRequest;
use super::{Api, authn};
use crate::registry::resource::{PODS, SERVICE_ACCOUNTS};
use crate::registry::{name_of, uid_of};
use crate::selectors::FieldSelector;
use crate::status::{Cause, Status};
use crate::time;
use crate::tokens::{ISSUER, unix_now};
use crate::user::User;

/// Answers a review.
pub(super) fn answer(api: &Api, user: &User, request: &ResourceRequest, mut review: Value) -> Result<Reply, Status> {
    require_objects(&review)?;
    let status = match request.plural.as_str() {
        "selfsubjectreviews" => json!({"userInfo": user_info(user)}),
        "tokenreviews" => token_review(api, &review["spec"]),
        "selfsubjectaccessreviews" => access(api, user, &review["spec"]),
        "subjectaccessreviews" | "localsubjectaccessreviews" => {
            access(api, &subject(&review["spec"])?, &review["spec"])
        }
        "selfsubjectrulesreviews" => rules(user),
        _ => return Err(Status::no_such_path()),
    };
    review["status"] = status;
    if review["metadata"].is_null() {
        review["metadata"] = json!({});
    }
    if request.plural == "selfsubjectreviews" || request.plural == "tokenreviews" {
        review["metadata"]["creationTimestamp"] = json!(time::now());
    }
    Ok(Reply::json(StatusCode::CREATED, &review))
}

/// Refuses a body that is no object, or whose parts are none.
fn require_objects(body: &Value) -> Result<(), Status> {
    if !body.is_object() {
        return Err(Status::bad_request("the body is not an object"));
    }
    for field in ["metadata", "spec"] {
        if !body[field].is_object() && !body[field].is_null() {
            return Err(Status::bad_request(format!("{field} is not an object")));
        }
    }
    Ok(())
}

fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = json!(user.uid);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

fn token_review(api: &Api, spec: &Value) -> Value {
    let mut audiences: Vec<String> = strings(&spec["audiences"]);
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    match authn::token_user(api, spec["token"].as_str().unwrap_or_default(), &audiences) {
        Ok((user, claims)) => {
            let given = match &claims["aud"] {
                Value::Array(list) => list.clone(),
                one => vec![one.clone()],
            };
            let common: Vec<Value> =
                given.into_iter().filter(|a| a.as_str().is_some_and(|a| audiences.iter().any(|b| a == b))).collect();
            json!({"authenticated": true, "user": user_info(&user), "audiences": common})
        }
        Err(reason) => {
            json!({"authenticated": false, "user": {}, "error": format!("[invalid bearer token, {reason}]")})
        }
    }
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn subject(spec: &Value) -> Result<User, Status> {
    let name = spec["user"].as_str().unwrap_or_default().to_owned();
    let groups = strings(&spec["groups"]);
    if name.is_empty() && groups.is_empty() {
        let message = "Required value: at least one of user or group must be specified".to_owned();
        let cause = Cause { reason: "FieldValueRequired", message, field: "spec.user".to_owned() };
        return Err(Status::invalid("authorization.k8s.io", "SubjectAccessReview", "", vec![cause]));
    }
    Ok(User { name, groups, uid: spec["uid"].as_str().unwrap_or_default().to_owned(), extra: BTreeMap::new() })
}

fn access(api: &Api, user: &User, spec: &Value) -> Value {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let asked = if spec["nonResourceAttributes"].is_object() {
        let inner = &spec["nonResourceAttributes"];
        Attributes { verb: text(&inner["verb"]), path: Some(text(&inner["path"])), ..Attributes::default() }
    } else {
        let inner = &spec["resourceAttributes"];
        Attributes {
            verb: text(&inner["verb"]),
            group: text(&inner["group"]),
            resource: text(&inner["resource"]),
            subresource: text(&inner["subresource"]),
            namespace: text(&inner["namespace"]),
            name: text(&inner["name"]),
            fields: FieldSelector::default(),
            path: None,
        }
    };
    json!({"allowed": allowed(&api.registry, user, &asked)})
}

fn rules(user: &User) -> Value {
    if user.in_group("system:masters") {
        let all = json!(["*"]);
        return json!({
            "resourceRules": [{"verbs": all, "apiGroups": all, "resources": all}],
            "nonResourceRules": [{"verbs": all, "nonResourceURLs": all}], "incomplete": false,
        });
    }
    // A node's rights depend on its pods, which this answer has no form for.
    let incomplete = user.node().is_some();
    json!({
        "resourceRules": [
            {"verbs": ["create"], "apiGroups": ["authorization.k8s.io"],
             "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"]},
            {"verbs": ["create"], "apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"]}],
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs":
            ["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version"]}],
        "incomplete": incomplete,
    })
}

/// A token lives at least this long.
const MIN_SECONDS: i64 = 600;
const DEFAULT_SECONDS: i64 = 3600;
const MAX_SECONDS: i64 = 1 << 32;

/// `serviceaccounts/token`: issues a token.
pub(super) fn issue_token(api: &Api, user: &User, request: &ResourceRequest, mut body: Value) -> Result<Reply, Status> {
    let (namespace, name) = (request.namespace.as_str(), request.name.as_str());
    require_objects(&body)?;
    let account = api.registry.get(&SERVICE_ACCOUNTS, namespace, name)?;
    let invalid = |field: &str, reason, message: String| {
        let cause = Cause { reason, message, field: field.to_owned() };
        Status::invalid("authentication.k8s.io", "TokenRequest", "", vec![cause])
    };
    let seconds = body["spec"]["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS);
    if !(MIN_SECONDS..=MAX_SECONDS).contains(&seconds) {
        let message = format!("Invalid value: {seconds}: may not specify a duration less than 10 minutes");
        return Err(invalid("spec.expirationSeconds", "FieldValueInvalid", message));
    }
    let mut audiences = strings(&body["spec"]["audiences"]);
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    let mut bound = json!({"namespace": namespace, "serviceaccount": {"name": name, "uid": uid_of(&account)}});
    bind_pod(api, user, namespace, name, &body["spec"]["boundObjectRef"], &mut bound)?;
    let now = unix_now();
    let end = now + seconds;
    let claims = json!({
        "iss": ISSUER, "sub": format!("system:serviceaccount:{namespace}:{name}"), "aud": audiences, "iat": now,
        "nbf": now, "exp": end, "jti": uuid::Uuid::new_v4().to_string(), "kubernetes.io": bound,
    });
    let token = api.signer.sign(&claims).ok_or_else(|| Status::internal("signing a token failed"))?;
    let expiry = jiff::Timestamp::from_second(end).map_err(Status::internal)?;
    body["apiVersion"] = json!("authentication.k8s.io/v1");
    body["kind"] = json!("TokenRequest");
    body["metadata"] = json!({"name": name, "namespace": namespace, "creationTimestamp": time::now()});
    body["spec"]["audiences"] = json!(audiences);
    body["spec"]["expirationSeconds"] = json!(seconds);
    body["status"] = json!({"token": token, "expirationTimestamp": time::format(expiry)});
    Ok(Reply::json(StatusCode::CREATED, &body))
}

fn bind_pod(
    api: &Api,
    user: &User,
    namespace: &str,
    account: &str,
    reference: &Value,
    bound: &mut Value,
) -> Result<(), Status> {
    let refuse = |why: &str| Err(Status::forbidden("", "serviceaccounts", account, why));
    if reference.is_null() {
        if user.node().is_some() {
            return refuse("node requested token not bound to a pod");
        }
        return Ok(());
    }
    if reference["kind"] != "Pod" || reference["apiVersion"] != "v1" {
        return Err(Status::bad_request(format!(
            "cannot bind token for serviceaccount {account:?} to object of type {}",
            reference["kind"]
        )));
    }
    let pod = api.registry.get(&PODS, namespace, reference["name"].as_str().unwrap_or_default())?;
    if let Some(uid) = reference["uid"].as_str().filter(|uid| !uid.is_empty() && *uid != uid_of(&pod)) {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
            uid_of(&pod)
        );
        return Err(Status::conflict("", "pods", name_of(&pod), &why));
    }
    if pod["spec"]["serviceAccountName"] != *account {
        let message = format!(
            "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
        );
        return Err(Status::bad_request(message));
    }
    if let Some(node) = user.node()
        && pod["spec"]["nodeName"] != *node
    {
        return refuse("node requested token bound to a pod scheduled on a different node");
    }
    bound["pod"] = json!({"name": name_of(&pod), "uid": uid_of(&pod)});
    if let Some(node) = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) {
        bound["node"] = json!({"name": node});
    }
    Ok(())
}
