//! What containers and pods use, read from cgroup files when asked; nothing is polled.

mod container;
mod disk;
mod files;
mod pod;
mod rate;

pub(crate) use container::container;
pub(crate) use disk::usage_of;
pub(crate) use pod::pod;
pub(crate) use rate::Rate;
