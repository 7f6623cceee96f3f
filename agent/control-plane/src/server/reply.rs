//! Answers.

use std::convert::Infallible;

use bytes::Bytes;
use futures::Stream;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WARNING};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use serde_json::Value;

use crate::status::Status;

pub(super) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// A response under construction.
pub(super) struct Reply(Response<Body>);

fn never(never: Infallible) -> std::io::Error {
    match never {}
}

impl Reply {
    fn new(code: StatusCode, content_type: &'static str, body: Body) -> Self {
        let mut response = Response::new(body);
        *response.status_mut() = code;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        Self(response)
    }

    pub(super) fn json(code: StatusCode, value: &Value) -> Self {
        let body = Full::new(Bytes::from(value.to_string())).map_err(never).boxed_unsync();
        Self::new(code, "application/json", body)
    }

    pub(super) fn text(text: &'static str) -> Self {
        let body = Full::new(Bytes::from_static(text.as_bytes())).map_err(never).boxed_unsync();
        Self::new(StatusCode::OK, "text/plain; charset=utf-8", body)
    }

    /// An answer that goes on while the stream does.
    pub(super) fn stream(
        content_type: &'static str,
        stream: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Self {
        use futures::StreamExt as _;
        let body = StreamBody::new(stream.map(|chunk| chunk.map(Frame::data))).boxed_unsync();
        Self::new(StatusCode::OK, content_type, body)
    }

    /// An answer of another server, as it is.
    pub(super) fn relayed(response: Response<Body>) -> Self {
        Self(response)
    }

    pub(super) fn status(status: &Status) -> Self {
        let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut reply = Self::json(code, &status.to_json());
        if let Some(seconds) = status.retry_after {
            reply.0.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status.code == 401 {
            let challenge = HeaderValue::from_static("Bearer realm=\"orlop\"");
            reply.0.headers_mut().insert(http::header::WWW_AUTHENTICATE, challenge);
        }
        reply
    }

    /// Adds a Warning header for each text.
    pub(super) fn warn(mut self, warnings: &[String]) -> Self {
        for text in warnings {
            let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
            // A text that cannot be in a header (control characters) is a warning lost, not a failure.
            if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
                self.0.headers_mut().append(WARNING, value);
            }
        }
        self
    }

    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers_mut().insert(name, value);
        self
    }

    pub(super) fn into_response(self) -> Response<Body> {
        self.0
    }
}
