//! Runs the plugin chain of a network for a container.

mod cache;
mod execute;
mod invoke;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::cache::{Cache, CachedAttachment};
pub(crate) use self::execute::run_program;
use self::invoke::Call;
pub(crate) use self::invoke::{answer, find_plugin};
use crate::attachment::{Attachment, AttachmentId};
use crate::config::{NetworkConfigList, validate_identifier, validate_interface_name};
use crate::error::Error;
use crate::plugin::Command;
use crate::result::CniResult;
use crate::version::VersionInfo;

/// How long the plugins of a chain may take, unless [`Runner::with_deadline`] says otherwise.
const DEADLINE: Duration = Duration::from_secs(50);

/// Runs plugin chains. Cheap to make and to clone; holds no state but what is on disk.
///
/// Calls for different containers may run at the same time; calls for one container must follow each other.
#[derive(Clone, Debug)]
pub struct Runner {
    bin_dirs: Vec<PathBuf>,
    in_process: bool,
    cache: Cache,
    deadline: Duration,
}

impl Runner {
    /// `bin_dirs` is `CNI_PATH`. Results are cached in `cache_dir` (customarily `/var/lib/cni`, in its folder
    /// `results`). With `in_process`, plugins of the types that this crate has are called as functions and
    /// what the bin dirs have by these names is not looked at; without, every plugin is executed.
    ///
    /// The folder `results` is its caller's alone: [`Runner::gc`] takes every attachment in there for the
    /// caller's.
    pub fn new(bin_dirs: Vec<PathBuf>, cache_dir: impl Into<PathBuf>, in_process: bool) -> Runner {
        Runner { bin_dirs, in_process, cache: Cache::new(cache_dir.into()), deadline: DEADLINE }
    }

