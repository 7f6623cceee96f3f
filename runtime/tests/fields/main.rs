//! Fields of config.json that few containers use, a file for each kind.

#[path = "../common/mod.rs"]
mod common;

mod id_maps;
mod labels;
mod mounts;
mod net_devices;
mod other;
mod schedule;
mod seccomp;
