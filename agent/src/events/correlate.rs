//! Which events become new objects, which raise a count, and which are too many. Pure: time is an argument.

use std::collections::{HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::json;

use super::{Happening, Severity};

/// Events an object may cause at once…
const BURST: f64 = 25.0;
/// …and how many a second afterwards.
const REFILL: f64 = 1.0 / 300.0;
/// Different messages of one reason in [`SIMILAR_WINDOW`] before they are merged.
const SIMILAR_LIMIT: usize = 10;
const SIMILAR_WINDOW: SignedDuration = SignedDuration::from_mins(10);
/// Entries remembered in each table; at the limit the table starts anew.
const REMEMBERED: usize = 4096;

/// What to tell the API server.
#[derive(Debug)]
pub(super) enum Write {
    Create(Box<Event>),
    /// Raise the count of an event; `event` is the whole of it, should it have expired.
    Count {
        event: Box<Event>,
        patch: serde_json::Value,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ObjectId {
    kind: String,
    namespace: String,
    name: String,
    uid: String,
    field: String,
}

impl ObjectId {
    fn of(object: &ObjectReference, with_field: bool) -> Self {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        Self {
            kind: text(&object.kind),
            namespace: text(&object.namespace),
            name: text(&object.name),
            uid: text(&object.uid),
            field: if with_field { text(&object.field_path) } else { String::new() },
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Subject {
    object: ObjectId,
    severity: Severity,
    reason: &'static str,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Timestamp,
}

#[derive(Debug)]
struct Similar {
    messages: HashSet<String>,
    at: Timestamp,
}

/// Remembers what was written.
#[derive(Debug)]
pub(super) struct Correlator {
    node_name: String,
    buckets: HashMap<ObjectId, Bucket>,
    similar: HashMap<Subject, Similar>,
    written: HashMap<(Subject, String), Event>,
}

impl Correlator {
    pub(super) fn new(node_name: &str) -> Self {
        Self {
            node_name: node_name.to_owned(),
            buckets: HashMap::new(),
            similar: HashMap::new(),
            written: HashMap::new(),
        }
    }

    /// What is to be written for a happening, if anything.
    pub(super) fn observe(&mut self, happening: &Happening, now: Timestamp) -> Option<Write> {
        if !self.take_token(ObjectId::of(&happening.object, false), now) {
            return None;
        }
        let subject = Subject {
            object: ObjectId::of(&happening.object, true),
            severity: happening.severity,
            reason: happening.reason,
        };
        let merged = self.too_similar(&subject, &happening.message, now);
        let message = if merged {
            format!("(combined from similar events): {}", happening.message)
        } else {
            happening.message.clone()
        };
        // Merged events share one object whatever they say.
        let identity = if merged { String::new() } else { message.clone() };
        if self.written.len() >= REMEMBERED {
            self.written.clear();
        }
        if let Some(event) = self.written.get_mut(&(subject.clone(), identity.clone())) {
            let count = event.count.unwrap_or(1).saturating_add(1);
            event.count = Some(count);
            event.last_timestamp = Some(Time(now));
            event.message = Some(message.clone());
            let patch = json!({"count": count, "lastTimestamp": Time(now), "message": message});
            return Some(Write::Count { event: Box::new(event.clone()), patch });
        }
        let event = self.new_event(happening, message, now);
        self.written.insert((subject, identity), event.clone());
        Some(Write::Create(Box::new(event)))
    }

    fn take_token(&mut self, object: ObjectId, now: Timestamp) -> bool {
        if self.buckets.len() >= REMEMBERED {
            self.buckets.clear();
        }
        let bucket = self.buckets.entry(object).or_insert(Bucket { tokens: BURST, at: now });
        let passed = now.duration_since(bucket.at).as_secs_f64().max(0.0);
        bucket.tokens = (bucket.tokens + passed * REFILL).min(BURST);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }

    fn too_similar(&mut self, subject: &Subject, message: &str, now: Timestamp) -> bool {
        if self.similar.len() >= REMEMBERED {
            self.similar.clear();
        }
        let similar =
            self.similar.entry(subject.clone()).or_insert_with(|| Similar { messages: HashSet::new(), at: now });
        if now.duration_since(similar.at) > SIMILAR_WINDOW {
            similar.messages.clear();
        }
        similar.at = now;
        if similar.messages.len() < SIMILAR_LIMIT {
            similar.messages.insert(message.to_owned());
        }
        similar.messages.len() >= SIMILAR_LIMIT
    }

    fn new_event(&self, happening: &Happening, message: String, now: Timestamp) -> Event {
        let object = &happening.object;
        let namespace = object.namespace.clone().filter(|n| !n.is_empty());
        let name = object.name.as_deref().unwrap_or_default();
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{:x}", now.as_nanosecond())),
                namespace: Some(namespace.unwrap_or_else(|| "default".to_owned())),
                ..ObjectMeta::default()
            },
            involved_object: object.clone(),
            reason: Some(happening.reason.to_owned()),
            message: Some(message),
            type_: Some(happening.severity.name().to_owned()),
            count: Some(1),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            source: Some(EventSource { component: Some("kubelet".to_owned()), host: Some(self.node_name.clone()) }),
            reporting_component: Some("kubelet".to_owned()),
            reporting_instance: Some(self.node_name.clone()),
            ..Event::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn happening(message: &str) -> Happening {
        Happening {
            object: ObjectReference {
                name: Some("p".to_owned()),
                namespace: Some("ns".to_owned()),
                ..ObjectReference::default()
            },
            severity: Severity::Warning,
            reason: "BackOff",
            message: message.to_owned(),
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("a time")
    }

    #[test]
    fn equal_events_are_counted() {
        let mut correlator = Correlator::new("n");
        assert!(matches!(correlator.observe(&happening("a"), at(0)), Some(Write::Create(_))));
        match correlator.observe(&happening("a"), at(1)) {
            Some(Write::Count { event, patch }) => {
                assert_eq!(event.count, Some(2));
                assert_eq!(patch["count"], 2);
                assert_eq!(patch["lastTimestamp"], "1970-01-01T00:00:01Z");
            }
            other => panic!("expected a count, got {other:?}"),
        }
    }

    #[test]
    fn different_messages_are_combined_after_ten() {
        let mut correlator = Correlator::new("n");
        for i in 0..9 {
            let write = correlator.observe(&happening(&format!("m{i}")), at(0));
            assert!(matches!(write, Some(Write::Create(_))), "{i}");
        }
        let Some(Write::Create(event)) = correlator.observe(&happening("m9"), at(0)) else {
            panic!("the first combined event is created");
        };
        assert_eq!(event.message.as_deref(), Some("(combined from similar events): m9"));
        assert!(matches!(correlator.observe(&happening("m10"), at(0)), Some(Write::Count { .. })));
    }

    #[test]
    fn a_flood_stops_and_trickles() {
        let mut correlator = Correlator::new("n");
        let written = (0..100).filter(|_| correlator.observe(&happening("a"), at(0)).is_some());
        assert_eq!(written.count(), 25);
        assert!(correlator.observe(&happening("a"), at(299)).is_none());
        assert!(correlator.observe(&happening("a"), at(600)).is_some());
    }
}
