//! What an operator can set about images.

use std::path::PathBuf;
use std::time::Duration;

/// How images are fetched and unpacked.
#[derive(Clone, Debug)]
pub struct RegistryConfig {
    /// Folder of `<host[:port]>/hosts.toml` files in containerd's format; none: every registry is asked directly.
    pub hosts_dir: Option<PathBuf>,
    /// Layers that are downloaded and unpacked at the same time, over all pulls.
    pub parallel_layers: usize,
    /// The architecture to choose from multi-platform images, in Go's names (`amd64`, `arm64`).
    pub architecture: String,
    pub limits: Limits,
}

/// Bounds on what a registry or an image, both of which may be hostile, can make the daemon spend.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a manifest, an index, an image config or a token answer.
    pub document: u64,
    /// Bytes of one unpacked layer.
    pub layer_bytes: u64,
    /// Entries (files, folders, links, whiteouts) of one layer.
    pub layer_entries: u64,
    /// Bytes of the paths of one layer that are kept in memory while it is unpacked.
    pub layer_names: u64,
    /// Layers of one image; the kernel stacks no more than 500.
    pub layers: usize,
    /// To connect, TLS included.
    pub connect_timeout: Duration,
    /// From the request to the head of the answer.
    pub answer_timeout: Duration,
    /// A download is given up when it waited for this long on the network and got less than `stall_bytes`.
    pub stall_window: Duration,
    pub stall_bytes: u64,
    /// How often a broken download is resumed from its last byte.
    pub resumes: u32,
}

impl Default for RegistryConfig {
    fn default() -> RegistryConfig {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        RegistryConfig {
            hosts_dir: None,
            parallel_layers: 3,
            architecture: architecture.to_owned(),
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            document: 4 << 20,
            layer_bytes: 32 << 30,
            layer_entries: 2_000_000,
            layer_names: 256 << 20,
            layers: 500,
            connect_timeout: Duration::from_secs(15),
            answer_timeout: Duration::from_mins(1),
            stall_window: Duration::from_mins(1),
            stall_bytes: 64 << 10,
            resumes: 5,
        }
    }
}
