//! Small helpers for shared state.

use std::sync::{Mutex, MutexGuard};

/// Locks; a panic in another task leaves values whole here, since none is changed in more than one step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