    /// Gives up a chain whose plugins are not done in this time: an executed one that still runs is killed
    /// then. ADD that fails may take as long again for undoing what was done. Whoever calls this must not give
    /// up earlier: ADD would go on behind the DEL that follows.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Runner {
        self.deadline = deadline;
        self
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.deadline
    }

    /// Attaches a container: ADD of every plugin, in order. If one fails, what was done is undone by DEL of
    /// every plugin. The result is cached for [`Runner::del`] and [`Runner::check`].
    pub fn add(&self, list: &NetworkConfigList, attachment: &Attachment) -> Result<CniResult, Error> {
        validate(attachment)?;
        let is_first = !self.cache.exists(&list.name, &attachment.id());
        // Written before anything is made: a process that dies half-way leaves a record for gc to find.
        self.cache.write(list, attachment, None)?;
        let added = self.add_chain(list, attachment, is_first).and_then(|result| {
            self.cache.write(list, attachment, Some(&result))?;
            CniResult::from_value(&result).map_err(|e| invoke::bad_result(&list.name, &e, &result))
        });
        added.map_err(|cause| match self.undo(list, attachment) {
            Ok(()) => cause,
            Err(undo) => Error::Rollback { cause: Box::new(cause), undo: Box::new(undo) },
        })
    }

    fn add_chain(&self, list: &NetworkConfigList, attachment: &Attachment, is_first: bool) -> Result<Value, Error> {
        let until = self.deadline();
        let mut result = Value::Null;
        for plugin in &list.plugins {
            let previous = (!result.is_null()).then_some(&result);
            let call = Call::new(list, plugin, Command::Add, until).attachment(attachment);
            let call = call.prev_result(previous).first(is_first);
            let answer = self.invoke(&call)?;
            result = answer.ok_or_else(|| invoke::no_result(&call))?;
        }
        Ok(result)
    }

    /// A failed ADD leaves a namespace that lives on, whatever the caller does with it later.
    fn undo(&self, list: &NetworkConfigList, attachment: &Attachment) -> Result<(), Error> {
        let attachment = Attachment { netns_going_away: false, ..attachment.clone() };
        self.del_chain(list, &attachment, None, self.deadline())
    }

    /// Detaches a container: DEL of every plugin in reverse order, going on after errors. Whatever is gone
    /// already (the namespace, the cached result, the container) is success.
    ///
    /// The chain is that of the cached ADD if there is one, so that a configuration changed in between, under
    /// whatever name, does not leave anything behind; `list` is for an attachment without such a record, and
    /// may be absent as the configuration may be gone.
    pub fn del<'a>(
        &self,
        list: impl Into<Option<&'a NetworkConfigList>>,
        attachment: &Attachment,
    ) -> Result<(), Error> {
        validate(attachment)?;
        let until = self.deadline();
        let records = self.cache.find(&attachment.id())?;
        let mut errors = Vec::new();
        for record in &records {
            errors.extend(self.del_chain(&record.list, attachment, record.result.as_ref(), until).err());
        }
        if let Some(list) = list.into() {
            let is_done = records.iter().any(|record| record.list.name == list.name);
            // A record that cannot be read is there as well.
            if !is_done && (records.is_empty() || self.cache.exists(&list.name, &attachment.id())) {
                errors.extend(self.del_chain(list, attachment, None, until).err());
            }
        }
        Error::gather(errors)
    }

    fn del_chain(
        &self,
        list: &NetworkConfigList,
        attachment: &Attachment,
        previous: Option<&Value>,
        until: Instant,
    ) -> Result<(), Error> {
        let mut errors = Vec::new();
        for (plugin, left) in list.plugins.iter().rev().zip((1..=list.plugins.len() as u32).rev()) {
            // A share of the time for each: one that hangs must not take it from the others.
            let share = until.saturating_duration_since(Instant::now()) / left;
            let mut call = Call::new(list, plugin, Command::Del, Instant::now() + share).attachment(attachment);
            if list.version.has_check() {
                call = call.prev_result(previous);
            }
            errors.extend(self.invoke(&call).err());
        }
        if errors.is_empty() {
            errors.extend(self.cache.remove(&list.name, &attachment.id()).err());
        }
        Error::gather(errors)
    }

    /// Asks every plugin whether the container is still attached as ADD left it.
    pub fn check(&self, list: &NetworkConfigList, attachment: &Attachment) -> Result<(), Error> {
        let refused = |reason| Err(Error::NotChecked { network: list.name.clone(), reason });
        validate(attachment)?;
        if list.disable_check {
            return Ok(());
        }
        if !list.version.has_check() {
            return refused("its cniVersion has no CHECK: use 0.4.0 or later");
        }
        let cached = self.cache.read(&list.name, &attachment.id())?;
        let Some(result) = cached.and_then(|c| c.result) else {
            return refused("there is no cached result: the container is not attached to it");
        };
        let until = self.deadline();
        for plugin in &list.plugins {
            let call = Call::new(list, plugin, Command::Check, until).attachment(attachment).prev_result(Some(&result));
            self.invoke(&call)?;
        }
        Ok(())
    }

    /// Asks every plugin whether it can do ADD now. Before CNI 1.1 there is no such question, and the answer
    /// is only whether the plugins are there.
    pub fn status(&self, list: &NetworkConfigList) -> Result<(), Error> {
        let until = self.deadline();
        for plugin in &list.plugins {
            if list.version.has_gc_and_status() {
                self.invoke(&Call::new(list, plugin, Command::Status, until))?;
            } else {
                self.locate(&plugin.kind)?;
            }
        }
        Ok(())
    }

    /// Removes what belongs to attachments that are not in `valid`: DEL for each cached one, then GC of every
    /// plugin for what has no cached result. This is about `list`, if there is one, and about every network
    /// that a cached attachment is on.
    pub fn gc<'a>(&self, list: impl Into<Option<&'a NetworkConfigList>>, valid: &[AttachmentId]) -> Result<(), Error> {
        let mut lists: Vec<NetworkConfigList> = list.into().into_iter().cloned().collect();
        let mut errors = Vec::new();
        for CachedAttachment { list, attachment, result } in self.cache.list()? {
            if !valid.contains(&attachment.id()) && !list.disable_gc {
                errors.extend(self.del_chain(&list, &attachment, result.as_ref(), self.deadline()).err());
            }
            if !lists.iter().any(|known| known.name == list.name) {
                lists.push(list);
            }
        }
        let valid = json!(valid);
        for list in lists.iter().filter(|list| !list.disable_gc) {
            for plugin in &list.plugins {
                // Our own plugins collect garbage whatever version the list says; others do from 1.1 on.
                if list.version.has_gc_and_status() || self.is_in_process(&plugin.kind) {
                    let call = Call::new(list, plugin, Command::Gc, self.deadline()).valid_attachments(&valid);
                    errors.extend(self.invoke(&call).err());
                }
            }
        }
        Error::gather(errors)
    }

    /// Frees the addresses in quarantine whose interfaces are gone (see [`Attachment::netns_going_away`]), and
    /// says how many are still waiting. Cheap; ADD itself takes over such an address when it comes to it.
    pub fn reap(&self, list: &NetworkConfigList) -> Result<usize, Error> {
        let mut waiting = 0;
        for plugin in &list.plugins {
            if self.is_in_process(&plugin.kind) {
                waiting += crate::host_local::reap(&list.name, &plugin.raw)?;
            }
        }
        Ok(waiting)
    }

    /// The result of ADD, while the container is attached.
    pub fn cached_result(&self, network: &str, id: &AttachmentId) -> Result<Option<CniResult>, Error> {
        let Some(result) = self.cache.read(network, id)?.and_then(|c| c.result) else {
            return Ok(None);
        };
        let parsed = CniResult::from_value(&result);
        parsed.map(Some).map_err(|e| invoke::bad_result(network, &e, &result))
    }

    /// The versions that a plugin speaks.
    pub fn version(&self, kind: &str) -> Result<VersionInfo, Error> {
        self.invoke_version(kind)
    }
}

fn validate(attachment: &Attachment) -> Result<(), Error> {
    let invalid = |field, value: &str, reason| Error::Attachment { field, value: value.to_owned(), reason };
    validate_identifier("container id", &attachment.container_id)
        .map_err(|_| invalid("container id", &attachment.container_id, "is not [a-zA-Z0-9][a-zA-Z0-9_.-]*"))?;
    validate_interface_name(&attachment.ifname)
        .map_err(|_| invalid("interface name", &attachment.ifname, "is not the name of an interface"))?;
    for (key, value) in &attachment.args {
        if key.contains(['=', ';', '\0']) || value.contains([';', '\0']) {
            return Err(invalid("args", key, "holds a separator of CNI_ARGS"));
        }
    }
    Ok(())
}
