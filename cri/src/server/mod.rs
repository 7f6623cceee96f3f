//! The two services: one file per call, or per few small ones. Here, and only here, requests are logged and errors
//! become gRPC statuses.

mod admin;
mod answer;
mod container;
mod events;
mod filter;
mod images;
mod list;
mod node;
mod sandbox;
mod services;
mod stats;
mod streams;
mod update;

pub(crate) use services::Services;
