//! Removing images and names.

use std::sync::Arc;

use super::super::digest::ImageId;
use super::super::error::Error;
use super::super::reference::Reference;
use super::Inner;
use super::catalog::{Catalog, Entry, Label, key};
use super::install::without_name;
use super::objects::behind;

impl Inner {
    /// Removes an image. Leased, it is hidden until the last lease goes. Blocks.
    pub(super) fn remove(self: &Arc<Self>, id: &ImageId) -> Result<(), Error> {
        let _writing = self.writing();
        let before = self.catalog();
        let mut entries: Vec<Entry> = Vec::new();
        let objects = self.objects();
        let leased = objects.leases.contains_key(id);
        for entry in &before.entries {
            if before.id_of(entry) != Some(*id) {
                entries.push(entry.clone());
            } else if leased && !entries.iter().any(|other| other.manifest.digest == entry.manifest.digest) {
                entries.push(Entry { label: Label::Removed, pinned: false, manifest: entry.manifest.clone() });
            }
        }
        // Published before it is written, and while no lease can be taken: nobody leases what goes.
        self.publish(before.with(entries, None));
        drop(objects);
        self.write_or_undo(&before)?;
        self.sweep();
        Ok(())
    }

    /// Removes one name; an unknown one is gone already. Blocks.
    pub(super) fn untag(self: &Arc<Self>, reference: &Reference) -> Result<(), Error> {
        let Some(name) = key(reference) else { return Ok(()) };
        let _writing = self.writing();
        let before = self.catalog();
        if before.named(&name).is_none() {
            return Ok(());
        }
        self.publish(before.with(without_name(&before.entries, &name), None));
        self.write_or_undo(&before)
    }

    /// Forgets what was removed and is leased no more. Blocks.
    pub(super) fn forget_removed(self: &Arc<Self>) -> Result<(), Error> {
        let _writing = self.writing();
        let before = self.catalog();
        let objects = self.objects();
        let leased = |entry: &Entry| before.id_of(entry).is_some_and(|id| objects.leases.contains_key(&id));
        let keep = |entry: &&Entry| entry.label != Label::Removed || leased(entry);
        let entries: Vec<Entry> = before.entries.iter().filter(keep).cloned().collect();
        let changed = entries.len() != before.entries.len();
        if changed {
            self.publish(before.with(entries, None));
        }
        drop(objects);
        if changed {
            self.write_or_undo(&before)?;
        }
        self.sweep();
        Ok(())
    }

    /// Forgets an image whose last lease went, if it was removed, without blocking the caller.
    pub(super) fn forget_behind(self: &Arc<Self>, id: &ImageId) {
        let catalog = self.catalog();
        let removed = |entry: &Entry| entry.label == Label::Removed && catalog.id_of(entry) == Some(*id);
        if !catalog.entries.iter().any(removed) {
            return;
        }
        let inner = self.clone();
        behind(move || {
            if let Err(error) = inner.forget_removed() {
                tracing::warn!(%error, "cannot forget a removed image now; the next removal tries again");
            }
        });
    }

    fn write_or_undo(&self, before: &Arc<Catalog>) -> Result<(), Error> {
        let result = self.layout.write_index(&self.catalog().entries);
        if result.is_err() {
            self.publish(Catalog::clone(before));
        }
        result
    }
}
