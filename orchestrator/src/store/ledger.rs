//! The store as the driver needs it.

use framecrew_blobs::Digest;
use futures::future::BoxFuture;

use super::{Archive, Group, JobProgressRecord, RestoredState, StoreError};
use crate::domain::JobId;

/// The store as the driver holds it. Its reads do not wait for those of watchers.
pub(crate) trait Ledger: Archive {
    /// Writes a group, whole and durable, or not at all; refused once another orchestrator has opened the store.
    fn commit<'a>(&'a self, group: &'a Group) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Refuses new jobs when the space that is left is reserved for those that were accepted.
    fn check_room(&self) -> Result<(), StoreError>;

    /// Refused once another orchestrator has opened the store.
    fn check_epoch(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Everything that a restarted orchestrator goes on from.
    fn restore(&self) -> BoxFuture<'_, Result<RestoredState, StoreError>>;

    /// The facts about a job's frames that a restarted orchestrator needs. Costs some ten milliseconds for each hundred thousand of
    /// them.
    fn job_progress(&self, job: JobId) -> BoxFuture<'_, Result<JobProgressRecord, StoreError>>;

    /// Saves when blobs were last used, in milliseconds since 1970. Earlier uses of the same blobs are replaced.
    fn save_blob_uses<'a>(
        &'a self,
        uses: &'a [(Digest, i64)],
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Drops the uses of blobs that are gone.
    fn forget_blob_uses<'a>(&'a self, blobs: &'a [Digest])
    -> BoxFuture<'a, Result<(), StoreError>>;

    /// Records whether every use of a blob is saved, and returns what was recorded before. True in a new store.
    fn mark_blob_uses(&self, are_complete: bool) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Lets go of the store once its readers are done, so that the next orchestrator can open it.
    fn close(&self) -> BoxFuture<'_, ()>;
}
