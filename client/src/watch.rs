//! A job's updates as a stream that mends itself.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use framecrew_net::cause::is_of_the_link;
use framecrew_proto::v1::{Job, WatchJobRequest, WatchJobResponse, watch_job_response::Update};
use futures::{Stream, StreamExt as _, stream};
use tonic::{Code, Response, Status};

use crate::{
    cluster::{BACKOFF, CALL_DEADLINE, Cluster, check_same, within},
    error::{Error, retry_after, root_cause},
};

/// What a watch tells.
#[derive(Debug, Clone, PartialEq)]
pub enum WatchEvent {
    /// The job's whole state (first), then what changes, then its end.
    Update(Box<WatchJobResponse>),
    /// The store at the other end is not the one that was watched, or an older state of it, as after a restore
    /// from a backup. The job's whole state comes next, and replaces all that was told before; unless another job
    /// bears its number there, which ends the watch with [`Error::JobLost`].
    StartingOver {
        /// What the orchestrator said.
        reason: String,
    },
    /// The connection broke. Nothing is lost: the watch resumes where it was.
    Reconnecting {
        /// Attempts since the last update, from 1.
        attempt: u32,
        /// Pause before this attempt.
        delay: Duration,
        /// What broke the connection.
        reason: String,
    },
}

/// Follows one job until it is over. Reconnects by itself for as long as it is polled; drop it to stop.
///
/// Ends after the update that says `ended`, or after an error that no retry mends.
pub struct Watch(Pin<Box<dyn Stream<Item = Result<WatchEvent, Error>> + Send>>);

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl Stream for Watch {
    type Item = Result<WatchEvent, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

/// Where a watch goes on: the last revision it has, and the store this is a revision of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Resume {
    pub(crate) after_revision: u64,
    pub(crate) store_id: String,
}

impl Watch {
    /// Watches a job through `open`, which asks the orchestrator at `url` for the updates after a point.
    pub(crate) fn new<O, F, S>(url: Arc<str>, job_id: u64, open: O) -> Self
    where
        O: FnMut(Resume) -> F + Send + 'static,
        F: Future<Output = Result<S, Status>> + Send + 'static,
        S: Stream<Item = Result<WatchJobResponse, Status>> + Send + Unpin + 'static,
    {
        let watcher = Watcher {
            url,
            job_id,
            open,
            updates: None,
            resume: Resume::default(),
            known: None,
            attempt: 0,
            delay: Duration::ZERO,
            over: false,
        };
        let events = stream::unfold(watcher, |mut watcher| async move {
            let event = watcher.next().await?;
            Some((event, watcher))
        });
        Self(Box::pin(events))
    }
}

impl Cluster {
    /// Follows a job: its whole state first, then changes, then its end.
    #[must_use]
    pub fn watch(&self, job_id: u64) -> Watch {
        let rpc = self.rpc.clone();
        Watch::new(self.url.clone(), job_id, move |resume: Resume| {
            let mut rpc = rpc.clone();
            let Resume { after_revision, store_id } = resume;
            let request = WatchJobRequest { job_id, after_revision, store_id };
            async move {
                let opened = within(CALL_DEADLINE, rpc.watch_job(request)).await;
                opened.map(Response::into_inner)
            }
        })
    }
}

struct Watcher<O, S> {
    url: Arc<str>,
    job_id: u64,
    open: O,
    updates: Option<S>,
    resume: Resume,
    /// The job as the first snapshot told of it.
    known: Option<Job>,
    attempt: u32,
    delay: Duration,
    over: bool,
}

