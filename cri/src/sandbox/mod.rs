//! The life of a pod sandbox: run, stop, remove.

mod check;
mod files;
mod remove;
mod run;
mod stop;

pub(crate) use files::{dispose, shim_is_gone, unpin};
pub(crate) use remove::{remove, undo};
pub(crate) use run::run;
pub(crate) use stop::{lost, stop, stop_locked};
