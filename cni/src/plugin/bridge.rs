use serde_json::Value;
use super::{Error, Request};
pub fn run(_request: &Request) -> Result<Option<Value>, Error> {
    Err(Error::Unsupported { what: "bridge".to_owned(), instead: "it is not written yet" })
}
pub fn remove_bridge(_config: &serde_json::Map<String, Value>) -> Result<(), Error> {
    Err(Error::Unsupported { what: "bridge".to_owned(), instead: "it is not written yet" })
}
