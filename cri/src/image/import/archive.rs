//! The files of a tar archive, read in place.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::super::digest::{Digest, Hasher};
use super::super::error::Error;
use super::super::feed::Feed;
use super::super::layer::{Decompressor, TarKind, TarReader, clean};
use super::super::manifest::Descriptor;
use super::super::settings::Limits;
use super::super::store::Source;

const MAX_FILES: usize = 1_000_000;
/// As many links as are followed from name to name.
const MAX_LINKS: usize = 8;

/// Where a file's content is in the archive.
#[derive(Clone, Copy, Debug)]
pub(super) struct Section {
    offset: u64,
    pub(super) size: u64,
}

pub(crate) struct Archive {
    path: PathBuf,
    /// The plain tar: the archive itself, or its decompressed copy, whose name is gone already.
    file: File,
    files: HashMap<Vec<u8>, Section>,
    links: HashMap<Vec<u8>, Vec<u8>>,
    /// Blobs by digest, as images refer to them.
    pub(super) blobs: BTreeMap<Digest, Section>,
    limits: Limits,
}

impl Archive {
    /// Opens an archive and notes where its files are. A compressed one is decompressed to `temporary` first.
    pub(super) fn open(path: &Path, temporary: PathBuf, limits: &Limits) -> Result<Archive, Error> {
        let mut file = File::open(path).map_err(Error::io("open", path))?;
        let reader = BufReader::new(file.try_clone().map_err(Error::io("open", path))?);
        let mut plain = Decompressor::new(reader).map_err(Error::io("read", path))?;
        if !matches!(plain, Decompressor::Plain(_)) {
            file = decompress(&mut plain, &temporary, limits)?;
        }
        file.seek(SeekFrom::Start(0)).map_err(Error::io("read", path))?;
        let mut archive = Archive {
            path: path.to_owned(),
            file,
            files: HashMap::new(),
            links: HashMap::new(),
            blobs: BTreeMap::new(),
            limits: limits.clone(),
        };
        archive.index()?;
        Ok(archive)
    }

    fn index(&mut self) -> Result<(), Error> {
        let mut tar = TarReader::new(BufReader::new(self.file.try_clone().map_err(Error::io("open", &self.path))?));
        while let Some(entry) = tar.next().map_err(|error| self.bad(&super::super::error::chain(&error)))? {
            let name = clean(&entry.path).map_err(|reason| self.bad(reason))?;
            match entry.kind {
                TarKind::File => drop(self.files.insert(name, Section { offset: tar.position(), size: entry.size })),
                // Old docker save links a layer that several images share.
                TarKind::Symlink | TarKind::HardLink => drop(self.links.insert(name, entry.link)),
                _ => {}
            }
            if self.files.len() + self.links.len() > MAX_FILES {
                return Err(self.bad("it has too many files"));
            }
        }
        Ok(())
    }

    pub(super) fn bad(&self, reason: &str) -> Error {
        Error::Archive { path: self.path.clone(), reason: reason.to_owned() }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.section(name).is_ok()
    }

    /// Where a file is, by its name.
    pub(super) fn section(&self, name: &str) -> Result<Section, Error> {
        let mut name = clean(name.as_bytes()).map_err(|reason| self.bad(reason))?;
        for _ in 0..MAX_LINKS {
            if let Some(section) = self.files.get(&name) {
                return Ok(*section);
            }
            let Some(target) = self.links.get(&name) else { break };
            name = beside(&name, target);
        }
        Err(self.bad(&format!("it has no file {:?}", String::from_utf8_lossy(&name))))
    }

    /// A small file, whole.
    pub(super) fn read(&self, section: Section) -> Result<Bytes, Error> {
        if section.size > self.limits.document {
            return Err(self.bad(&format!("a document in it is over the limit of {} bytes", self.limits.document)));
        }
        let mut content = vec![0; section.size as usize];
        self.file.read_exact_at(&mut content, section.offset).map_err(Error::io("read", &self.path))?;
        Ok(content.into())
    }

    /// The first bytes of a file.
    pub(super) fn head(&self, section: Section) -> Result<[u8; 4], Error> {
        let mut head = [0; 4];
        let length = section.size.min(4) as usize;
        self.file.read_exact_at(&mut head[..length], section.offset).map_err(Error::io("read", &self.path))?;
        Ok(head)
    }

    pub(super) fn digest(&self, section: Section) -> Result<Digest, Error> {
        let mut hasher = Hasher::default();
        let mut buffer = vec![0; 128 << 10];
        let (mut at, end) = (section.offset, section.offset + section.size);
        while at < end {
            let want = buffer.len().min((end - at) as usize);
            let got = self.file.read_at(&mut buffer[..want], at).map_err(Error::io("read", &self.path))?;
            if got == 0 {
                return Err(self.bad("it ends within a file"));
            }
            hasher.write(&buffer[..got]);
            at += got as u64;
        }
        Ok(hasher.finish())
    }
}

impl Source for Archive {
    async fn blob(&self, blob: &Descriptor, feed: &Feed) -> Result<(), Error> {
        let section =
            self.blobs.get(&blob.digest).ok_or_else(|| self.bad(&format!("it lacks the blob {}", blob.digest)))?;
        // A descriptor of its own: layers are read at the same time, and a duplicate would share the position.
        let own = File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.file)));
        let mut file = tokio::fs::File::from_std(own.map_err(Error::io("open", &self.path))?);
        file.seek(SeekFrom::Start(section.offset)).await.map_err(Error::io("read", &self.path))?;
        feed.copy(file.take(section.size), &self.path).await
    }
}

fn decompress(source: &mut impl Read, to: &Path, limits: &Limits) -> Result<File, Error> {
    let open = OpenOptions::new().read(true).write(true).create_new(true).open(to);
    let mut file = open.map_err(Error::io("make", to))?;
    std::fs::remove_file(to).map_err(Error::io("unlink", to))?;
    let limit = limits.layer_bytes;
    let copied = io::copy(&mut source.take(limit), &mut file).map_err(Error::io("decompress to", to))?;
    if copied == limit {
        let reason = format!("its content is over the limit of {limit} bytes");
        return Err(Error::Archive { path: to.to_owned(), reason });
    }
    Ok(file)
}

/// What a link beside `name` points to.
fn beside(name: &[u8], target: &[u8]) -> Vec<u8> {
    let folder = name.iter().rposition(|b| *b == b'/').map_or(&b""[..], |slash| &name[..slash]);
    let mut parts: Vec<&[u8]> = folder.split(|b| *b == b'/').filter(|part| !part.is_empty()).collect();
    for part in target.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_beside_their_name() {
        assert_eq!(beside(b"a/layer.tar", b"../b/layer.tar"), b"b/layer.tar");
        assert_eq!(beside(b"layer.tar", b"../../b"), b"b");
    }
}
