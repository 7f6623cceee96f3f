//! The plugins: what one invocation is given ([`Request`]), what it answers, and the way from a plugin's name
//! to its function. The program and the in-process [`Runner`](crate::Runner) both enter here.

pub mod bridge;
mod delegate;
mod error;
pub mod host_local;
mod interface_name;
pub mod loopback;
pub mod portmap;
mod request;

use serde_json::{Map, Value};

use crate::nftables;
pub use error::Error;
pub use interface_name::host_interface_name;
pub use request::{Command, Request};

/// The types that [`run`] knows.
pub const TYPES: [&str; 4] = ["bridge", "host-local", "loopback", "portmap"];

/// Runs the plugin `kind`: the result for ADD, nothing for the other commands.
///
/// # Errors
/// [`Error::UnknownPlugin`] if `kind` is none of [`TYPES`]; what the plugin failed at otherwise.
pub fn run(kind: &str, request: &Request) -> Result<Option<Value>, Error> {
    match kind {
        "bridge" => bridge::run(request),
        "host-local" => host_local::run(request),
        "loopback" => loopback::run(request),
        "portmap" => portmap::run(request),
        _ => Err(Error::UnknownPlugin(kind.to_owned())),
    }
}

/// The nftables table that a configuration names: `nftTable`, or `orlop`.
pub(crate) fn nft_table(config: &Map<String, Value>) -> Result<nftables::Table, Error> {
    match config.get("nftTable") {
        None | Some(Value::Null) => nftables::Table::new(nftables::DEFAULT_TABLE),
        Some(Value::String(name)) => nftables::Table::new(name),
        Some(other) => Err(Error::config("nftTable", format!("{other} is not a string"))),
    }
}
