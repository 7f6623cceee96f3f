//! Images and their layers: pulled from registries or imported from archives, kept as an OCI image layout.
//!
//! ```text
//! reference -> registry (hosts.toml mirrors, then the origin) -> manifest -> config
//!                                                                    \-> layers, several at a time, each one pipeline:
//!              download -> hash -> ingest/N/blob
//!                               -> decompress -> hash -> unpack into ingest/N/layer/fs
//!              then, lowest layer first: settle on the layers below, rename to layers/<chain id>
//!              then: one syncfs, and the name goes into index.json by rename
//! ```
//!
//! An image exists when `index.json` names it. What `index.json` does not reach is removed when the store is opened,
//! so an interrupted pull leaves nothing. The module knows nothing of CRI messages.

mod config;
mod credentials;
mod digest;
mod error;
mod feed;
mod import;
mod layer;
mod manifest;
mod pull;
mod reference;
mod registry;
mod settings;
mod store;
mod types;

pub use config::{ImageConfig, ProcessDefaults, RootFs};
pub use credentials::{Credentials, Login, Secret};
pub use digest::{ChainId, Digest, ImageId};
pub use error::{Attempt, Error, UnpackError};
pub use reference::Reference;
pub use settings::{Limits, RegistryConfig};
pub use store::{ImageLease, ImageStore};
pub use types::{Image, ImportOptions, Progress, Usage};

/// The result of an operation on images.
pub type Result<T> = std::result::Result<T, Error>;
