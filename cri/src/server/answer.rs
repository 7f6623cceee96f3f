//! How a call is run: to its end, logged, its error made a status.

use std::future::Future;
use std::time::Instant;

use tonic::{Code, Response, Status};

use crate::engine::Shared;
use crate::error::{Error, Kind, Result};

/// A call that takes longer is worth a line in the log.
const SLOW_SECONDS: f64 = 10.0;

/// Runs a call in a task of its own: a client that gives up does not stop it half-way. Requests and answers are
/// never logged: they hold secrets.
pub(super) async fn answer<T, F>(engine: &Shared, call: &'static str, work: F) -> Result<Response<T>, Status>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    tell(call, engine.detached(work)).await
}

/// The same for a call that ends with its client: it leaves nothing half-made when it is cut off.
pub(super) async fn tell<T>(call: &'static str, work: impl Future<Output = Result<T>>) -> Result<Response<T>, Status> {
    let begun = Instant::now();
    let outcome = work.await;
    let seconds = begun.elapsed().as_secs_f64();
    match &outcome {
        Ok(_) if seconds > SLOW_SECONDS => tracing::info!(call, seconds, "done, slowly"),
        Ok(_) => tracing::debug!(call, seconds, "done"),
        Err(error) if is_the_callers(error.kind()) => {
            tracing::debug!(call, seconds, kind = ?error.kind(), "refused: {}", error.chain());
        }
        Err(error) => tracing::warn!(call, seconds, kind = ?error.kind(), "failed: {}", error.chain()),
    }
    outcome.map(Response::new).map_err(|error| status(&error))
}

fn is_the_callers(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::NotFound | Kind::InvalidArgument | Kind::FailedPrecondition | Kind::AlreadyExists | Kind::Unimplemented
    )
}

/// The status that a client gets for an error.
pub(super) fn status(error: &Error) -> Status {
    let code = match error.kind() {
        Kind::NotFound => Code::NotFound,
        Kind::InvalidArgument => Code::InvalidArgument,
        Kind::FailedPrecondition => Code::FailedPrecondition,
        Kind::AlreadyExists => Code::AlreadyExists,
        Kind::DeadlineExceeded => Code::DeadlineExceeded,
        Kind::Unavailable => Code::Unavailable,
        Kind::Denied => Code::PermissionDenied,
        Kind::Exhausted => Code::ResourceExhausted,
        Kind::Unimplemented => Code::Unimplemented,
        Kind::Internal => Code::Internal,
    };
    Status::new(code, error.chain())
}
