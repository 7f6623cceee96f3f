//! One layer on its way in: hashed, stored, decompressed, hashed again and unpacked in one pass, in a folder of its
//! own below `ingest/` that nobody looks at until the layer is whole.

use std::collections::hash_map::Entry;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::super::digest::{Digest, Hasher};
use super::super::error::{Error, UnpackError};
use super::super::feed::FeedReader;
use super::super::layer::{Decompressor, Unpacked, settle, unpack};
use super::super::manifest::Layer;
use super::super::types::Usage;
use super::Inner;
use super::layout::{LayerFile, make_dir, write_new};

const BUFFER: usize = 128 << 10;

/// A folder below `ingest/`, which goes to the trash when it is dropped.
struct Folder {
    inner: Arc<Inner>,
    path: PathBuf,
}

impl Folder {
    fn create(inner: &Arc<Inner>) -> Result<Folder, Error> {
        let path = inner.layout.ingest().join(inner.unique());
        let folder = Folder { inner: inner.clone(), path };
        for dir in ["layer", "discard"] {
            make_dir(&folder.path.join(dir))?;
        }
        let root = folder.path.join("layer/fs");
        std::fs::create_dir(&root).map_err(Error::io("make folder", &root))?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&root, mode).map_err(Error::io("chmod", &root))?;
        Ok(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let target = self.inner.layout.trash().join(self.inner.unique());
        match std::fs::rename(&self.path, target) {
            Ok(()) => self.inner.empty_trash(),
            Err(error) => tracing::warn!(path = %self.path.display(), %error, "cannot remove an unfinished layer now"),
        }
    }
}

/// A layer that is verified and unpacked, and waits for the layers below it.
pub(super) struct Ready {
    folder: Folder,
    layer: Layer,
    unpacked: Unpacked,
}

/// Takes a layer in. Blocks.
pub(super) fn ingest(inner: &Arc<Inner>, layer: Layer, source: FeedReader) -> Result<Ready, Error> {
    let folder = Folder::create(inner)?;
    let path = folder.path.join("blob");
    let file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(Error::io("make", &path))?;
    let tee = Tee { source, file, hasher: Hasher::default(), count: 0, fault: None };
    let limits = &inner.config.limits;
    let mut buffered = BufReader::with_capacity(BUFFER, tee);
    let result = Decompressor::new(&mut buffered).map_err(UnpackError::Read).and_then(|tar| {
        let mut meter = Meter { source: tar, hasher: Hasher::default(), left: limits.layer_bytes, over: false };
        let unpacked = unpack(&mut meter, &folder.path.join("layer/fs"), &folder.path.join("discard"), limits);
        let result = unpacked.and_then(|unpacked| drain(&mut meter).map(|()| unpacked));
        if meter.over {
            return Err(UnpackError::Limit { what: "bytes", limit: limits.layer_bytes });
        }
        Ok((result?, meter.hasher.finish(), drain(&mut meter.source.into_inner())?))
    });
    let tee = buffered.into_inner();
    match tee.fault {
        Some(Fault::Cancelled) => return Err(Error::Cancelled),
        Some(Fault::File(source)) => return Err(Error::Io { op: "write", path, source }),
        None => {}
    }
    let (unpacked, diff_id, ()) = result.map_err(|source| Error::Unpack { layer: layer.blob.digest, source })?;
    if tee.count != layer.blob.size {
        return Err(Error::Size {
            what: format!("layer {}", layer.blob.digest),
            expected: layer.blob.size,
            actual: tee.count,
        });
    }
    same("a layer", layer.blob.digest, tee.hasher.finish())?;
    same("a layer's tar", layer.diff_id, diff_id)?;
    Ok(Ready { folder, layer, unpacked })
}

impl Ready {
    /// Fits the layer onto those below, `below` being their folders, top first, and moves it to its place. Blocks.
    pub(super) fn commit(self, below: &[PathBuf]) -> Result<(), Error> {
        let Ready { folder, layer, unpacked } = self;
        let inner = folder.inner.clone();
        let staged = folder.path.join("layer");
        settle(&unpacked, &staged.join("fs"), &folder.path.join("discard"), below)
            .map_err(|source| Error::Unpack { layer: layer.blob.digest, source })?;
        // The blob is a file too, and the layer has two folders and a file around its content.
        let usage = Usage { bytes: unpacked.usage.bytes, inodes: unpacked.usage.inodes + 2 };
        let file = LayerFile { diff_id: layer.diff_id, bytes: usage.bytes, inodes: usage.inodes };
        let path = staged.join("layer.json");
        write_new(&path, &serde_json::to_vec(&file).map_err(|error| Error::manifest(path.display(), error))?)?;

        let mut objects = inner.objects();
        let blob = inner.layout.blob(&layer.blob.digest);
        std::fs::rename(folder.path.join("blob"), &blob).map_err(Error::io("rename to", &blob))?;
        objects.blobs.insert(layer.blob.digest, layer.blob.size);
        if let Entry::Vacant(place) = objects.layers.entry(layer.chain) {
            let target = inner.layout.layer(&layer.chain);
            std::fs::rename(&staged, &target).map_err(Error::io("rename to", &target))?;
            place.insert(usage);
        }
        Ok(())
    }
}

fn same(what: &'static str, expected: Digest, actual: Digest) -> Result<(), Error> {
    if expected == actual { Ok(()) } else { Err(Error::Mismatch { what, expected, actual }) }
}

/// Reads what is left, which hashes it.
fn drain(source: &mut impl Read) -> Result<(), UnpackError> {
    io::copy(source, &mut io::sink()).map(|_| ()).map_err(UnpackError::Read)
}

enum Fault {
    /// The download ended before its end; it has the cause.
    Cancelled,
    File(io::Error),
}

/// Hashes and stores what it passes on.
struct Tee {
    source: FeedReader,
    file: File,
    hasher: Hasher,
    count: u64,
    fault: Option<Fault>,
}

impl Read for Tee {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buf).inspect_err(|_| self.fault = Some(Fault::Cancelled))?;
        if let Err(error) = self.file.write_all(&buf[..count]) {
            let kind = error.kind();
            self.fault = Some(Fault::File(error));
            return Err(kind.into());
        }
        self.hasher.write(&buf[..count]);
        self.count += count as u64;
        Ok(count)
    }
}

/// Hashes what it passes on, and stops a decompression bomb.
struct Meter<R> {
    source: R,
    hasher: Hasher,
    left: u64,
    over: bool,
}

impl<R: Read> Read for Meter<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buf)?;
        self.hasher.write(&buf[..count]);
        let Some(left) = self.left.checked_sub(count as u64) else {
            self.over = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        };
        self.left = left;
        Ok(count)
    }
}
