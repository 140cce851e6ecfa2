//! A submission: upload, submit, and try again while the orchestrator is away.

use std::time::Duration;

use framecrew_proto::v1::{self as proto, SubmitJobRequest};
use tokio::time::Instant;
use tonic::Status;
use tonic_types::StatusExt as _;

use crate::{
    cluster::{BACKOFF, Cluster, within},
    error::Error,
    job::Job,
    progress::SubmitProgress,
    project::{Content, Project},
    spec::JobSpec,
};

/// The same for a submission, which carries the digests of up to 100,000 files: 20 MB over a slow line.
const SUBMIT_DEADLINE: Duration = Duration::from_secs(120);
/// How long the orchestrator may be away before a submission is given up, each time anew: far longer than it takes to
/// restart.
const SUBMIT_PATIENCE: Duration = Duration::from_secs(60);

impl Cluster {
    /// Reads and uploads the .blend with all it needs and submits the job. It is durable once this returns; it
    /// is submitted once, even when the connection breaks on the way and the call is repeated.
    ///
    /// # Errors
    /// When the file or the frames are faulty, or the orchestrator refuses or stays away.
    pub async fn submit(&self, spec: JobSpec) -> Result<Job, Error> {
        self.submit_project(&Project::open(spec).await?, |_| {}).await
    }

    /// Submits a project that is open already, like [`submit`](Self::submit), and calls `on_progress` as the upload
    /// proceeds.
    ///
    /// # Errors
    /// When a file has changed since, or the orchestrator refuses or stays away.
    pub async fn submit_project(
        &self,
        project: &Project,
        mut on_progress: impl FnMut(SubmitProgress) + Send,
    ) -> Result<Job, Error> {
        let content = project.content(&mut on_progress).await?;
        let spec = proto::JobSpec { project: Some(content.project()), ..project.spec().clone() };
        let request =
            SubmitJobRequest { request_id: uuid::Uuid::new_v4().to_string(), spec: Some(spec) };
        let mut patience = Patience::default();
        loop {
            let mut on_try = |progress| {
                patience.heard(&progress);
                on_progress(progress);
            };
            match self.try_submit(&content, &request, &mut on_try).await {
                Err(error) if error.is_transient() => {
                    let Some(at) = patience.again(Instant::now(), error.retry_after()) else {
                        return Err(error);
                    };
                    let (attempt, reason) = (patience.attempt, error.to_string());
                    on_progress(SubmitProgress::Waiting { attempt, reason });
                    tokio::time::sleep_until(at).await;
                }
                result => return result,
            }
        }
    }

    async fn try_submit(
        &self,
        content: &Content,
        request: &SubmitJobRequest,
        on_progress: &mut (impl FnMut(SubmitProgress) + Send),
    ) -> Result<Job, Error> {
        let mut is_again = false;
        loop {
            content.upload(&self.url, &self.blobs, on_progress).await?;
            let mut rpc = self.rpc.clone();
            match within(SUBMIT_DEADLINE, rpc.submit_job(request.clone())).await {
                Ok(answer) => {
                    let info = answer.into_inner().job.unwrap_or_default();
                    return Ok(Job { cluster: self.clone(), info });
                }
                // What no job pins is collected after a while: perhaps just now.
                Err(status) if lacks_blobs(&status) && !is_again => is_again = true,
                Err(status) => return Err(self.error(&status)),
            }
        }
    }
}

/// How long a submission is tried: through any number of outages, as long as it gets further in between.
#[derive(Debug, Default)]
struct Patience {
    /// In this outage.
    attempt: u32,
    give_up_at: Option<Instant>,
    /// Bytes left to send when it was furthest. What is cut off again and again at the same point gets no further.
    least_left: Option<u64>,
}

impl Patience {
    /// Takes in how far the submission is.
    fn heard(&mut self, progress: &SubmitProgress) {
        let SubmitProgress::Uploading { sent_bytes, total_bytes } = progress else { return };
        let left = total_bytes.saturating_sub(*sent_bytes);
        if self.least_left.is_none_or(|least| left < least) {
            *self = Self { least_left: Some(left), ..Self::default() };
        }
    }

    /// When to try once more after a try that failed `now`; `None` when this outage has lasted long enough.
    fn again(&mut self, now: Instant, retry_after: Option<Duration>) -> Option<Instant> {
        self.attempt += 1;
        let at = now + BACKOFF.pause_or(self.attempt, retry_after);
        (at <= *self.give_up_at.get_or_insert(at + SUBMIT_PATIENCE)).then_some(at)
    }
}

/// Whether a job was refused for blobs that are not there.
fn lacks_blobs(status: &Status) -> bool {
    let failure = status.get_details_precondition_failure();
    failure.is_some_and(|failure| failure.violations.iter().any(|fault| fault.r#type == "BLOB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_submission_that_gets_further_has_patience_for_the_next_outage() {
        let begin = Instant::now();
        let fails_at =
            |patience: &mut Patience, s| patience.again(begin + Duration::from_secs(s), None);
        let sent =
            |sent_bytes| SubmitProgress::Uploading { sent_bytes, total_bytes: 1_000_000_000 };
        let mut patience = Patience::default();
        assert!(fails_at(&mut patience, 0).is_some());
        assert!(fails_at(&mut patience, 50).is_some());
        patience.heard(&sent(1_000));
        assert!(fails_at(&mut patience, 600).is_some(), "another outage");
        assert_eq!(patience.attempt, 1);
        let waiting = SubmitProgress::Waiting { attempt: 1, reason: String::new() };
        for progress in [sent(0), sent(1_000), waiting] {
            patience.heard(&progress);
        }
        assert!(fails_at(&mut patience, 650).is_some());
        assert!(fails_at(&mut patience, 670).is_none(), "it gets no further");
        patience.heard(&sent(1_001));
        assert!(fails_at(&mut patience, 670).is_some());
    }
}
