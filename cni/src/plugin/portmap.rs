use serde_json::Value;
use super::{Error, Request};
pub fn run(_request: &Request) -> Result<Option<Value>, Error> {
    Err(Error::Unsupported { what: "portmap".to_owned(), instead: "it is not written yet" })
}
