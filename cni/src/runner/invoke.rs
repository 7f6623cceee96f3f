//! One plugin, one command: builds its input, executes it or calls it, reads its answer.

use std::path::PathBuf;
use std::process::Output;
use std::time::Instant;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Runner, run_program};
use crate::attachment::Attachment;
use crate::config::{NetworkConfigList, PluginConfig, validate_plugin_type};
use crate::error::Error;
use crate::plugin::{self, Command, Request};
use crate::version::{Version, VersionInfo};

/// What to ask of a plugin.
pub(super) struct Call<'a> {
    list: &'a NetworkConfigList,
    plugin: &'a PluginConfig,
    command: Command,
    attachment: Option<&'a Attachment>,
    prev_result: Option<&'a Value>,
    valid_attachments: Option<&'a Value>,
    is_first: bool,
    until: Instant,
}

impl<'a> Call<'a> {
    /// `until` is when it is given up.
    pub(super) fn new(
        list: &'a NetworkConfigList,
        plugin: &'a PluginConfig,
        command: Command,
        until: Instant,
    ) -> Call<'a> {
        Call {
            list,
            plugin,
            command,
            attachment: None,
            prev_result: None,
            valid_attachments: None,
            is_first: false,
            until,
        }
    }

    pub(super) fn attachment(mut self, attachment: &'a Attachment) -> Call<'a> {
        self.attachment = Some(attachment);
        self
    }

    pub(super) fn prev_result(mut self, result: Option<&'a Value>) -> Call<'a> {
        self.prev_result = result;
        self
    }

    pub(super) fn first(mut self, is_first: bool) -> Call<'a> {
        self.is_first = is_first;
        self
    }

    pub(super) fn valid_attachments(mut self, valid: &'a Value) -> Call<'a> {
        self.valid_attachments = Some(valid);
        self
    }

    /// The plugin's input (CNI spec 1.1, section 3, "Deriving execution configuration from plugin
    /// configuration").
    fn config(&self) -> Map<String, Value> {
        let mut config = self.plugin.raw.clone();
        config.insert("name".into(), json!(self.list.name));
        config.insert("cniVersion".into(), json!(self.list.version.as_str()));
        let runtime_config: Map<String, Value> = self
            .attachment
            .iter()
            .flat_map(|a| &a.capabilities)
            .filter(|(capability, _)| self.plugin.has_capability(capability))
            .map(|(capability, value)| (capability.clone(), value.clone()))
            .collect();
        config.remove("runtimeConfig");
        if !runtime_config.is_empty() {
            config.insert("runtimeConfig".into(), Value::Object(runtime_config));
        }
        config.remove("prevResult");
        if let Some(previous) = self.prev_result {
            config.insert("prevResult".into(), previous.clone());
        }
        if let Some(valid) = self.valid_attachments {
            config.insert("cni.dev/valid-attachments".into(), valid.clone());
        }
        config
    }
}

impl Runner {
    /// Whether the plugin is called as a function.
    pub(super) fn is_in_process(&self, kind: &str) -> bool {
        self.in_process && plugin::TYPES.contains(&kind)
    }

    /// The result for ADD, nothing for the other commands.
    pub(super) fn invoke(&self, call: &Call<'_>) -> Result<Option<Value>, Error> {
        if self.is_in_process(&call.plugin.kind) {
            return self.call(call);
        }
        let output = self.execute(&call.plugin.kind, call.command, call.attachment, &call.config(), call.until)?;
        let answer = answer(&call.plugin.kind, call.command, &output)?;
        Ok((call.command == Command::Add).then_some(answer).filter(|a| !a.is_null()))
    }

    fn call(&self, call: &Call<'_>) -> Result<Option<Value>, Error> {
        let attachment = call.attachment.cloned().unwrap_or_default();
        let request = Request {
            command: call.command,
            container_id: attachment.container_id,
            netns: attachment.netns,
            ifname: attachment.ifname,
            args: attachment.args,
            path: self.bin_dirs.clone(),
            config: call.config(),
            netns_going_away: attachment.netns_going_away,
            is_first: call.is_first,
            until: Some(call.until),
        };
        request.validate().and_then(|()| plugin::run(&call.plugin.kind, &request)).map_err(|e| Error::Plugin {
            plugin: call.plugin.kind.clone(),
            command: call.command,
            code: e.code(),
            details: String::new(),
            msg: e.to_string(),
        })
    }

    pub(super) fn invoke_version(&self, kind: &str) -> Result<VersionInfo, Error> {
        if self.is_in_process(kind) {
            return Ok(VersionInfo::ours());
        }
        let config = Map::from_iter([("cniVersion".to_owned(), json!(Version::LATEST.as_str()))]);
        let output = self.execute(kind, Command::Version, None, &config, self.deadline())?;
        let answer = answer(kind, Command::Version, &output)?;
        VersionInfo::deserialize(&answer).map_err(|e| bad_answer(kind, Command::Version, e.to_string(), &output))
    }

    /// The plugin's file: the first of its name in the bin dirs. Nothing, for a plugin that needs none.
    pub(super) fn locate(&self, kind: &str) -> Result<Option<PathBuf>, Error> {
        if self.is_in_process(kind) {
            return Ok(None);
        }
        find_plugin(kind, &self.bin_dirs).map(Some)
    }

    fn execute(
        &self,
        kind: &str,
        command: Command,
        attachment: Option<&Attachment>,
        config: &Map<String, Value>,
        until: Instant,
    ) -> Result<Output, Error> {
        let path = find_plugin(kind, &self.bin_dirs)?;
        let mut program = std::process::Command::new(&path);
        let dirs: Vec<String> = self.bin_dirs.iter().map(|d| d.display().to_string()).collect();
        program
            .env("CNI_COMMAND", command.as_str())
            .env("CNI_PATH", dirs.join(":"))
            .env_remove("CNI_CONTAINERID")
            .env_remove("CNI_NETNS")
            .env_remove("CNI_IFNAME")
            .env_remove("CNI_ARGS");
        if let Some(attachment) = attachment {
            program
                .env("CNI_CONTAINERID", &attachment.container_id)
                .env("CNI_IFNAME", &attachment.ifname)
                .env("CNI_ARGS", attachment.args_string())
                .env("CNI_NETNS", attachment.netns.as_deref().unwrap_or("".as_ref()));
        }
        run_program(program, &json!(config).to_string(), Some(until)).map_err(|source| Error::Exec { path, source })
    }
}

pub(crate) fn find_plugin(kind: &str, dirs: &[PathBuf]) -> Result<PathBuf, Error> {
    let not_found = || Error::PluginNotFound { plugin: kind.to_owned(), dirs: dirs.to_vec() };
    validate_plugin_type(kind).map_err(|_| not_found())?;
    dirs.iter().map(|dir| dir.join(kind)).find(|path| path.is_file()).ok_or_else(not_found)
}

#[derive(Deserialize)]
struct ErrorReply {
    #[serde(default)]
    code: u32,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

/// Standard output as JSON if the program was successful; its error otherwise.
pub(crate) fn answer(plugin: &str, command: Command, output: &Output) -> Result<Value, Error> {
    let text = output.stdout.trim_ascii();
    if output.status.success() {
        if text.is_empty() {
            return Ok(Value::Null);
        }
        return serde_json::from_slice(text).map_err(|e| bad_answer(plugin, command, e.to_string(), output));
    }
    match serde_json::from_slice::<ErrorReply>(text) {
        Ok(reply) => Err(Error::Plugin {
            plugin: plugin.to_owned(),
            command,
            code: reply.code,
            msg: reply.msg,
            details: reply.details,
        }),
        Err(_) => Err(bad_answer(plugin, command, output.status.to_string(), output)),
    }
}

fn bad_answer(plugin: &str, command: Command, reason: String, output: &Output) -> Error {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Error::BadAnswer { plugin: plugin.to_owned(), command, reason, output: text.chars().take(500).collect() }
}

pub(super) fn bad_result(network: &str, error: &serde_json::Error, result: &Value) -> Error {
    Error::BadAnswer {
        plugin: network.to_owned(),
        command: Command::Add,
        reason: format!("the result is malformed: {error}"),
        output: result.to_string().chars().take(500).collect(),
    }
}

pub(super) fn no_result(call: &Call<'_>) -> Error {
    Error::BadAnswer {
        plugin: call.plugin.kind.clone(),
        command: call.command,
        reason: "there is no result".to_owned(),
        output: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_is_the_plugins_configuration_with_what_the_runtime_adds() {
        let list = NetworkConfigList::parse(
            br#"{"cniVersion":"1.0.0","name":"net","plugins":[
                {"type":"a","name":"ignored","capabilities":{"portMappings":true,"mac":false},"prevResult":1,"x":2}]}"#,
        )
        .unwrap();
        let mut attachment = Attachment::new("c", None, "eth0");
        attachment.capabilities.insert("portMappings".into(), json!([1]));
        attachment.capabilities.insert("mac".into(), json!("00:00:00:00:00:01"));
        let previous = json!({"ips": []});
        let call = Call::new(&list, &list.plugins[0], Command::Add, Instant::now()).attachment(&attachment);
        let config = call.config();
        assert_eq!(config["name"], "net");
        assert_eq!(config["cniVersion"], "1.0.0");
        assert_eq!(config["x"], 2);
        assert_eq!(config["runtimeConfig"], json!({"portMappings": [1]}));
        assert!(!config.contains_key("prevResult"));
        assert_eq!(call.prev_result(Some(&previous)).config()["prevResult"], previous);
    }
}
