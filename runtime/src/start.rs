//! start: a created container runs its program.

use std::os::fd::AsFd;

use oci_spec::runtime::Hooks;

use crate::error::{Error, Failure};
use crate::handshake::{CallerEnd, Gate, Patience};
use crate::lifecycle::{end, status};
use crate::status::{State, Status};
use crate::store::{self, Folder, Record};
use crate::{Runtime, hooks};

/// Holds a created container back from its program. Nobody else can start it, and its process ends with this value, if it
/// was not started. The container has to be deleted all the same, and may have been by then.
#[derive(Debug)]
pub struct Held {
    pub(crate) record: Record,
    pub(crate) hooks: Option<Hooks>,
    pub(crate) caller: CallerEnd,
}

impl Runtime {
    /// Runs the start hooks and lets the process execute its program; that this failed is an error here, and
    /// the container has stopped then.
    pub fn start(&self, id: &str) -> Result<(), Error> {
        let (folder, record) = self.open_created(id)?;
        let hooks = store::read_hooks(folder.path())?;
        self.execute(folder, &record, hooks.as_ref(), |folder, patience| Gate::open(folder.as_fd(), patience))
    }

    /// As [`Runtime::start`], for a container that [`Runtime::create_held`] made.
    pub fn start_held(&self, held: Held) -> Result<(), Error> {
        let (folder, record) = self.open_created(&held.record.id)?;
        if !record.is_of_same(&held.record) {
            return Err(Error::NotFound(record.id));
        }
        self.execute(folder, &record, held.hooks.as_ref(), |_, patience| held.caller.start(patience))
    }

    fn open_created(&self, id: &str) -> Result<(Folder, Record), Error> {
        let folder = Folder::open(self.root(), id, "start")?;
        let record = folder.record(id)?;
        match status(&record) {
            Status::Created => Ok((folder, record)),
            status => Err(Error::WrongStatus { verb: "start", id: id.to_owned(), status }),
        }
    }

    fn execute(
        &self,
        folder: Folder,
        record: &Record,
        hooks: Option<&Hooks>,
        start: impl FnOnce(&Folder, &mut Patience) -> Result<(), Failure>,
    ) -> Result<(), Error> {
        let start_container = hooks.and_then(|all| all.start_container().as_ref());
        self.tell_step(|| format!("process {} is to run its hooks and its program", record.pid));
        let mut patience = Patience::new(record.pid, hooks::time(start_container));
        start(&folder, &mut patience).inspect_err(|_| {
            // One that was given up must not get as far as its program later.
            if patience.is_over() {
                end(record);
            }
        })?;
        // A hook may call the runtime about its container.
        drop(folder);
        self.tell_step(|| "the program runs".to_owned());
        let Some(all) = hooks else { return Ok(()) };
        let ran = hooks::run("poststart", all.poststart().as_ref(), &State::of(record, Status::Running), None);
        Ok(ran.inspect_err(|_| self.end_same(record))?)
    }

    /// Ends a container, as the specification has it after a hook that failed, if it is still the same.
    fn end_same(&self, record: &Record) {
        let Ok(folder) = Folder::open(self.root(), &record.id, "end") else { return };
        if folder.record(&record.id).is_ok_and(|now| now.is_of_same(record)) {
            end(record);
        }
    }
}
