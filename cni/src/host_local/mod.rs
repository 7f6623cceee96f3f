use crate::plugin::Error;
pub fn reap(_network: &str, _plugin: &serde_json::Map<String, serde_json::Value>) -> Result<usize, Error> { Ok(0) }
