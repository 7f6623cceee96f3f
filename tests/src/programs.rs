//! Where the programs under test are: built by `make` before the tests run.

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

/// The repository's root.
#[must_use]
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}
