//! What goes wrong in the daemon: a kind, which the server turns into a gRPC status, and a message that names
//! the step and the object.

use std::fmt;
use std::sync::Arc;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What an error means to the caller. The names are those of gRPC's status codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The object is not known.
    NotFound,
    /// The request is wrong and will be wrong again.
    InvalidArgument,
    /// The object is in another state than the request needs.
    FailedPrecondition,
    /// An object of that name exists.
    AlreadyExists,
    /// A step took longer than it may.
    DeadlineExceeded,
    /// Something that the daemon needs does not answer now; trying again may help.
    Unavailable,
    /// A registry refused the credentials, or wants some.
    Denied,
    /// A limit of the daemon's own is reached; it passes.
    Exhausted,
    /// The daemon cannot do this.
    Unimplemented,
    /// A step failed.
    Internal,
}

/// An error of the daemon.
///
/// `Display` names the step; the cause is the `source`. [`Error::chain`] prints both.
#[derive(Debug, Clone)]
pub struct Error {
    kind: Kind,
    step: String,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error without a cause.
    pub fn new(kind: Kind, step: impl Into<String>) -> Error {
        Error { kind, step: step.into(), source: None }
    }

    /// A step that failed for `source`.
    pub fn because(
        kind: Kind,
        step: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        Error { kind, step: step.into(), source: Some(source.into().into()) }
    }

    pub(crate) fn invalid(step: impl Into<String>) -> Error {
        Error::new(Kind::InvalidArgument, step)
    }

    pub(crate) fn not_found(step: impl Into<String>) -> Error {
        Error::new(Kind::NotFound, step)
    }

    pub(crate) fn precondition(step: impl Into<String>) -> Error {
        Error::new(Kind::FailedPrecondition, step)
    }

    pub(crate) fn unimplemented(step: impl Into<String>) -> Error {
        Error::new(Kind::Unimplemented, step)
    }

    pub(crate) fn internal(step: impl Into<String>) -> Error {
        Error::new(Kind::Internal, step)
    }

    /// The same error, and what went wrong while undoing what had been done before it.
    pub(crate) fn and_cleanup(mut self, cleanup: Result<()>) -> Error {
        if let Err(cleanup) = cleanup {
            self.step = format!("{} (and the clean-up after it failed: {})", self.step, cleanup.chain());
        }
        self
    }

    /// One error for all that went wrong in a tear-down; none for none.
    pub(crate) fn gather(errors: Vec<Error>) -> Result<()> {
        let mut errors = errors.into_iter();
        let Some(mut first) = errors.next() else { return Ok(()) };
        for error in errors {
            first.step = format!("{}; {}", first.step, error.chain());
        }
        Err(first)
    }

    /// What the error means to the caller.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The step and every cause below it, on one line.
    pub fn chain(&self) -> String {
        let mut text = self.step.clone();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.step)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

/// Names the step that failed; the text is only made on failure.
pub(crate) trait Context<T> {
    fn context(self, kind: Kind, step: impl FnOnce() -> String) -> Result<T>;

    /// A step that fails for reasons of the machine.
    fn step(self, step: impl FnOnce() -> String) -> Result<T>
    where
        Self: Sized,
    {
        self.context(Kind::Internal, step)
    }
}

impl<T, E: Into<Box<dyn std::error::Error + Send + Sync>>> Context<T> for Result<T, E> {
    fn context(self, kind: Kind, step: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::because(kind, step(), source))
    }
}

#[cfg(test)]
mod tests {
    use super::{Context, Kind};

    #[test]
    fn the_chain_names_every_step_once() {
        let inner: Result<(), _> = Err(std::io::Error::from_raw_os_error(2));
        let outer =
            inner.step(|| "read /x".to_owned()).context(Kind::NotFound, || "load the record".to_owned()).unwrap_err();
        assert_eq!(outer.kind(), Kind::NotFound);
        assert_eq!(outer.chain(), "load the record: read /x: No such file or directory (os error 2)");
    }
}
