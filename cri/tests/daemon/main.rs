//! The daemon as its clients see it: the program `orlop-cri` on a private node, driven over its socket, as root.
//! Each test has folders, a bridge, a subnet and a cgroup parent of its own, and asserts that nothing is left.

mod busybox;
mod inventory;
mod node;
mod pod;

mod crash;
mod exec;
mod lifecycle;
mod requests;
mod security;
mod stopping;
mod streams;
