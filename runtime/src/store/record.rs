//! What is known about a container, in a file that is replaced as a whole.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use super::{STATE, rfc3339};
use crate::cgroups::{Below, Cgroups, Entrance, Place, Unit};
use crate::error::{Context, Error, Failure};
use crate::identity::user_name;
use crate::resctrl::Resctrl;
use crate::user_namespace;

/// The format of [`Record`]; another one is refused, not guessed at.
const FORMAT: u32 = 1;

/// What is known about a container. The status is not in here: it is read from the kernel.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) format: u32,
    pub(crate) oci_version: String,
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: PathBuf,
    pub(crate) created: String,
    pub(crate) owner: String,
    pub(crate) annotations: HashMap<String, String>,
    /// The container's process; 0 until it is ready.
    pub(crate) pid: i32,
    /// When that process began, in clock ticks after boot: tells it from a later one of the same number.
    pub(crate) start_time: u64,
    pub(crate) cgroups: Cgroups,
    /// Where groups of further hierarchies would be, when that differs from one to the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) place: Option<Place>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) resctrl: Option<Resctrl>,
    /// The unit that the groups belong to, when systemd made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unit: Option<Unit>,
    /// Whether all processes die with the first one.
    pub(crate) own_pid_namespace: bool,
    /// Whether it was paused before it was started: only then is a created one looked at for that.
    #[serde(default)]
    pub(crate) paused_early: bool,
    /// Whether its process was made from a checkpoint: it runs, though it has executed nothing.
    #[serde(default)]
    pub(crate) restored: bool,
}

impl Record {
    /// Opens the doors for a new process of the container.
    pub(crate) fn entrance(&self, below: &Below) -> Result<Entrance, Error> {
        let mut entrance = self.cgroups.entrance(below)?;
        self.resctrl.as_ref().map_or(Ok(()), |resctrl| resctrl.open_doors(&mut entrance))?;
        Ok(entrance)
    }

    /// Whether this is the same container at another time, and not a later one of its name.
    pub(crate) fn is_of_same(&self, other: &Record) -> bool {
        (self.pid, self.start_time) == (other.pid, other.start_time)
    }

    pub(crate) fn new(id: &str, bundle: PathBuf, rootfs: PathBuf, spec: &Spec) -> Record {
        Record {
            format: FORMAT,
            oci_version: crate::OCI_VERSION.to_owned(),
            id: id.to_owned(),
            bundle,
            rootfs,
            created: rfc3339(SystemTime::now()),
            owner: owner(),
            annotations: spec.annotations().clone().unwrap_or_default(),
            pid: 0,
            start_time: 0,
            cgroups: Cgroups::default(),
            place: None,
            resctrl: None,
            unit: None,
            own_pid_namespace: false,
            paused_early: false,
            restored: false,
        }
    }
}

fn owner() -> String {
    match user_namespace::uid() {
        0 => "root".to_owned(),
        uid => user_name(uid).unwrap_or_else(|| format!("#{uid}")),
    }
}

/// Reads the record of a container without locking it: it is replaced as a whole.
pub(crate) fn read_record(folder: &Path, id: &str) -> Result<Record, Error> {
    Ok(read_edition(folder, id)?.0)
}

/// Likewise, and which one it is.
pub(crate) fn read_edition(folder: &Path, id: &str) -> Result<(Record, Edition), Error> {
    read_edition_of(&folder.join(STATE), id)
}

pub(super) fn read_record_file(path: &Path, id: &str) -> Result<Record, Error> {
    Ok(read_edition_of(path, id)?.0)
}

fn read_edition_of(path: &Path, id: &str) -> Result<(Record, Edition), Error> {
    let file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(Error::NotFound(id.to_owned())),
        result => result.at("open", path.display())?,
    };
    let meta = file.metadata().at("stat", path.display())?;
    // As many system calls as to read a file whose edition nobody asks for.
    let mut bytes = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0) + 1);
    file.take(meta.len() + 1).read_to_end(&mut bytes).at("read", path.display())?;
    let unreadable = |why: String| Error::from(Failure::refused("read", path.display(), why));
    let record: Record = serde_json::from_slice(&bytes).map_err(|error| unreadable(error.to_string()))?;
    if record.format != FORMAT {
        return Err(unreadable(format!("its format is {}, this runtime knows {FORMAT}", record.format)));
    }
    Ok((record, Edition::of(&meta)))
}

/// Which record is there, as far as its file tells: one that replaces it is another file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edition(u64, i64, i64);

impl Edition {
    fn of(meta: &std::fs::Metadata) -> Edition {
        use std::os::unix::fs::MetadataExt;
        Edition(meta.ino(), meta.mtime(), meta.mtime_nsec())
    }

    /// Whether the record in a folder is still this one.
    pub(crate) fn is_current(self, folder: &Path) -> bool {
        std::fs::metadata(folder.join(STATE)).is_ok_and(|meta| Edition::of(&meta) == self)
    }
}
