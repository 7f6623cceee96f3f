//! Label and field selectors, in the text form of query parameters and the object form of specs.

use serde_json::{Map, Value};

use crate::status::Status;

/// One requirement on a label.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

/// All requirements must hold; the empty selector matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LabelSelector(Vec<Requirement>);

impl LabelSelector {
    /// Parses `a=b,c!=d,e in (f,g),!h`.
    pub(crate) fn parse(text: &str) -> Result<Self, Status> {
        let mut requirements = Vec::new();
        for part in split_outside_parentheses(text) {
            let part = part.trim();
            if part.is_empty() {
                continue;
            }
            let requirement = parse_requirement(part).ok_or_else(|| {
                Status::bad_request(format!("unable to parse requirement: found {part:?} in selector {text:?}"))
            })?;
            requirements.push(requirement);
        }
        Ok(Self(requirements))
    }

    /// Reads `{matchLabels, matchExpressions}`. `None` when an operator is unknown.
    pub(crate) fn from_object(selector: &Value) -> Option<Self> {
        let mut requirements = Vec::new();
        for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
            requirements.push(Requirement::In(key.clone(), vec![value.as_str()?.to_owned()]));
        }
        for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
            let key = expression["key"].as_str()?.to_owned();
            let values = || expression["values"].as_array().map(|v| strings(v)).unwrap_or_default();
            requirements.push(match expression["operator"].as_str()? {
                "In" => Requirement::In(key, values()),
                "NotIn" => Requirement::NotIn(key, values()),
                "Exists" => Requirement::Exists(key),
                "DoesNotExist" => Requirement::Absent(key),
                _ => return None,
            });
        }
        Some(Self(requirements))
    }

    /// Whether an object's labels (`metadata.labels`, or null) satisfy every requirement.
    pub(crate) fn matches(&self, labels: &Value) -> bool {
        let labels = labels.as_object();
        self.0.iter().all(|requirement| requirement.holds(labels))
    }

    /// Whether it matches everything.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, requirement) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match requirement {
                Requirement::In(key, values) if values.len() == 1 => write!(f, "{key}={}", values[0])?,
                Requirement::In(key, values) => write!(f, "{key} in ({})", values.join(","))?,
                Requirement::NotIn(key, values) => write!(f, "{key} notin ({})", values.join(","))?,
                Requirement::Exists(key) => f.write_str(key)?,
                Requirement::Absent(key) => write!(f, "!{key}")?,
            }
        }
        Ok(())
    }
}

impl Requirement {
    fn holds(&self, labels: Option<&Map<String, Value>>) -> bool {
        let get = |key: &String| labels.and_then(|l| l.get(key)).and_then(Value::as_str);
        match self {
            Self::In(key, values) => get(key).is_some_and(|v| values.iter().any(|w| w == v)),
            // A label that is absent is not in any set.
            Self::NotIn(key, values) => get(key).is_none_or(|v| values.iter().all(|w| w != v)),
            Self::Exists(key) => get(key).is_some(),
            Self::Absent(key) => get(key).is_none(),
        }
    }
}

fn strings(values: &[Value]) -> Vec<String> {
    values.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0i32, 0);
    for (index, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn parse_requirement(part: &str) -> Option<Requirement> {
    if let Some(key) = part.strip_prefix('!') {
        return Some(Requirement::Absent(label_key(key)?));
    }
    if let Some(open) = part.find('(') {
        let values = part[open + 1..].strip_suffix(')')?.split(',').map(|v| v.trim().to_owned()).collect();
        let (key, operator) = part[..open].trim().rsplit_once(char::is_whitespace)?;
        let key = label_key(key)?;
        return match operator {
            "in" => Some(Requirement::In(key, values)),
            "notin" => Some(Requirement::NotIn(key, values)),
            _ => None,
        };
    }
    if let Some((key, value)) = part.split_once("!=") {
        return Some(Requirement::NotIn(label_key(key)?, vec![label_value(value)?]));
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Some(Requirement::In(label_key(key)?, vec![label_value(value)?]));
    }
    Some(Requirement::Exists(label_key(part)?))
}

fn label_key(text: &str) -> Option<String> {
    let text = text.trim();
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    (!text.is_empty() && text.chars().all(allowed)).then(|| text.to_owned())
}

fn label_value(text: &str) -> Option<String> {
    let text = text.trim();
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    text.chars().all(allowed).then(|| text.to_owned())
}

/// One term of a field selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldTerm {
    pub(crate) path: String,
    pub(crate) value: String,
    pub(crate) equal: bool,
}

