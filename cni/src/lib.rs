//! CNI, from both sides of its seam.
//!
//! *As a runtime*: [`NetworkConfigList`] reads `/etc/cni/net.d`, and a [`Runner`] runs the chain of
//! plugins it names, caches the results, and undoes them.
//!
//! *As plugins*: `bridge`, `host-local`, `loopback` and `portmap` are functions of [`plugin`]. The program
//! `orlop-cni` calls them by the name it is called by; a [`Runner`] may call the same functions in its own
//! process, because starting a program costs more than all the work it does.
//!
//! Everything blocks; an asynchronous caller uses a thread for it.

mod attachment;
mod config;
mod error;
pub mod host_local;
pub mod netlink;
pub mod netns;
pub mod nftables;
mod node;
pub mod plugin;
mod result;
mod runner;
mod version;

pub use attachment::{Attachment, AttachmentId, PortMapping, Protocol};
pub use config::{ConfigError, NetworkConfigList, PluginConfig, validate_interface_name};
pub use error::Error;
pub use node::{remove_network, remove_node_rules};
pub use result::{CniResult, Dns, Interface, IpConfig, Route};
pub use runner::Runner;
pub use version::{Version, VersionInfo};
