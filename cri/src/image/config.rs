//! The image config (OCI image spec, config.md): what a container of the image runs by default.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::digest::Digest;

/// The parts of an image config that matter to a container. All of it is written by strangers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    pub created: Option<String>,
    pub author: Option<String>,
    pub architecture: String,
    pub os: String,
    pub variant: Option<String>,
    #[serde(rename = "config", deserialize_with = "or_default")]
    pub process: ProcessDefaults,
    pub rootfs: RootFs,
}

/// The `config` object of an image config. A null anywhere reads as absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ProcessDefaults {
    /// `user[:group]`, names or numbers.
    #[serde(deserialize_with = "or_default")]
    pub user: String,
    /// `NAME=value` each.
    #[serde(deserialize_with = "or_default")]
    pub env: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub entrypoint: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub cmd: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub working_dir: String,
    /// A signal's name or number; None means SIGTERM.
    pub stop_signal: Option<String>,
    /// `port[/protocol]` each.
    #[serde(deserialize_with = "keys")]
    pub exposed_ports: Vec<String>,
    /// Paths in the container.
    #[serde(deserialize_with = "keys")]
    pub volumes: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
}

/// The layers of an image by the digests of their uncompressed tars, lowest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RootFs {
    #[serde(deserialize_with = "or_default")]
    pub diff_ids: Vec<Digest>,
}

fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Sets are written as objects with empty values.
fn keys<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[expect(clippy::zero_sized_map_values, reason = "the values are to be skipped")]
    let map = Option::<BTreeMap<String, serde::de::IgnoredAny>>::deserialize(deserializer)?;
    Ok(map.unwrap_or_default().into_keys().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_with_nulls_and_sets_is_read() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"User":"1:2","Env":null,"Cmd":["sh"],
            "ExposedPorts":{"80/tcp":{}},"Volumes":{"/data":{}},"StopSignal":"SIGQUIT","Labels":{"a":"b"},"Unknown":1},
            "rootfs":{"type":"layers","diff_ids":null}}"#;
        let config: ImageConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.process.cmd, ["sh"]);
        assert_eq!(config.process.exposed_ports, ["80/tcp"]);
        assert_eq!(config.process.volumes, ["/data"]);
        assert!(config.process.env.is_empty() && config.rootfs.diff_ids.is_empty());
        let bare: ImageConfig = serde_json::from_str(r#"{"config":null}"#).unwrap();
        assert_eq!(bare.process, ProcessDefaults::default());
    }
}
