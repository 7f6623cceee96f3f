//! Containers of ordinary users, and of root with a user namespace.

#[path = "../common/mod.rs"]
mod common;

mod cgroups;
mod life;
mod manager;
mod mounts;
mod nested;
mod ranges;
mod refusals;
mod root;
mod user;