impl<O, F, S> Watcher<O, S>
where
    O: FnMut(Resume) -> F,
    F: Future<Output = Result<S, Status>>,
    S: Stream<Item = Result<WatchJobResponse, Status>> + Unpin,
{
    async fn next(&mut self) -> Option<Result<WatchEvent, Error>> {
        if self.over {
            return None;
        }
        Some(match self.receive().await {
            Ok(update) => self.told(update),
            Err(status) => self.broken(&status),
        })
    }

    fn told(&mut self, update: WatchJobResponse) -> Result<WatchEvent, Error> {
        if let Some(Update::Snapshot(snapshot)) = &update.update {
            let job = snapshot.job.clone().unwrap_or_default();
            let known = self.known.get_or_insert_with(|| job.clone());
            check_same(&self.url, known, &job).inspect_err(|_| self.over = true)?;
        }
        self.attempt = 0;
        self.resume = Resume { after_revision: update.revision, store_id: update.store_id.clone() };
        self.over = matches!(update.update, Some(Update::Ended(_)));
        Ok(WatchEvent::Update(Box::new(update)))
    }

    async fn receive(&mut self) -> Result<WatchJobResponse, Status> {
        tokio::time::sleep(std::mem::take(&mut self.delay)).await;
        let updates = match &mut self.updates {
            Some(updates) => updates,
            None => {
                let opened = (self.open)(self.resume.clone()).await?;
                self.updates.insert(opened)
            }
        };
        updates
            .next()
            .await
            .unwrap_or_else(|| Err(Status::unavailable("the stream ended before the job did")))
    }

    fn broken(&mut self, status: &Status) -> Result<WatchEvent, Error> {
        self.updates = None;
        if is_final(status) {
            if status.code() == Code::FailedPrecondition && self.resume != Resume::default() {
                self.resume = Resume::default();
                return Ok(WatchEvent::StartingOver { reason: root_cause(status) });
            }
            self.over = true;
            return Err(Error::of_job(&self.url, self.job_id, status));
        }
        self.attempt = self.attempt.saturating_add(1);
        self.delay = BACKOFF.pause_or(self.attempt, retry_after(status));
        Ok(WatchEvent::Reconnecting {
            attempt: self.attempt,
            delay: self.delay,
            reason: root_cause(status),
        })
    }
}