/// All terms must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FieldSelector(pub(crate) Vec<FieldTerm>);

impl FieldSelector {
    /// Parses `metadata.name=x,status.phase!=Running`.
    pub(crate) fn parse(text: &str) -> Result<Self, Status> {
        let mut terms = Vec::new();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (path, value, equal) = if let Some((path, value)) = part.split_once("!=") {
                (path, value, false)
            } else if let Some((path, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (path, value, true)
            } else {
                let message = format!("invalid selector: '{text}'; can't understand '{part}'");
                return Err(Status::bad_request(message));
            };
            terms.push(FieldTerm { path: path.trim().to_owned(), value: value.trim().to_owned(), equal });
        }
        Ok(Self(terms))
    }

    /// Whether the object satisfies every term; an absent field is the empty string.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|term| {
            let found = term.path.split('.').fold(object, |at, key| &at[key]);
            let equal = match found {
                Value::String(text) => *text == term.value,
                Value::Null => term.value.is_empty() || term.value == "false",
                Value::Bool(flag) => flag.to_string() == term.value,
                Value::Number(number) => number.to_string() == term.value,
                Value::Array(items) => items.iter().any(|i| i["ip"].as_str() == Some(term.value.as_str())),
                Value::Object(_) => false,
            };
            equal == term.equal
        })
    }

    /// The value that `metadata.name` must equal, when it must.
    pub(crate) fn name(&self) -> Option<&str> {
        self.0.iter().find(|t| t.equal && t.path == "metadata.name").map(|t| t.value.as_str())
    }

    /// Whether it matches everything.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn label_selectors_follow_the_grammar() {
        let labels = json!({"app": "web", "tier": "front", "empty": ""});
        let matching = [
            "",
            "app=web",
            "app==web",
            "app!=db",
            "app in (web, db)",
            "tier notin (back)",
            "app",
            "!missing",
            "app=web,tier in (front),!x",
            "missing!=y",
            "empty=",
            "missing notin (a,b)",
        ];
        for text in matching {
            assert!(LabelSelector::parse(text).unwrap().matches(&labels), "{text}");
        }
        for text in ["app=db", "app!=web", "app notin (web)", "!app", "missing", "app in (db)", "app=web,x=y"] {
            assert!(!LabelSelector::parse(text).unwrap().matches(&labels), "{text}");
        }
        for text in ["app in web", "a b", "=x", "app in (x", "a=b c"] {
            assert!(LabelSelector::parse(text).is_err(), "{text}");
        }
        assert!(!LabelSelector::parse("app").unwrap().matches(&Value::Null));
    }

    #[test]
    fn selectors_of_specs_match_and_print() {
        let object = json!({"matchLabels": {"app": "web"}, "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["a", "b"]}, {"key": "x", "operator": "DoesNotExist"}]});
        let selector = LabelSelector::from_object(&object).unwrap();
        assert!(selector.matches(&json!({"app": "web", "tier": "b"})));
        assert!(!selector.matches(&json!({"app": "web", "tier": "b", "x": ""})));
        assert_eq!(selector.to_string(), "app=web,tier in (a,b),!x");
        assert_eq!(LabelSelector::from_object(&json!({"matchExpressions": [{"key": "x", "operator": "Gt"}]})), None);
    }

    #[test]
    fn field_selectors_compare_text_flags_and_absent_fields() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n"}, "status": {"phase": "Running"}});
        let matching = ["metadata.name=p", "spec.nodeName=n,status.phase!=Failed", "spec.hostNetwork=false", "a.b="];
        for text in matching {
            assert!(FieldSelector::parse(text).unwrap().matches(&pod), "{text}");
        }
        assert!(!FieldSelector::parse("status.phase!=Running").unwrap().matches(&pod));
        assert!(FieldSelector::parse("metadata.name").is_err());
        assert_eq!(FieldSelector::parse("metadata.name=p").unwrap().name(), Some("p"));
    }
}
