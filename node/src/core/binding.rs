//! The store that the node works for.

use std::{collections::BTreeSet, sync::Arc};

use super::{BatchId, Refusal, Registration};

/// Batches that are remembered as over one by one, about 8 bytes each. Calls for so many are never on their way to a
/// node at once, so below the lowest of them every batch can count as over.
const OVER_MAX: usize = 1_024;

/// The store of the orchestrator that the node is registered with, and which of its batches are over. Epochs and batch
/// ids are compared only within one store.
#[derive(Debug, Default)]
pub(super) struct Binding {
    /// Counts the stores before this one.
    pub(super) number: u32,
    /// Empty before the first registration.
    pub(super) store_id: Arc<str>,
    /// The highest epoch seen.
    epoch: u64,
    /// Batches below it that are not held were over when the node registered.
    pub(super) first_batch: Option<BatchId>,
    /// Batches that were forgotten, refused or called unknown: they will not be accepted any more.
    over: BTreeSet<BatchId>,
    /// So will none up to this one.
    over_up_to: Option<BatchId>,
}

/// What has changed for the node.
pub(super) struct Bound {
    pub(super) is_another_store: bool,
    pub(super) is_newer_epoch: bool,
}

impl Binding {
    /// Whether the node has ever been registered.
    pub(super) fn is_bound(&self) -> bool {
        self.first_batch.is_some()
    }

    /// Whether a caller has another store. An older orchestrator names none; and a node that was never registered
    /// belongs to no store yet.
    pub(super) fn is_another(&self, store_id: &str) -> bool {
        !self.store_id.is_empty() && !store_id.is_empty() && *self.store_id != *store_id
    }

    /// Refuses a caller with another store, and an epoch older than the highest one seen.
    /// Returns whether the epoch is newer than any before.
    pub(super) fn check_epoch(&mut self, store_id: &str, given: u64) -> Result<bool, Refusal> {
        // An unregistered node has no batch that could be rendered twice. The caller may be a former orchestrator that
        // still looks for its batches; its epoch must not keep out the one that the node registers with.
        if !self.is_bound() {
            return Ok(false);
        }
        if self.is_another(store_id) {
            return Err(Refusal::OtherStore);
        }
        if given < self.epoch {
            return Err(Refusal::StaleEpoch { given, seen: self.epoch });
        }
        Ok(self.raise_epoch(given))
    }

    /// Remembers an epoch of the store. Returns whether it is newer than any before.
    pub(super) fn raise_epoch(&mut self, epoch: u64) -> bool {
        let is_newer = self.epoch < epoch;
        self.epoch = self.epoch.max(epoch);
        is_newer
    }

    /// Binds the node to the store that it is registered with. Nothing that another store's orchestrator said holds
    /// any more, however high its epochs were: a store that people go back to has lower ones than the copy they tried.
    pub(super) fn bind(&mut self, registration: &Registration) -> Bound {
        let Registration { store_id, epoch, first_batch, .. } = registration;
        let is_another_store = !self.store_id.is_empty() && *self.store_id != **store_id;
        if is_another_store {
            *self = Self { number: self.number + 1, ..Self::default() };
        }
        self.store_id = store_id.as_str().into();
        self.first_batch = self.first_batch.max(Some(*first_batch));
        let is_newer_epoch = self.raise_epoch(*epoch);
        Bound { is_another_store, is_newer_epoch }
    }

    /// A batch that the node does not hold will not be accepted any more.
    pub(super) fn close(&mut self, batch: BatchId) {
        self.over.insert(batch);
        if self.over.len() > OVER_MAX {
            self.over_up_to = self.over_up_to.max(self.over.pop_first());
        }
    }

    /// Whether a batch that the node does not hold comes too late.
    pub(super) fn is_over(&self, batch: BatchId) -> bool {
        self.first_batch.is_some_and(|first| batch < first)
            || self.over_up_to.is_some_and(|last| batch <= last)
            || self.over.contains(&batch)
    }
}
