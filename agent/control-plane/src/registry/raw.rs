//! Changes that the control plane makes itself, past the rules for clients.

use serde_json::Value;

use super::resource::Resource;
use super::{Context, Registry, key, revision_of, storage_failure};
use crate::status::Status;
use crate::store::{Durability, Expect, Write, WriteError};

const ATTEMPTS: usize = 8;

impl Registry {
    /// Changes an object by `change` as it is: no defaults, no validation, no split between spec and status.
    pub(crate) async fn update_raw(
        &self,
        ctx: &Context,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
        mut change: impl FnMut(&Value) -> Result<Value, Status>,
    ) -> Result<(), Status> {
        for _ in 0..ATTEMPTS {
            let old = self.get(resource, namespace, name)?;
            let object = change(&old)?;
            if object == *old || ctx.dry_run {
                return Ok(());
            }
            let expect = Expect::Revision(revision_of(&old));
            let write = Write {
                key: key(resource, namespace, name),
                expect,
                value: Some(object),
                durability: Durability::Full,
            };
            match self.store.write(write).await {
                Ok(_) => return Ok(()),
                Err(WriteError::Changed) => {}
                Err(WriteError::Missing) => return Err(Status::not_found(resource.group, resource.plural, name)),
                Err(other) => return Err(storage_failure(&other)),
            }
        }
        Err(Status::modified(resource.group, resource.plural, name))
    }
}
