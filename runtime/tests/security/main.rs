//! The classes of known holes in container runtimes, each as an attack that must fail. docs/security.md says
//! which test is about which, what defends, and how each test was seen to fail.
//!
//! Races run `ORLOP_RACES` times (60). With `ORLOP_TEST_RUNTIME` another runtime with runc's command line is
//! attacked.

#[path = "../common/mod.rs"]
mod common;

mod attacks;
mod harness;

mod capabilities;
mod cgroups;
mod config;
mod config_paths;
mod console;
mod descriptors;
mod devices;
mod exe;
mod masks;
mod mount_targets;
mod procfs;
mod ptrace;
mod seccomp;
mod users;
