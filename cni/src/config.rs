//! Network configuration files (CNI spec 1.1, section 1).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::Error;
use crate::version::{UnknownVersion, Version};

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("must be a JSON object")]
    NotAnObject,
    #[error("{0:?} is missing")]
    Missing(&'static str),
    #[error("{key:?} must be {expected}")]
    WrongType { key: &'static str, expected: &'static str },
    #[error("{key} {value:?} {reason}")]
    Invalid { key: &'static str, value: String, reason: &'static str },
    #[error(transparent)]
    Version(#[from] UnknownVersion),
}

/// A network: a name and a chain of plugins.
#[derive(Clone, Debug)]
pub struct NetworkConfigList {
    /// The file it came from, empty when there is none.
    pub path: PathBuf,
    pub name: String,
    /// The version that is spoken to the plugins: the newest of `cniVersions` that we know, or `cniVersion`.
    pub version: Version,
    pub disable_check: bool,
    pub disable_gc: bool,
    /// Never empty.
    pub plugins: Vec<PluginConfig>,
}

/// One plugin of a chain.
#[derive(Clone, Debug)]
pub struct PluginConfig {
    /// The plugin's file name, without any folder.
    pub kind: String,
    /// Its configuration as it is in the file.
    pub raw: Map<String, Value>,
}

impl NetworkConfigList {
    /// The network of the lexically first `.conflist`, `.conf` or `.json` in `dir`. If that file is bad, that
    /// is an error: falling through to the next would put pods on a network that nobody chose.
    pub fn load(dir: &Path) -> Result<NetworkConfigList, Error> {
        let read = |source| Error::Read { path: dir.to_owned(), source };
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NoConfig { dir: dir.to_owned() });
            }
            Err(e) => return Err(read(e)),
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry.map_err(read)?.path();
            let extension = path.extension().and_then(|e| e.to_str());
            if matches!(extension, Some("conflist" | "conf" | "json")) && path.is_file() {
                files.push(path);
            }
        }
        let first = files.into_iter().min().ok_or_else(|| Error::NoConfig { dir: dir.to_owned() })?;
        NetworkConfigList::load_file(&first)
    }

    /// The network in one file: a list of plugins, or a single plugin's configuration.
    pub fn load_file(path: &Path) -> Result<NetworkConfigList, Error> {
        let bytes = fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let mut list =
            NetworkConfigList::parse(&bytes).map_err(|source| Error::Config { path: path.to_owned(), source })?;
        path.clone_into(&mut list.path);
        Ok(list)
    }

    /// Parses a list of plugins, or a single plugin's configuration.
    pub fn parse(bytes: &[u8]) -> Result<NetworkConfigList, ConfigError> {
        let value: Value = serde_json::from_slice(bytes)?;
        let Value::Object(object) = value else {
            return Err(ConfigError::NotAnObject);
        };
        let name = string(&object, "name")?.ok_or(ConfigError::Missing("name"))?.to_owned();
        validate_identifier("name", &name)?;
        let plugins = match object.get("plugins") {
            None => vec![PluginConfig::new(object.clone())?],
            Some(Value::Array(items)) => items.iter().map(PluginConfig::from_value).collect::<Result<_, _>>()?,
            Some(_) => {
                return Err(ConfigError::WrongType { key: "plugins", expected: "an array" });
            }
        };
        if plugins.is_empty() {
            return Err(ConfigError::Missing("plugins"));
        }
        Ok(NetworkConfigList {
            path: PathBuf::new(),
            version: version(&object)?,
            disable_check: flag(&object, "disableCheck")?,
            disable_gc: flag(&object, "disableGC")?,
            name,
            plugins,
        })
    }

    /// The network that every container has: its own `lo`, brought up by the `loopback` plugin.
    pub fn loopback() -> NetworkConfigList {
        let raw = Map::from_iter([("type".to_owned(), Value::from("loopback"))]);
        NetworkConfigList {
            path: PathBuf::new(),
            name: "cni-loopback".to_owned(),
            version: Version::V1_0_0,
            disable_check: false,
            disable_gc: false,
            plugins: vec![PluginConfig { kind: "loopback".to_owned(), raw }],
        }
    }
}

impl PluginConfig {
    fn from_value(value: &Value) -> Result<PluginConfig, ConfigError> {
        let object = value.as_object().ok_or(ConfigError::NotAnObject)?;
        PluginConfig::new(object.clone())
    }

    fn new(raw: Map<String, Value>) -> Result<PluginConfig, ConfigError> {
        let kind = string(&raw, "type")?.ok_or(ConfigError::Missing("type"))?.to_owned();
        validate_plugin_type(&kind)?;
        Ok(PluginConfig { kind, raw })
    }

    /// Whether the plugin declares the capability.
    pub fn has_capability(&self, name: &str) -> bool {
        let declared = self.raw.get("capabilities").and_then(|c| c.get(name));
        declared.and_then(Value::as_bool).unwrap_or(false)
    }
}

/// A plugin's type is a file name: with a separator it would name any program (CVE-2021-20206).
pub(crate) fn validate_plugin_type(kind: &str) -> Result<(), ConfigError> {
    let bad = kind.is_empty() || kind == "." || kind == ".." || kind.contains(['/', '\\', '\0']);
    if bad {
        return Err(ConfigError::Invalid {
            key: "type",
            value: kind.to_owned(),
            reason: "must be the plain file name of a plugin",
        });
    }
    Ok(())
}

