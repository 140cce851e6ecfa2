//! A job that the orchestrator has.

use std::path::Path;

use framecrew_model::FrameSet;
use framecrew_proto::v1::{self as proto, GetJobRequest};

use crate::{
    cluster::{CALL_DEADLINE, Cluster, check_same, within},
    error::Error,
    progress::FetchProgress,
    watch::Watch,
};

/// A submitted job.
#[derive(Debug, Clone)]
pub struct Job {
    pub(crate) cluster: Cluster,
    pub(crate) info: proto::Job,
}

impl Job {
    /// Its number.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.info.job_id
    }

    /// What the orchestrator said about it when this was made.
    #[must_use]
    pub fn info(&self) -> &proto::Job {
        &self.info
    }

    /// Follows it; see [`Cluster::watch`].
    #[must_use]
    pub fn watch(&self) -> Watch {
        self.cluster.watch(self.id())
    }

    /// Brings what it has finished so far into a folder; see [`Cluster::fetch`].
    ///
    /// # Errors
    /// As [`Cluster::fetch`].
    pub async fn fetch(&self, to: impl AsRef<Path>) -> Result<FetchProgress, Error> {
        self.cluster.fetch(self.id(), to).await
    }

    /// Cancels it; see [`Cluster::cancel`].
    ///
    /// # Errors
    /// As [`Cluster::cancel`].
    pub async fn cancel(&self) -> Result<proto::Job, Error> {
        self.cluster.cancel(self.id()).await
    }

    /// Opens its failed frames again; see [`Cluster::retry`].
    ///
    /// # Errors
    /// As [`Cluster::retry`].
    pub async fn retry(
        &self,
        frames: Option<&FrameSet>,
    ) -> Result<proto::RetryFramesResponse, Error> {
        self.cluster.retry(self.id(), frames).await
    }
}

impl Cluster {
    /// A job by its number.
    ///
    /// # Errors
    /// [`Error::NoSuchJob`] when there is none, or the orchestrator cannot be reached.
    pub async fn job(&self, job_id: u64) -> Result<Job, Error> {
        let mut rpc = self.rpc.clone();
        let answer = within(CALL_DEADLINE, rpc.get_job(GetJobRequest { job_id })).await;
        let info = answer.map_err(|status| self.job_error(job_id, &status))?.into_inner().job;
        Ok(Job { cluster: self.clone(), info: info.unwrap_or_default() })
    }

    /// A job that was seen before, as it is now.
    ///
    /// # Errors
    /// Returns [`Error::JobLost`] if another job has its number now, and the errors of [`job`](Self::job).
    pub async fn job_again(&self, known: &proto::Job) -> Result<Job, Error> {
        let job = self.job(known.job_id).await?;
        check_same(&self.url, known, &job.info)?;
        Ok(job)
    }
}
