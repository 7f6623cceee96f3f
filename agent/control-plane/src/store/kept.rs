//! An object as the cache holds it: a tree while it is current, text once it is history.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

/// Clones share one object. As a tree of small maps it takes some ten times the memory of its text.
#[derive(Debug, Clone)]
pub(super) struct Kept(Arc<Mutex<Form>>);

#[derive(Debug)]
enum Form {
    Tree(Arc<Value>),
    Text(Box<str>),
}

impl Kept {
    pub(super) fn new(value: Arc<Value>) -> Kept {
        Kept(Arc::new(Mutex::new(Form::Tree(value))))
    }

    /// The object; one that is text is parsed, each time.
    pub(super) fn value(&self) -> Arc<Value> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Form::Tree(value) => Arc::clone(value),
            // It was written from a tree: it can be read into one.
            Form::Text(text) => Arc::new(serde_json::from_str(text).unwrap_or_default()),
        }
    }

    /// Makes it text: it will hardly be read again.
    pub(super) fn shelve(&self) {
        let mut form = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Form::Tree(value) = &*form {
            *form = Form::Text(value.to_string().into_boxed_str());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_shelved_is_the_same_for_all_who_hold_it() {
        let object = json!({"metadata": {"name": "a\n\"é"}, "n": [1, -2, 3.5, u64::MAX, null, true]});
        let kept = Kept::new(Arc::new(object.clone()));
        let shared = kept.clone();
        kept.shelve();
        kept.shelve();
        assert_eq!(*shared.value(), object);
    }
}
