//! How a command ended, as the error stream tells it.

use std::error::Error as StdError;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::backend::BackendError;

/// How the version of the protocol wants to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StatusVersion {
    /// Version 4 and later: a `Status` object of the Kubernetes API, for success too.
    Json,
    /// Before: the message of a failure; nothing for success.
    Text,
}

/// How a command or the attachment to one ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Exit(i32),
    Detached,
    Failed { doing: &'static str, error: BackendError },
}

impl StatusVersion {
    /// The bytes for the error stream; none if there is nothing to say.
    pub(super) fn encode(self, outcome: &Outcome) -> Option<Vec<u8>> {
        let status = status(outcome);
        match self {
            StatusVersion::Json => Some(status.to_string().into_bytes()),
            StatusVersion::Text => Some(status.get("message")?.as_str()?.as_bytes().to_vec()),
        }
    }
}

fn status(outcome: &Outcome) -> Value {
    match outcome {
        Outcome::Exit(0) | Outcome::Detached => json!({"metadata": {}, "status": "Success"}),
        Outcome::Exit(code) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Outcome::Failed { doing, error } => {
            let message = format!("{doing}: {}", with_sources(error.as_ref()));
            json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("Internal error occurred: {message}"),
                "reason": "InternalError",
                "details": {"causes": [{"message": message}]},
                "code": 500,
            })
        }
    }
}

/// An error and what caused it, in one line.
pub(super) fn with_sources(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Writing to a String cannot fail.
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_is_a_cause_of_the_status() {
        let bytes = StatusVersion::Json.encode(&Outcome::Exit(3)).unwrap();
        let status: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(status["status"], "Failure");
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"], json!([{"reason": "ExitCode", "message": "3"}]));
    }

    #[test]
    fn success_is_told_from_version_four_on() {
        let bytes = StatusVersion::Json.encode(&Outcome::Exit(0)).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), json!({"metadata": {}, "status": "Success"}));
        assert_eq!(StatusVersion::Text.encode(&Outcome::Detached), None);
    }

    #[test]
    fn a_failure_names_its_causes() {
        let error: BackendError = Box::new(super::super::Error::Listen {
            address: ([127, 0, 0, 1], 1).into(),
            source: std::io::ErrorKind::AddrInUse.into(),
        });
        let text = StatusVersion::Text.encode(&Outcome::Failed { doing: "exec in container c", error }).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("Internal error occurred: exec in container c: streaming server:"), "{text}");
        assert!(text.ends_with(&std::io::Error::from(std::io::ErrorKind::AddrInUse).to_string()), "{text}");
    }
}
