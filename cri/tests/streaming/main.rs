//! The streaming server against real peers: clients over real sockets on one side, real processes and TCP servers on
//! the other.

mod backend;
mod http;
mod spdy;

mod command_spdy;
mod command_websocket;
mod forward_spdy;
mod forward_websocket;
mod python_client;
mod refusals;
