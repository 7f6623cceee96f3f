//! Reading configurations as JSON. `oci-spec` takes some names less readily than the specification has it; what
//! it refuses is looked at once more, so that a configuration without such names is parsed once.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Capabilities, Capability, Mount, Process, Spec};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::Runtime;
use crate::document;
use crate::error::Error;

/// A configuration, and the names of capabilities in it that nobody knows. The specification wants these logged
/// as a warning: OCI runtime specification, "Linux Process", `capabilities`.
pub(crate) fn parse_spec(bytes: &[u8], path: &Path) -> Result<(Spec, Vec<String>), Error> {
    parse(bytes, path, "/process")
}

/// Makes destinations of mounts that are relative absolute, from the root on, and takes away `rootfs` where they begin
/// with it; those that were relative. OCI runtime specification, "Mounts", and runc: a compatibility with old tools.
pub(crate) fn resolve_destinations(spec: &mut Spec, rootfs: &Path) -> Vec<PathBuf> {
    let is_inside = |path: &Path| rootfs != Path::new("/") && path.starts_with(rootfs);
    let is_relative = |path: &Path| path.is_relative() && !path.as_os_str().is_empty();
    let is_odd = |mount: &Mount| is_relative(mount.destination()) || is_inside(mount.destination());
    if !spec.mounts().iter().flatten().any(is_odd) {
        return Vec::new();
    }
    let mut relative = Vec::new();
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for mount in mounts.iter_mut().filter(|mount| is_odd(mount)) {
        let given = mount.destination().clone();
        mount.set_destination(Path::new("/").join(given.strip_prefix(rootfs).unwrap_or(&given)));
        relative.extend(is_relative(&given).then_some(given));
    }
    spec.set_mounts(Some(mounts));
    relative
}

/// A process alone.
pub(crate) fn parse_process(bytes: &[u8], path: &Path) -> Result<(Process, Vec<String>), Error> {
    parse(bytes, path, "")
}

/// Reads JSON in which the property at `process` is a process.
fn parse<T: DeserializeOwned>(bytes: &[u8], path: &Path, process: &str) -> Result<(T, Vec<String>), Error> {
    let invalid = |error: serde_json::Error| Error::invalid(path.display().to_string(), error.to_string());
    let error = match serde_json::from_slice(bytes) {
        Ok(parsed) => return Ok((parsed, Vec::new())),
        Err(error) => error,
    };
    let Ok(mut value) = serde_json::from_slice::<Value>(bytes) else { return Err(invalid(error)) };
    let Some(of) = value.pointer_mut(process) else { return Err(invalid(error)) };
    let renamed = rename_scheduler_flags(of);
    let named = name_user(of);
    let unknown = take_unknown_capabilities(of);
    if !renamed && !named && unknown.is_empty() {
        return Err(invalid(error));
    }
    Ok((serde_json::from_value(value).map_err(invalid)?, unknown))
}

/// Puts the names that `oci-spec` has for two flags of `process.scheduler` in place of the specification's.
fn rename_scheduler_flags(process: &mut Value) -> bool {
    const NAMES: [(&str, &str); 2] =
        [("SCHED_FLAG_RESET_ON_FORK", "SCHED_RESET_ON_FORK"), ("SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_D_L_OVERRUN")];
    let mut changed = false;
    let flags = process.pointer_mut("/scheduler/flags").and_then(Value::as_array_mut);
    for flag in flags.into_iter().flatten() {
        if let Some((_, known)) = NAMES.iter().find(|(name, _)| flag == name) {
            *flag = Value::from(*known);
            changed = true;
        }
    }
    changed
}

/// Makes a process of root one that says of no user whose it is, as it is to everybody who reads the names of the
/// specification into numbers that begin as 0.
fn name_user(process: &mut Value) -> bool {
    let Some(process) = process.as_object_mut() else { return false };
    let mut changed = false;
    if let Some(user) = process.entry("user").or_insert_with(|| json!({})).as_object_mut() {
        for id in ["uid", "gid"] {
            changed |= !user.contains_key(id);
            user.entry(id).or_insert_with(|| json!(0));
        }
    }
    changed
}