/// Network name, container id and interface together are the name of a file (255 bytes), the alias of an
/// interface (255) and the comment of an nftables element (252).
const MAX_IDENTIFIER: usize = 110;

/// Network names and container ids.
pub(crate) fn validate_identifier(key: &'static str, value: &str) -> Result<(), ConfigError> {
    let mut bytes = value.bytes();
    let good = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && value.len() <= MAX_IDENTIFIER;
    if good {
        return Ok(());
    }
    Err(ConfigError::Invalid {
        key,
        value: value.to_owned(),
        reason: "must be letters, digits, '_', '.' and '-', start with a letter or digit, and be at most 110 long",
    })
}

/// The kernel's rules for the name of an interface (`dev_valid_name`).
pub fn validate_interface_name(name: &str) -> Result<(), ConfigError> {
    let bad = name.is_empty()
        || name.len() > 15
        || name == "."
        || name == ".."
        || name.contains(|c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace());
    if bad {
        return Err(ConfigError::Invalid {
            key: "interface name",
            value: name.to_owned(),
            reason: "must be 1 to 15 bytes without '/', ':' and white space",
        });
    }
    Ok(())
}

fn version(object: &Map<String, Value>) -> Result<Version, ConfigError> {
    let stated = string(object, "cniVersion")?;
    let newest = match object.get("cniVersions") {
        Some(Value::Array(versions)) => versions.iter().filter_map(|v| v.as_str()?.parse().ok()).max(),
        _ => None,
    };
    match (stated, newest) {
        (_, Some(newest)) => Ok(newest),
        (Some(stated), None) => Ok(stated.parse()?),
        (None, None) => Err(ConfigError::Missing("cniVersion")),
    }
}

fn string<'a>(object: &'a Map<String, Value>, key: &'static str) -> Result<Option<&'a str>, ConfigError> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(s)) => Ok(Some(s)),
        Some(_) => Err(ConfigError::WrongType { key, expected: "a string" }),
    }
}

/// A boolean; the specification also allows it as a string, for templates.
fn flag(object: &Map<String, Value>, key: &'static str) -> Result<bool, ConfigError> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(b)) => Ok(*b),
        Some(Value::String(s)) if s.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(s)) if s.eq_ignore_ascii_case("false") => Ok(false),
        Some(_) => Err(ConfigError::WrongType { key, expected: "true or false" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<NetworkConfigList, ConfigError> {
        NetworkConfigList::parse(text.as_bytes())
    }

    #[test]
    fn a_list_and_a_single_plugin() {
        let list = parse(
            r#"{"cniVersion":"1.0.0","name":"n","disableCheck":"TRUE",
                "plugins":[{"type":"bridge"},{"type":"portmap","capabilities":{"portMappings":true}}]}"#,
        )
        .unwrap();
        assert_eq!(list.version, Version::V1_0_0);
        assert!(list.disable_check && !list.disable_gc);
        assert!(list.plugins[1].has_capability("portMappings"));
        assert!(!list.plugins[0].has_capability("portMappings"));
        let single = parse(r#"{"cniVersion":"0.4.0","name":"n","type":"bridge"}"#).unwrap();
        assert_eq!(single.plugins.len(), 1);
        assert_eq!(single.version, Version::V0_4_0);
    }

    #[test]
    fn the_newest_known_version_is_spoken() {
        let list = parse(r#"{"cniVersion":"0.4.0","cniVersions":["0.4.0","1.1.0","9.0.0"],"name":"n","type":"x"}"#);
        assert_eq!(list.unwrap().version, Version::V1_1_0);
        assert!(matches!(parse(r#"{"cniVersion":"9.0.0","name":"n","type":"x"}"#), Err(ConfigError::Version(_))));
    }

    #[test]
    fn a_type_with_a_path_is_refused() {
        for kind in ["../../bin/sh", "/bin/sh", "a/b", "", ".", ".."] {
            let text = format!(r#"{{"cniVersion":"1.0.0","name":"n","plugins":[{{"type":"{kind}"}}]}}"#);
            assert!(matches!(parse(&text), Err(ConfigError::Invalid { key: "type", .. })), "{kind}");
        }
    }

    #[test]
    fn bad_configurations_say_what_is_wrong() {
        for (text, expected) in [
            ("[]", "must be a JSON object"),
            (r#"{"cniVersion":"1.0.0","plugins":[]}"#, r#""name" is missing"#),
            (r#"{"cniVersion":"1.0.0","name":"n","plugins":[]}"#, r#""plugins" is missing"#),
            (r#"{"cniVersion":"1.0.0","name":"n","plugins":{}}"#, r#""plugins" must be an array"#),
            (r#"{"cniVersion":1,"name":"n","type":"x"}"#, r#""cniVersion" must be a string"#),
            (r#"{"cniVersion":"1.0.0","name":"n"}"#, r#""type" is missing"#),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), expected, "{text}");
        }
        assert!(parse(r#"{"cniVersion":"1.0.0","name":"../n","type":"x"}"#).is_err());
    }

    #[test]
    fn interface_names() {
        for good in ["eth0", "a", "abcdefghijklmno"] {
            assert!(validate_interface_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a:b", "a b", "abcdefghijklmnop"] {
            assert!(validate_interface_name(bad).is_err(), "{bad}");
        }
    }
}
