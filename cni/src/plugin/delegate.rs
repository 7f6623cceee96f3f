//! Address management on behalf of a main plugin: `ipam.type` names the plugin that does it.

use serde_json::{Value, json};

use super::{Command, Error, Request, host_local};
use crate::error::Error as RunError;
use crate::result::CniResult;
use crate::runner::{answer, find_plugin, run_program};

/// Runs the plugin that `ipam.type` names, with this plugin's own request but for the command; nothing if
/// there is no `ipam`. `host-local` is called as a function: it is the same code whoever executes it.
pub(super) fn ipam(request: &Request, command: Command) -> Result<Option<CniResult>, Error> {
    let Some(ipam) = request.config.get("ipam") else { return Ok(None) };
    let Some(kind) = ipam.get("type").and_then(Value::as_str) else {
        // An empty object is how a network without layer 3 is written.
        return match ipam.as_object() {
            Some(object) if object.is_empty() => Ok(None),
            _ => Err(Error::config("ipam.type", "is missing")),
        };
    };
    let request = Request { command, ..request.clone() };
    let answer = if kind == "host-local" { host_local::run(&request)? } else { execute(kind, &request)? };
    match answer {
        Some(value) if command == Command::Add => CniResult::from_value(&value).map(Some).map_err(|e| {
            Error::Delegate { plugin: kind.to_owned(), code: 6, msg: format!("the result is malformed: {e}") }
        }),
        _ => Ok(None),
    }
}

fn execute(kind: &str, request: &Request) -> Result<Option<Value>, Error> {
    let failed = |e: RunError| match e {
        RunError::Plugin { code, msg, .. } => Error::Delegate { plugin: kind.to_owned(), code, msg },
        RunError::Exec { path, source } => {
            Error::Delegate { plugin: kind.to_owned(), code: 100, msg: format!("run {}: {source}", path.display()) }
        }
        other => Error::Delegate { plugin: kind.to_owned(), code: 100, msg: other.to_string() },
    };
    let path = find_plugin(kind, &request.path).map_err(failed)?;
    let mut program = std::process::Command::new(&path);
    let args: Vec<String> = request.args.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let dirs = std::env::join_paths(&request.path)
        .map_err(|e| Error::Environment { variable: "CNI_PATH", reason: e.to_string() })?;
    program
        .env("CNI_COMMAND", request.command.as_str())
        .env("CNI_CONTAINERID", &request.container_id)
        .env("CNI_NETNS", request.netns.as_deref().unwrap_or("".as_ref()))
        .env("CNI_IFNAME", &request.ifname)
        .env("CNI_ARGS", args.join(";"))
        .env("CNI_PATH", dirs);
    let output = run_program(program, &json!(request.config).to_string(), request.until)
        .map_err(|source| failed(RunError::Exec { path, source }))?;
    let answer = answer(kind, request.command, &output).map_err(failed)?;
    Ok((!answer.is_null()).then_some(answer))
}
