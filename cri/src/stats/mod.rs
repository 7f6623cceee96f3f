//! What containers and pods use, read when asked: cgroup files, and writable layers by walking them.

mod container;
mod disk;
mod files;
mod pod;
mod rate;

pub(crate) use container::{container, writable_layer};
pub(crate) use disk::{Disk, DiskUsage};
pub(crate) use pod::pod;
pub(crate) use rate::Rate;
