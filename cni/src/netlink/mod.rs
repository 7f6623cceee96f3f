//! Netlink, blocking: a socket that matches every answer to its question ([`Socket`]), and the questions of
//! rtnetlink ([`Route`]).

mod address;
mod conntrack;
mod link;
mod route;
mod socket;

pub(crate) use conntrack::forget_udp_flows;
pub use link::{Link, Veth};
pub use route::Route;
pub(crate) use socket::{Failure, Request, Socket};