/// Takes the names that are no capability's out of all sets. What is no string stays, to be refused.
fn take_unknown_capabilities(process: &mut Value) -> Vec<String> {
    let mut unknown = Vec::new();
    let sets = process.get_mut("capabilities").and_then(Value::as_object_mut);
    for set in sets.into_iter().flat_map(|sets| sets.values_mut()).filter_map(Value::as_array_mut) {
        set.retain(|name| match name {
            Value::String(text) if !is_capability(text) => {
                unknown.push(text.clone());
                false
            }
            _ => true,
        });
    }
    unknown.sort_unstable();
    unknown.dedup();
    unknown
}

fn is_capability(name: &str) -> bool {
    serde_json::from_value::<Capability>(Value::from(name)).is_ok()
}

impl Runtime {
    /// Reads a process for [`Runtime::exec`] from a file of JSON, as `process` is in config.json. Unknown
    /// capabilities are left out, with a warning.
    pub fn read_process(&self, path: &Path) -> Result<Process, Error> {
        let bytes = document::read_any(path)?;
        let (process, unknown) = parse_process(&bytes, path)?;
        self.warn_of_capabilities(&unknown);
        Ok(process)
    }

    /// The capabilities of these names, as in `CAP_KILL`. Unknown ones are left out, with a warning.
    pub fn capabilities(&self, names: &[String]) -> Capabilities {
        let unknown: Vec<String> = names.iter().filter(|name| !is_capability(name)).cloned().collect();
        self.warn_of_capabilities(&unknown);
        names.iter().filter_map(|name| serde_json::from_value(Value::from(name.as_str())).ok()).collect()
    }

    /// Tells of names that are no capability's, if any.
    pub(crate) fn warn_of_capabilities(&self, unknown: &[String]) {
        if !unknown.is_empty() {
            (self.warn)(&format!("ignoring unknown capabilities: {}", unknown.join(" ")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(process: &str) -> Result<(Process, Vec<String>), Error> {
        parse(process.as_bytes(), Path::new("process.json"), "")
    }

    #[test]
    fn a_process_without_a_user_is_roots() {
        for user in ["", r#","user":{}"#, r#","user":{"uid":0}"#] {
            let (process, _) = read(&format!(r#"{{"cwd":"/","args":["a"]{user}}}"#)).expect(user);
            assert_eq!((process.user().uid(), process.user().gid()), (0, 0));
        }
        assert!(read(r#"{"cwd":"/","args":["a"],"user":7}"#).is_err());
        assert!(read(r#"{"args":["a"]}"#).is_err(), "cwd has no default");
    }

    #[test]
    fn unknown_capabilities_are_taken_out() {
        let all = r#"{"cwd":"/","args":["a"],"user":{"uid":0,"gid":0},"capabilities":
            {"bounding":["CAP_KILL","CAP_TEST"],"effective":["CAP_TEST","CAP_ANOTHER"]}}"#;
        let (process, unknown) = read(all).expect("process");
        assert_eq!(unknown, ["CAP_ANOTHER", "CAP_TEST"]);
        let sets = process.capabilities().clone().expect("capabilities");
        assert_eq!(sets.bounding().clone().expect("set"), Capabilities::from([Capability::Kill]));
        assert_eq!(sets.effective().clone().expect("set"), Capabilities::new());
        let (_, unknown) = read(&all.replace("TEST", "CHOWN").replace("ANOTHER", "KILL")).expect("process");
        assert!(unknown.is_empty());
    }

    #[test]
    fn other_mistakes_are_errors() {
        for capabilities in [r#"{"bounding":[7]}"#, r#"{"bounding":"CAP_KILL"}"#, r#"["CAP_TEST"]"#] {
            let process = format!(r#"{{"cwd":"/","user":{{"uid":0,"gid":0}},"capabilities":{capabilities}}}"#);
            assert!(read(&process).is_err(), "{capabilities}");
        }
        assert!(read("{").is_err());
        let spec = br#"{"ociVersion":"1.3.0","process":7}"#;
        assert!(parse_spec(spec, Path::new("config.json")).is_err());
    }
}
