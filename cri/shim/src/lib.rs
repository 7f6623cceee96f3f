//! The library of `orlop-shim`, the small process that stays with each pod: the protocol it speaks,
//! how its packets are sent, and the pod folder that it leaves behind if it is killed.

pub mod packet;
pub mod pins;
pub mod protocol;
