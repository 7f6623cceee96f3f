//! The base image: made from its recipe when no image of that recipe is there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use crate::{command, programs};

/// The folder with `kernel`, `initrd` and `disk` of a release of Debian. Images of older recipes are removed.
pub(super) fn get(release: &str) -> Result<PathBuf> {
    let recipe = programs::repository().join("tests/vm/image");
    let digest = digest(&recipe).with_context(|| format!("read the recipe {}", recipe.display()))?;
    let name = format!("{release}-{digest}");
    let cache = programs::repository().join("target/vm");
    fs::create_dir_all(&cache).with_context(|| format!("make {}", cache.display()))?;
    let lock = File::create(cache.join("lock"))?;
    // Held until the image is there; tests of several crates may want it at once.
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno).context("lock target/vm")?;
    let image = cache.join(name);
    if !image.is_dir() {
        let is_old = |name: &str| !name.ends_with(&digest);
        let there = fs::read_dir(&cache)?.flatten().filter(|entry| entry.path().is_dir());
        for old in there.filter(|entry| is_old(&entry.file_name().to_string_lossy())) {
            fs::remove_dir_all(old.path()).with_context(|| format!("remove {}", old.path().display()))?;
        }
        let partial = cache.join("partial");
        fs::create_dir(&partial)?;
        eprintln!("making the guest's image in {}", image.display());
        command::stdout(Command::new(recipe.join("build")).arg(&partial).arg(release))?;
        fs::rename(&partial, &image).with_context(|| format!("rename {}", partial.display()))?;
    }
    Ok(image)
}

/// The digest of all files of a folder, their names included.
fn digest(folder: &Path) -> Result<String> {
    let mut files = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    let mut digest = Sha256::new();
    for file in files {
        let content = fs::read(&file)?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        digest.update(format!("{name}\0{}\0", content.len()));
        digest.update(&content);
    }
    Ok(hex::encode(&digest.finalize()[..12]))
}
