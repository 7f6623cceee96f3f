//! What the black-box tests share: real images from Debian's packages, a real registry, a private orlop node,
//! kubectl, and the inventory that shows that nothing was left on the host.

pub mod command;
pub mod cri;
pub mod images;
pub mod inventory;
pub mod kubectl;
pub mod node;
pub mod programs;
pub mod registry;
pub mod residue;
pub mod vm;
pub mod wait;
