//! Netlink, blocking: a socket that matches every answer to its question ([`Socket`]), and the questions of
//! rtnetlink ([`Route`]).

mod address;
mod link;
mod route;
mod socket;

pub use link::{Link, Veth};
pub use route::Route;
pub(crate) use socket::{Failure, Request, Socket};
