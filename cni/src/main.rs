//! Every CNI plugin of this crate, by the name that the program is called by: link it as `bridge`,
//! `host-local`, `loopback` and `portmap` into the plugin folder. `orlop-cni install DIR` does.

use std::env;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use orlop_cni::plugin::{self, Command, Error, Request};
use orlop_cni::{Version, VersionInfo};
use serde_json::{Map, Value, json};

const USAGE: &str = "CNI plugins of orlop: bridge, host-local, loopback, portmap

usage:
  <plugin>                 run as this plugin: environment and input as in the CNI specification
  orlop-cni install DIR    link this program under every plugin's name into DIR
  orlop-cni --version
";

fn main() -> ExitCode {
    let mut arguments = env::args_os();
    let called = arguments.next().map(PathBuf::from).unwrap_or_default();
    let name = called.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    if plugin::TYPES.contains(&name) {
        return run_plugin(name);
    }
    let arguments: Vec<_> = arguments.collect();
    let words: Vec<&str> = arguments.iter().filter_map(|a| a.to_str()).collect();
    match words.as_slice() {
        ["install", dir] => install(Path::new(dir)),
        ["--version" | "-V"] => print(&format!("orlop-cni {}\n", env!("CARGO_PKG_VERSION"))),
        ["--help" | "-h" | "help"] => print(USAGE),
        _ => {
            eprint!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn run_plugin(name: &str) -> ExitCode {
    let mut version = Version::LATEST.to_string();
    match answer(name, &mut version) {
        Ok(text) => print(&text),
        Err(error) => {
            print(&format!("{}\n", error.to_json(&version)));
            ExitCode::FAILURE
        }
    }
}

/// Standard output of a success. `version` becomes the request's, once it is known, for an error's answer.
fn answer(name: &str, version: &mut String) -> Result<String, Error> {
    let mut input = String::new();
    io::stdin().read_to_string(&mut input).map_err(|e| Error::Input(e.to_string()))?;
    // Whatever is wrong, the input has been read: the runtime's write shall not fail.
    let command: Command = variable("CNI_COMMAND").parse()?;
    if command == Command::Version {
        return Ok(format!("{}\n", json!(VersionInfo::ours())));
    }
    let config: Map<String, Value> = serde_json::from_str(&input).map_err(|e| Error::Input(e.to_string()))?;
    if let Some(stated) = config.get("cniVersion").and_then(Value::as_str) {
        stated.clone_into(version);
    }
    let request = Request {
        command,
        container_id: variable("CNI_CONTAINERID"),
        netns: Some(variable("CNI_NETNS")).filter(|n| !n.is_empty()).map(PathBuf::from),
        ifname: variable("CNI_IFNAME"),
        args: parse_args(&variable("CNI_ARGS"))?,
        path: env::split_paths(&variable("CNI_PATH")).collect(),
        config,
        netns_going_away: false,
        is_first: false,
        until: None,
    };
    request.validate()?;
    let result = plugin::run(name, &request)?;
    Ok(result.map(|value| format!("{value}\n")).unwrap_or_default())
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}

fn parse_args(text: &str) -> Result<Vec<(String, String)>, Error> {
    let pairs = text.split(';').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(Error::Environment { variable: "CNI_ARGS", reason: format!("{pair:?} is not KEY=VALUE") }),
        })
        .collect()
}

/// Symbolic links; what has a plugin's name already is replaced.
fn install(dir: &Path) -> ExitCode {
    let link_all = || -> io::Result<()> {
        let program = env::current_exe()?;
        std::fs::create_dir_all(dir)?;
        for name in plugin::TYPES {
            let temporary = dir.join(format!(".{name}.new"));
            match std::fs::remove_file(&temporary) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            std::os::unix::fs::symlink(&program, &temporary)?;
            std::fs::rename(&temporary, dir.join(name))?;
        }
        Ok(())
    };
    match link_all() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("orlop-cni: link the plugins into {}: {error}", dir.display());
            ExitCode::FAILURE
        }
    }
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
