//! Record files: JSON, checksummed, replaced by rename.
//!
//! A file is two lines of JSON: the record, and its checksum. It is not synced: what it speaks of dies with
//! the host, and a record torn by a power loss is found by its checksum, set aside and reported.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Context, Error, Result};

/// The version of the layout of a record.
const FORMAT: u32 = 1;

/// A folder of records.
#[derive(Debug)]
pub(crate) struct Records {
    folder: PathBuf,
    boot_id: String,
}

/// A record as it was found.
#[derive(Debug)]
pub(crate) struct Loaded<T> {
    pub(crate) record: T,
    /// Written since the host came up.
    pub(crate) this_boot: bool,
}

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    format: u32,
    boot_id: String,
    record: T,
}

#[derive(Serialize, Deserialize)]
struct Trailer {
    sha256: String,
}

impl Records {
    /// Opens the folder, making it with mode 0700 as needed.
    pub(crate) fn open(folder: PathBuf) -> Result<Records> {
        private_folder(&folder)?;
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .step(|| "read /proc/sys/kernel/random/boot_id".to_owned())?
            .trim()
            .to_owned();
        Ok(Records { folder, boot_id })
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }

    /// Writes the record of `id`, replacing an older one at once.
    pub(crate) fn save<T: Serialize>(&self, id: &str, record: &T) -> Result<()> {
        let envelope = Envelope { format: FORMAT, boot_id: self.boot_id.clone(), record };
        let text = encode(&envelope).step(|| format!("encode the record of {id}"))?;
        write_by_rename(&self.path(id), text.as_bytes(), 0o600).step(|| format!("write {}", self.path(id).display()))
    }

    /// Removes the record of `id`; one that is gone is no error.
    pub(crate) fn remove(&self, id: &str) -> Result<()> {
        match fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).step(|| format!("remove {}", self.path(id).display()))
            }
            _ => Ok(()),
        }
    }

    /// Reads every record. A torn one is renamed to `<name>.torn` and reported in the log; what a crash left
    /// of a write is removed.
    pub(crate) fn load<T: DeserializeOwned>(&self) -> Result<Vec<Loaded<T>>> {
        let mut found = Vec::new();
        let entries = fs::read_dir(&self.folder)
            .and_then(Iterator::collect::<io::Result<Vec<_>>>)
            .step(|| format!("list {}", self.folder.display()))?;
        for entry in entries {
            let path = entry.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => match self.read(&path) {
                    Ok(loaded) => found.push(loaded),
                    Err(error) => set_aside(&path, &error),
                },
                Some("tmp") => drop(fs::remove_file(&path)),
                _ => {}
            }
        }
        Ok(found)
    }

    fn read<T: DeserializeOwned>(&self, path: &Path) -> Result<Loaded<T>> {
        let text = fs::read_to_string(path).step(|| format!("read {}", path.display()))?;
        let envelope: Envelope<T> = decode(&text)?;
        if envelope.format != FORMAT {
            return Err(Error::internal(format!(
                "the record has format {}, and this daemon reads {FORMAT}",
                envelope.format
            )));
        }
        Ok(Loaded { this_boot: envelope.boot_id == self.boot_id, record: envelope.record })
    }
}

fn encode<T: Serialize>(envelope: &Envelope<T>) -> serde_json::Result<String> {
    let mut text = serde_json::to_string(envelope)?;
    let trailer = Trailer { sha256: hex::encode(Sha256::digest(text.as_bytes())) };
    text.push('\n');
    text.push_str(&serde_json::to_string(&trailer)?);
    text.push('\n');
    Ok(text)
}

fn decode<T: DeserializeOwned>(text: &str) -> Result<T> {
    let (body, trailer) =
        text.trim_end_matches('\n').rsplit_once('\n').ok_or_else(|| Error::internal("the record has no checksum"))?;
    let trailer: Trailer = serde_json::from_str(trailer).step(|| "the record's checksum is not readable".to_owned())?;
    if trailer.sha256 != hex::encode(Sha256::digest(body.as_bytes())) {
        return Err(Error::internal("the record does not match its checksum"));
    }
    serde_json::from_str(body).step(|| "decode the record".to_owned())
}

fn set_aside(path: &Path, error: &Error) {
    let aside = path.with_extension("torn");
    let outcome = fs::rename(path, &aside);
    tracing::warn!(
        record = %path.display(),
        kept_as = %aside.display(),
        renamed = outcome.is_ok(),
        "a record cannot be used: {}",
        error.chain()
    );
}

/// Replaces `path` by a file with `content`, with no moment at which it is torn.
pub(crate) fn write_by_rename(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
    file.write_all(content)?;
    fs::rename(&temporary, path)
}

/// Makes a folder, and those above it, that only root can enter.
pub(crate) fn private_folder(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .step(|| format!("make the folder {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::Records;
    use std::fs;

    struct Folder(std::path::PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("orlop-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was_saved() {
        let folder = Folder::new("records-round");
        let records = Records::open(folder.0.clone()).unwrap();
        records.save("a", &vec!["x\ny".to_owned()]).unwrap();
        records.save("a", &vec!["z".to_owned()]).unwrap();
        let loaded = records.load::<Vec<String>>().unwrap();
        assert_eq!(loaded.len(), 1);
        assert_eq!(loaded[0].record, ["z"]);
        assert!(loaded[0].this_boot);
        records.remove("a").unwrap();
        records.remove("a").unwrap();
        assert!(records.load::<Vec<String>>().unwrap().is_empty());
    }

    #[test]
    fn a_torn_record_is_set_aside_and_the_others_are_read() {
        let folder = Folder::new("records-torn");
        let records = Records::open(folder.0.clone()).unwrap();
        for id in ["good", "cut", "flipped"] {
            records.save(id, &vec![id.to_owned(); 100]).unwrap();
        }
        let cut = fs::read(folder.0.join("cut.json")).unwrap();
        fs::write(folder.0.join("cut.json"), &cut[..cut.len() / 2]).unwrap();
        let mut flipped = fs::read(folder.0.join("flipped.json")).unwrap();
        flipped[120] ^= 1;
        fs::write(folder.0.join("flipped.json"), flipped).unwrap();
        fs::write(folder.0.join("half.tmp"), "{").unwrap();
        let loaded = records.load::<Vec<String>>().unwrap();
        assert_eq!(loaded.len(), 1);
        assert_eq!(loaded[0].record[0], "good");
        assert!(folder.0.join("cut.torn").exists());
        assert!(folder.0.join("flipped.torn").exists());
        assert!(!folder.0.join("half.tmp").exists());
    }
}
