//! Objects by id. The lock is held for a look-up only, never across an await.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::error::{Error, Result};

/// What a [`Table`] holds.
pub(crate) trait Identified {
    fn id(&self) -> &str;
}

/// Objects of one kind by id.
#[derive(Debug)]
pub(crate) struct Table<T> {
    kind: &'static str,
    objects: RwLock<BTreeMap<String, Arc<T>>>,
}

impl<T: Identified> Table<T> {
    pub(crate) fn new(kind: &'static str) -> Table<T> {
        Table { kind, objects: RwLock::default() }
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<String, Arc<T>>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<String, Arc<T>>> {
        self.objects.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn insert(&self, object: Arc<T>) {
        self.write().insert(object.id().to_owned(), object);
    }

    pub(crate) fn remove(&self, id: &str) {
        self.write().remove(id);
    }

    /// The object with this id, or the only one whose id begins so.
    pub(crate) fn find(&self, id: &str) -> Result<Arc<T>> {
        if id.is_empty() {
            return Err(Error::invalid(format!("the {} id is empty", self.kind)));
        }
        let objects = self.read();
        let mut matches =
            objects.range::<str, _>((Bound::Included(id), Bound::Unbounded)).take_while(|(key, _)| key.starts_with(id));
        match (matches.next(), matches.next()) {
            (None, _) => Err(Error::not_found(format!("no {} {id}", self.kind))),
            (Some((key, object)), second) if key == id || second.is_none() => Ok(object.clone()),
            _ => Err(Error::invalid(format!("more than one {} has an id that begins with {id}", self.kind))),
        }
    }

    /// As [`Table::find`], with `None` for an object that is not there: for calls that are idempotent.
    pub(crate) fn find_or_gone(&self, id: &str) -> Result<Option<Arc<T>>> {
        match self.find(id) {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.kind() == crate::error::Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether this very object is in the table.
    pub(crate) fn has(&self, object: &Arc<T>) -> bool {
        self.read().get(object.id()).is_some_and(|found| Arc::ptr_eq(found, object))
    }

    /// All objects, by id.
    pub(crate) fn list(&self) -> Vec<Arc<T>> {
        self.read().values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Identified, Table};
    use crate::error::Kind;
    use std::sync::Arc;

    impl Identified for String {
        fn id(&self) -> &str {
            self
        }
    }

    #[test]
    fn an_object_is_found_by_a_prefix_that_fits_only_it() {
        let table = Table::new("thing");
        for id in ["ab", "abc", "abd", "b"] {
            table.insert(Arc::new(id.to_owned()));
        }
        assert_eq!(*table.find("ab").unwrap(), "ab");
        assert_eq!(*table.find("abc").unwrap(), "abc");
        assert_eq!(table.find("a").unwrap_err().kind(), Kind::InvalidArgument);
        assert_eq!(table.find("").unwrap_err().kind(), Kind::InvalidArgument);
        assert_eq!(table.find("c").unwrap_err().kind(), Kind::NotFound);
        assert!(table.find_or_gone("abcd").unwrap().is_none());
        assert!(table.has(&table.find("ab").unwrap()) && !table.has(&Arc::new("ab".to_owned())));
    }
}
