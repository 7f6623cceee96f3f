//! Why a stream could not be set up.

use std::io;
use std::net::SocketAddr;

/// What keeps the server from starting or from handing out a URL.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("streaming server: cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("no stream was asked for: at least one of stdin, stdout and stderr must be")]
    NoStream,
    #[error("a terminal has no stderr of its own: ask for tty or for stderr, not both")]
    TtyWithStderr,
    #[error("no container or sandbox id was given")]
    NoTarget,
    #[error("no command was given")]
    NoCommand,
    /// A minute clears them; the caller answers RESOURCE_EXHAUSTED.
    #[error("{limit} streams are waiting for their clients; try again in a minute")]
    TooManyPending { limit: usize },
}
