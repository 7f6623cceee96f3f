//! The library of `orlop-shim`, the small process that stays with each pod: the protocol it speaks, and
//! how its packets are sent and received.

pub mod packet;
pub mod protocol;
