//! One invocation of a plugin.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Instant;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::Error;
use crate::attachment::AttachmentId;
use crate::config::{validate_identifier, validate_interface_name};
use crate::result::CniResult;
use crate::version::Version;

/// `CNI_COMMAND`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Add,
    Del,
    Check,
    Version,
    Gc,
    Status,
}

impl Command {
    /// As it is in the environment.
    pub fn as_str(self) -> &'static str {
        match self {
            Command::Add => "ADD",
            Command::Del => "DEL",
            Command::Check => "CHECK",
            Command::Version => "VERSION",
            Command::Gc => "GC",
            Command::Status => "STATUS",
        }
    }

    /// Whether it is about one attachment.
    fn has_attachment(self) -> bool {
        matches!(self, Command::Add | Command::Del | Command::Check)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Command {
    type Err = Error;

    fn from_str(s: &str) -> Result<Command, Error> {
        use Command::{Add, Check, Del, Gc, Status, Version};
        [Add, Del, Check, Version, Gc, Status]
            .into_iter()
            .find(|c| c.as_str() == s)
            .ok_or_else(|| Error::Environment { variable: "CNI_COMMAND", reason: format!("{s:?} is not a command") })
    }
}

/// What a plugin is invoked with: the environment and standard input of the CNI protocol.
#[derive(Clone, Debug)]
pub struct Request {
    pub command: Command,
    pub container_id: String,
    pub netns: Option<PathBuf>,
    pub ifname: String,
    /// `CNI_ARGS`.
    pub args: Vec<(String, String)>,
    /// `CNI_PATH`: where a delegated plugin is looked for.
    pub path: Vec<PathBuf>,
    /// Standard input.
    pub config: Map<String, Value>,
    /// See [`Attachment::netns_going_away`](crate::Attachment::netns_going_away); never set in a program.
    pub netns_going_away: bool,
    /// For ADD: the runner knows that none was tried before, so nothing of it needs to be looked for among
    /// the addresses. Never set in a program.
    pub is_first: bool,
    /// When a delegated plugin is given up. A program does not know, and is killed with what it delegated to.
    pub until: Option<Instant>,
}

impl Request {
    /// Checks what the protocol demands of the command, before anything is touched.
    pub fn validate(&self) -> Result<(), Error> {
        if self.command == Command::Version {
            return Ok(());
        }
        self.version()?;
        if !self.command.has_attachment() {
            return Ok(());
        }
        validate_identifier("CNI_CONTAINERID", &self.container_id)?;
        validate_interface_name(&self.ifname)?;
        if self.netns.is_none() && self.command != Command::Del {
            return Err(Error::Environment {
                variable: "CNI_NETNS",
                reason: format!("is needed for {}", self.command),
            });
        }
        Ok(())
    }

    /// The version that the configuration is written in, and the answer shall be.
    pub fn version(&self) -> Result<Version, Error> {
        match self.config.get("cniVersion").and_then(Value::as_str) {
            Some(version) => Ok(version.parse()?),
            None => Err(Error::config("cniVersion", "is missing")),
        }
    }

    /// The network's name.
    pub fn network(&self) -> Result<&str, Error> {
        let name =
            self.config.get("name").and_then(Value::as_str).ok_or_else(|| Error::config("name", "is missing"))?;
        validate_identifier("name", name)?;
        Ok(name)
    }

    /// The namespace file, which [`Request::validate`] has seen to be there unless this is DEL.
    pub fn netns(&self) -> Result<&Path, Error> {
        self.netns.as_deref().ok_or_else(|| Error::Environment { variable: "CNI_NETNS", reason: "is empty".to_owned() })
    }

    /// The result of the plugins before this one.
    pub fn prev_result(&self) -> Result<Option<CniResult>, Error> {
        match self.config.get("prevResult") {
            None | Some(Value::Null) => Ok(None),
            Some(value) => CniResult::from_value(value).map(Some).map_err(|e| Error::config("prevResult", e)),
        }
    }

    /// The result of the plugins before this one, as ADD of a chained plugin and CHECK demand it.
    pub fn need_prev_result(&self) -> Result<CniResult, Error> {
        self.prev_result()?.ok_or_else(|| Error::config("prevResult", "is missing"))
    }

    /// `runtimeConfig[key]`.
    pub fn runtime_config<T: DeserializeOwned>(&self, key: &'static str) -> Result<Option<T>, Error> {
        match self.config.get("runtimeConfig").and_then(|c| c.get(key)) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => T::deserialize(value).map(Some).map_err(|e| Error::config(key, e)),
        }
    }

    /// A value of `CNI_ARGS`.
    pub fn arg(&self, key: &str) -> Option<&str> {
        let found = self.args.iter().find(|(k, _)| k == key);
        found.map(|(_, value)| value.as_str())
    }

    /// The attachments that GC shall keep.
    pub fn valid_attachments(&self) -> Result<Vec<AttachmentId>, Error> {
        const KEY: &str = "cni.dev/valid-attachments";
        match self.config.get(KEY) {
            None | Some(Value::Null) => Err(Error::config(KEY, "is missing")),
            Some(value) => Vec::deserialize(value).map_err(|e| Error::config(KEY, e)),
        }
    }

    /// The configuration as `T`, whose keys this plugin understands.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        T::deserialize(&Value::Object(self.config.clone())).map_err(|e| Error::config("configuration", e))
    }
}
