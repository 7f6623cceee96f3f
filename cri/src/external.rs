//! Other OCI runtimes, asked without a shim: for what is left when their shim was killed.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use orlop_shim::protocol::{SEARCH_PATH, state_root};
use tokio::process::Command;

use crate::config::Config;
use crate::error::{Context, Error, Kind, Result};

/// Hooks included.
const BOUND: Duration = Duration::from_secs(30);

/// Each program, and where it keeps the state of our containers.
fn programs(config: &Config) -> BTreeSet<(&Path, PathBuf)> {
    let programs = config.runtimes.values().map(PathBuf::as_path);
    programs.map(|program| (program, state_root(&config.runtime_root(), program))).collect()
}

/// The containers that any of them has state of.
pub(crate) fn ids(config: &Config) -> BTreeSet<String> {
    let entries = programs(config).into_iter().flat_map(|(_, root)| fs::read_dir(root).into_iter().flatten().flatten());
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Has whichever knows the container kill and delete it. That none does is fine.
pub(crate) async fn delete(config: &Config, id: &str) -> Result<()> {
    for (program, root) in programs(config).into_iter().filter(|(_, root)| root.join(id).is_dir()) {
        let step = || format!("have {} delete container {id}", program.display());
        let output = Command::new(program)
            .env_clear()
            .env("PATH", SEARCH_PATH)
            .arg("--root")
            .arg(root)
            .args(["delete", "--force", id])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = match tokio::time::timeout(BOUND, output).await.context(Kind::DeadlineExceeded, step)? {
            // Nobody can delete it; what it runs in our cgroups is killed all the same.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                tracing::warn!(container = id, program = %program.display(), "its OCI runtime is not there any more");
                continue;
            }
            other => other.step(step)?,
        };
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Error::internal(format!("{}: {}: {}", step(), output.status, said.trim())));
        }
    }
    Ok(())
}
