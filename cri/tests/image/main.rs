//! The image store on a real disk and against a real registry (Debian's docker-registry), as root.

mod build;
mod fixture;
mod registry;

mod hostile;
mod import;
mod pull;
mod stack;
mod store;