/// Whether the orchestrator itself says no. A broken link has a source and may bear any code.
fn is_final(status: &Status) -> bool {
    !is_of_the_link(status)
        && matches!(
            status.code(),
            Code::NotFound
                | Code::InvalidArgument
                | Code::FailedPrecondition
                | Code::PermissionDenied
                | Code::Unauthenticated
                | Code::Unimplemented
        )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{collections::VecDeque, sync::Mutex};

    use framecrew_proto::v1::{JobChanges, JobEnded, JobSnapshot, JobSpec};
    use tonic_types::StatusExt as _;

    use super::*;

    type Script = Vec<Result<Vec<Result<WatchJobResponse, Status>>, Status>>;

    fn message(revision: u64, update: Update) -> Result<WatchJobResponse, Status> {
        Ok(WatchJobResponse { revision, store_id: "s".into(), update: Some(update) })
    }

    fn snapshot(revision: u64) -> Result<WatchJobResponse, Status> {
        message(revision, Update::Snapshot(JobSnapshot::default()))
    }

    fn changes(revision: u64) -> Result<WatchJobResponse, Status> {
        message(revision, Update::Changes(JobChanges::default()))
    }

    fn ended(revision: u64) -> Result<WatchJobResponse, Status> {
        message(revision, Update::Ended(JobEnded::default()))
    }

    /// How `play` gives that the watcher begins anew.
    const STARTING_OVER: i64 = i64::MIN;

    /// Plays a server that answers each open with the next entry of the script. Gives what the watcher saw
    /// (revisions, or the attempt as a negative number), how it ended, and where it resumed.
    async fn play(script: Script) -> (Vec<i64>, Option<Error>, Vec<u64>) {
        let mut script = VecDeque::from(script);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let opens = asked.clone();
        let mut watch = Watch::new("http://a:4000".into(), 9, move |resume: Resume| {
            opens.lock().unwrap().push(resume.after_revision);
            let answer = script.pop_front().expect("the watcher opens as often as the script says");
            async move { answer.map(stream::iter) }
        });
        let mut seen = Vec::new();
        let mut error = None;
        while let Some(event) = watch.next().await {
            match event {
                Ok(WatchEvent::Update(update)) => {
                    seen.push(i64::try_from(update.revision).unwrap())
                }
                Ok(WatchEvent::Reconnecting { attempt, .. }) => seen.push(-i64::from(attempt)),
                Ok(WatchEvent::StartingOver { .. }) => seen.push(STARTING_OVER),
                Err(fault) => error = Some(fault),
            }
        }
        let asked = asked.lock().unwrap().clone();
        (seen, error, asked)
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_ends_with_the_job() {
        let (seen, error, asked) = play(vec![Ok(vec![snapshot(1), changes(2), ended(3)])]).await;
        assert_eq!((seen, asked), (vec![1, 2, 3], vec![0]));
        assert!(error.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_broken_watch_resumes_at_its_revision() {
        let (seen, error, asked) = play(vec![
            Ok(vec![snapshot(1), changes(2), Err(Status::unknown("h2 reset"))]),
            Err(Status::unavailable("down")),
            Ok(vec![changes(7), ended(8)]),
        ])
        .await;
        assert_eq!(seen, [1, 2, -1, -2, 7, 8]);
        assert_eq!(asked, [0, 2, 2]);
        assert!(error.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_ends_early_is_broken_not_finished() {
        let (seen, _, asked) = play(vec![Ok(vec![snapshot(4)]), Ok(vec![ended(5)])]).await;
        assert_eq!((seen, asked), (vec![4, -1, 5], vec![0, 4]));
    }

    #[tokio::test(start_paused = true)]
    async fn another_life_of_the_store_is_watched_from_the_beginning() {
        let (seen, error, asked) = play(vec![
            Ok(vec![snapshot(9)]),
            Err(Status::failed_precondition("another store")),
            Ok(vec![snapshot(1), ended(2)]),
        ])
        .await;
        assert_eq!((seen, asked), (vec![9, -1, STARTING_OVER, 1, 2], vec![0, 9, 0]));
        assert!(error.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn another_job_of_the_same_number_is_not_followed() {
        let submitted = |submitted_at_ms, name: &str| {
            let spec = Some(JobSpec { name: name.into(), ..JobSpec::default() });
            let job = Some(Job { job_id: 9, spec, submitted_at_ms, ..Job::default() });
            message(1, Update::Snapshot(JobSnapshot { job, ..JobSnapshot::default() }))
        };
        for other in [submitted(6, "sunrise"), submitted(5, "sunset")] {
            let (seen, error, asked) = play(vec![
                Ok(vec![submitted(5, "sunrise"), changes(2)]),
                Err(Status::failed_precondition("another store")),
                Ok(vec![other, changes(2), ended(3)]),
            ])
            .await;
            assert_eq!((seen, asked), (vec![1, 2, -1, STARTING_OVER], vec![0, 2, 0]));
            assert!(matches!(error, Some(Error::JobLost { job_id: 9, other: Some(_), .. })));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_does_not_exist_is_not_asked_for_twice() {
        let (seen, error, asked) = play(vec![Err(Status::not_found("no such job"))]).await;
        assert!(seen.is_empty());
        assert_eq!(asked, [0]);
        assert!(matches!(error, Some(Error::NoSuchJob { job_id: 9, .. })), "{error:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_wants_to_be_left_alone_is() {
        let details = tonic_types::ErrorDetails::with_retry_info(Some(Duration::from_secs(40)));
        let busy = Status::with_error_details(Code::ResourceExhausted, "too many streams", details);
        let began = tokio::time::Instant::now();
        let (seen, error, _) = play(vec![Err(busy), Ok(vec![snapshot(1), ended(2)])]).await;
        assert_eq!(seen, [-1, 1, 2]);
        assert!(error.is_none());
        let waited = began.elapsed();
        assert!(
            (Duration::from_secs(40)..=Duration::from_secs(61)).contains(&waited),
            "{waited:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_refuses_a_fresh_watch_is_not_asked_for_ever() {
        let no = || Status::failed_precondition("no");
        let (seen, error, asked) = play(vec![Ok(vec![snapshot(9)]), Err(no()), Err(no())]).await;
        assert_eq!((seen, asked), (vec![9, -1, STARTING_OVER], vec![0, 9, 0]));
        assert!(error.is_some());
    }
}
