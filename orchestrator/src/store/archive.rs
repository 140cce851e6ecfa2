//! Reads of a store.

use std::fmt::Debug;

use framecrew_blobs::Digest;
use futures::{FutureExt as _, future::BoxFuture};

use super::{JobRecord, LogRecord, Request, Snapshot, StoreError};
use crate::domain::{Frame, JobId, Revision};

/// Reads of a store. They see what was committed, and nothing else.
pub(crate) trait Archive: Debug + Send + Sync + 'static {
    /// The job that a request made.
    fn find_request<'a>(
        &'a self,
        request_id: &'a str,
    ) -> BoxFuture<'a, Result<Option<(JobId, Request)>, StoreError>>;

    /// A job with its project.
    fn job(&self, job: JobId) -> BoxFuture<'_, Result<Option<JobRecord>, StoreError>>;

    /// A job without its project, which may be long.
    fn job_without_project(
        &self,
        job: JobId,
    ) -> BoxFuture<'_, Result<Option<JobRecord>, StoreError>> {
        let below = JobId(job.0.saturating_add(1));
        async move {
            let found = self.jobs_before(below, 1).await?.pop();
            Ok(found.filter(|record| record.job == job))
        }
        .boxed()
    }

    /// Jobs below a number, without their projects, highest first, at most `limit`.
    fn jobs_before(
        &self,
        before: JobId,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<JobRecord>, StoreError>>;

    /// Frames of a job that have rows, above a number, lowest first, at most `limit`.
    fn frames_after(
        &self,
        job: JobId,
        after: i64,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<Frame>, StoreError>>;

    /// Frames of a job that changed after a revision, in that order, at most `limit`.
    fn frames_changed(
        &self,
        job: JobId,
        after: Revision,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<Frame>, StoreError>>;

    /// A job without its project, the state of each of its frames that has a row, and the latest `troubled_max` frames
    /// with failed attempts. All are of the same moment.
    fn snapshot(
        &self,
        job: JobId,
        troubled_max: u32,
    ) -> BoxFuture<'_, Result<Option<Snapshot>, StoreError>>;

    /// Log lines of a job from `line` on, at most `limit`; of one frame, or of all.
    fn log(
        &self,
        job: JobId,
        frame: Option<i32>,
        line: u64,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<LogRecord>, StoreError>>;

    /// Every blob that a job needs: of its project, and of what its frames produced; some more than once.
    fn pins<'a>(
        &'a self,
        each: &'a mut (dyn FnMut(Digest) + Send),
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Every saved use of a blob, in milliseconds since 1970.
    fn blob_uses<'a>(
        &'a self,
        each: &'a mut (dyn FnMut(Digest, i64) + Send),
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Looks for damage in the whole store, while others work with it.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when there is some.
    fn verify(&self) -> BoxFuture<'_, Result<(), StoreError>>;
}
