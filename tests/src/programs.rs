//! Where the programs under test are: built by `make` before the tests run.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// The folder with the programs: `$ORLOP_BIN`, or the one that this test was built into.
pub fn folder() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("ORLOP_BIN") {
        return Ok(folder.into());
    }
    let exe = std::env::current_exe().context("find the running test")?;
    let profile = exe.ancestors().find(|dir| dir.join("orlop").is_file());
    Ok(profile.with_context(|| format!("no program `orlop` above {}; build it first", exe.display()))?.into())
}

/// The path of one program.
pub fn path(name: &str) -> Result<PathBuf> {
    let path = folder()?.join(name);
    ensure!(path.is_file(), "{} is not built; `make test` builds it", path.display());
    Ok(path)
}

/// The processes that run a program of `folder`: pid and the program's name. The file is compared, not its path:
/// a shim runs from a detached mount of its file, and `/proc/PID/exe` then names no path.
pub fn running(folder: &Path) -> Result<Vec<(u32, String)>> {
    let mut programs = HashMap::new();
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry?;
        let about = entry.metadata()?;
        programs.insert((about.dev(), about.ino()), entry.file_name().to_string_lossy().into_owned());
    }
    let mut running = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let process = entry?.path();
        let Some(pid) = process.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A kernel thread has no program, and a process may end while we look.
        let Ok(about) = fs::metadata(process.join("exe")) else { continue };
        if let Some(name) = programs.get(&(about.dev(), about.ino())) {
            running.push((pid, name.clone()));
        }
    }
    Ok(running)
}

/// The repository's root.
#[must_use]
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}
