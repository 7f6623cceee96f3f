//! What the daemon knows: one record file per sandbox and container, and the same in memory.
//!
//! A record is written before the step that it speaks of and again after it, by [`file::Records`]. The tables
//! hand out shared objects, each with its own lock for operations, so that no request waits for another
//! object's.

mod container;
mod file;
mod message;
mod sandbox;
mod table;

pub(crate) use container::{Container, ContainerRecord, ContainerState, Exit};
use file::Records;
pub(crate) use file::{Loaded, private_folder};
pub(crate) use sandbox::{Sandbox, SandboxRecord, SandboxState};
pub(crate) use table::Table;

use std::path::Path;

use crate::error::Result;

/// The records and tables of one daemon.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) sandboxes: Table<Sandbox>,
    pub(crate) containers: Table<Container>,
    sandbox_records: Records,
    container_records: Records,
}

impl Store {
    /// Opens the record folders below `state` (`STATE/cri`), making them as needed.
    pub(crate) fn open(state: &Path) -> Result<Store> {
        Ok(Store {
            sandboxes: Table::new("sandbox"),
            containers: Table::new("container"),
            sandbox_records: Records::open(state.join("sandboxes"))?,
            container_records: Records::open(state.join("containers"))?,
        })
    }

    /// Writes what `sandbox` is now, unless it was forgotten.
    pub(crate) fn save_sandbox(&self, sandbox: &Sandbox) -> Result<()> {
        let forgotten = sandbox.saving();
        if *forgotten {
            return Ok(());
        }
        self.sandbox_records.save(&sandbox.id, &sandbox.record())
    }

    /// Writes what `container` is now, unless it was forgotten.
    pub(crate) fn save_container(&self, container: &Container) -> Result<()> {
        let forgotten = container.saving();
        if *forgotten {
            return Ok(());
        }
        self.container_records.save(&container.id, &container.record())
    }

    /// Forgets a sandbox, on disk first.
    pub(crate) fn forget_sandbox(&self, sandbox: &Sandbox) -> Result<()> {
        let mut forgotten = sandbox.saving();
        self.sandbox_records.remove(&sandbox.id)?;
        *forgotten = true;
        self.sandboxes.remove(&sandbox.id);
        Ok(())
    }

    /// Forgets a container, on disk first.
    pub(crate) fn forget_container(&self, container: &Container) -> Result<()> {
        let mut forgotten = container.saving();
        self.container_records.remove(&container.id)?;
        *forgotten = true;
        self.containers.remove(&container.id);
        Ok(())
    }

    /// Every sandbox record on disk. Torn ones are set aside and left out.
    pub(crate) fn load_sandboxes(&self) -> Result<Vec<Loaded<SandboxRecord>>> {
        self.sandbox_records.load()
    }

    /// Every container record on disk. Torn ones are set aside and left out.
    pub(crate) fn load_containers(&self) -> Result<Vec<Loaded<ContainerRecord>>> {
        self.container_records.load()
    }

    /// The containers of a sandbox.
    pub(crate) fn containers_of(&self, sandbox: &str) -> Vec<std::sync::Arc<Container>> {
        self.containers.list().into_iter().filter(|container| container.sandbox == sandbox).collect()
    }
}
