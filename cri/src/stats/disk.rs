//! Bytes and inodes of a folder tree.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What a tree takes on disk. Blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DiskUsage {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

/// Adds up a tree on one file system; what goes away meanwhile is left out.
pub(crate) fn usage_of(root: &Path) -> DiskUsage {
    let mut usage = DiskUsage::default();
    // What cannot be read is not counted: a number for a person, not a limit.
    drop(add(root, &mut usage));
    usage
}

fn add(path: &Path, usage: &mut DiskUsage) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    usage.bytes += metadata.blocks() * 512;
    usage.inodes += 1;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            drop(add(&entry?.path(), usage));
        }
    }
    Ok(())
}
