//! A connection to a cluster, and everything a program can ask of it.

use std::{path::Path, sync::Arc, time::Duration};

use framecrew_blobs::BlobClient;
use framecrew_proto::v1::{
    self as proto, CancelJobRequest, DescribeNodeRequest, GetJobRequest, ListFramesRequest,
    ListJobsRequest, ListJobsResponse, ListNodesRequest, ReadLogRequest, ReadLogResponse,
    RetryFramesRequest, SubmitJobRequest, WatchJobRequest, orchestrator_client::OrchestratorClient,
    render_node_client::RenderNodeClient,
};
use futures::{Stream, StreamExt as _, stream};
use tokio::time::Instant;
use tonic::{
    Response, Status, Streaming,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;

use crate::{
    error::{Error, root_cause},
    fetch::{self, FetchProgress},
    folder::OutputFolder,
    frames::FrameSet,
    log::{self, LogEvent},
    project::{Content, Project},
    spec::JobSpec,
    view::words,
    watch::{Resume, Watch, check_same, pause},
};

/// How long a connection may take to come about: far longer than any network of one's own needs.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a call that is answered once may take: the orchestrator answers from memory or after one commit, so
/// that what takes this long is somebody else, or a disk that hangs.
const CALL_DEADLINE: Duration = Duration::from_secs(20);
/// The same for a submission, which carries the digests of up to 100,000 files: 20 MB over a slow line.
const SUBMIT_DEADLINE: Duration = Duration::from_secs(120);
/// How often an idle connection is probed, and how long a probe may go unanswered: a watch notices within
/// 15 s that the other side is gone without a word.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the orchestrator may be away before a submission is given up, each time anew: far longer than it takes to
/// restart.
const SUBMIT_PATIENCE: Duration = Duration::from_secs(60);
/// Items in one page of a listing; the most the orchestrator gives.
const PAGE_SIZE: u32 = 1_000;
/// Largest message taken: a snapshot of a job of a million frames in no two equal neighbours is 20 MB.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A connection to the orchestrator of a cluster. Cheap to clone; clones share one connection, which is
/// made again by itself when it breaks.
///
/// ```no_run
/// use framecrew::{Cluster, JobSpec, WatchEvent};
/// use futures::StreamExt as _;
///
/// # async fn example() -> Result<(), framecrew::Error> {
/// let cluster = Cluster::connect("http://127.0.0.1:4000").await?;
/// let job = cluster.submit(JobSpec::animation("shot.blend").frames(1..=250)).await?;
///
/// let mut watch = job.watch();
/// while let Some(event) = watch.next().await {
///     if let WatchEvent::Update(update) = event? {
///         println!("revision {}", update.revision);
///     }
/// }
/// job.fetch("frames").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Cluster {
    url: Arc<str>,
    rpc: OrchestratorClient<Channel>,
    blobs: BlobClient,
}

/// How far a submission is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubmitProgress {
    /// The project's files are being read, to learn what the cluster has of them already.
    Hashing {
        /// Bytes read so far.
        done_bytes: u64,
        /// Bytes to read.
        total_bytes: u64,
    },
    /// What the cluster does not have is being sent; not reported when it has everything.
    Uploading {
        /// Bytes on their way so far.
        sent_bytes: u64,
        /// Bytes to send.
        total_bytes: u64,
    },
    /// The orchestrator cannot be reached at the moment, or is busy; it is tried again.
    Waiting {
        /// Attempts so far.
        attempt: u32,
        /// Why, in words.
        reason: String,
    },
}

impl Cluster {
    /// Connects to the orchestrator at `url`, like `http://127.0.0.1:4000`.
    ///
    /// # Errors
    /// [`Error::InvalidUrl`], or [`Error::Unreachable`] when nothing is there within 5 s. That it is an
    /// orchestrator shows in the first call, which gives up after 20 s without an answer.
    pub async fn connect(url: impl Into<String>) -> Result<Self, Error> {
        let url = url.into();
        let endpoint = endpoint(&url)?;
        // The endpoint's own timeout ends with the connection's first packet.
        let channel = match tokio::time::timeout(CONNECT_TIMEOUT, endpoint.connect()).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => {
                return Err(Error::Unreachable { url, reason: root_cause(&error) });
            }
            Err(_) => {
                let reason = format!("no connection within {} s", CONNECT_TIMEOUT.as_secs());
                return Err(Error::Unreachable { url, reason });
            }
        };
        Ok(Self {
            url: url.into(),
            rpc: OrchestratorClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
            blobs: BlobClient::new(channel),
        })
    }

    /// Makes sure that what was connected to is an orchestrator that answers.
    ///
    /// # Errors
    /// When it is not, or does not within 20 s.
    pub async fn ping(&self) -> Result<(), Error> {
        self.jobs(1).await.map(drop)
    }

    /// Where the orchestrator is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The blobs of the cluster.
    #[must_use]
    pub fn blobs(&self) -> &BlobClient {
        &self.blobs
    }

    /// Reads and uploads the .blend with all it needs and submits the job. It is durable once this returns; it
    /// is submitted once, even when the connection breaks on the way and the call is repeated.
    ///
    /// # Errors
    /// When the file or the frames are faulty, or the orchestrator refuses or stays away.
    pub async fn submit(&self, spec: JobSpec) -> Result<Job, Error> {
        self.submit_project(&Project::open(spec).await?, |_| {}).await
    }

    /// As [`submit`](Self::submit), for a project that has been opened before; `on_progress` is told how
    /// far it is.
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
    /// [`Error::JobLost`] when its number is that of another one by now, and as [`job`](Self::job).
    pub async fn job_again(&self, known: &proto::Job) -> Result<Job, Error> {
        let job = self.job(known.job_id).await?;
        check_same(&self.url, known, &job.info)?;
        Ok(job)
    }

    /// The latest jobs, newest first, `max` at most.
    ///
    /// # Errors
    /// When the orchestrator cannot be reached.
    pub async fn jobs(&self, max: usize) -> Result<Vec<proto::Job>, Error> {
        let mut jobs = Vec::new();
        let mut pages = std::pin::pin!(self.job_pages(max));
        while let Some(page) = pages.next().await {
            jobs.extend(page?);
        }
        Ok(jobs)
    }

    /// Lists the latest jobs like [`Cluster::jobs`], one page at a time.
    pub fn job_pages(
        &self,
        max: usize,
    ) -> impl Stream<Item = Result<Vec<proto::Job>, Error>> + Send + use<> {
        let cluster = self.clone();
        stream::unfold(Some((max, String::new())), move |next| {
            let cluster = cluster.clone();
            async move {
                let (left, page_token) = next.filter(|(left, _)| *left > 0)?;
                let page_size = u32::try_from(left).unwrap_or(PAGE_SIZE).min(PAGE_SIZE);
                let mut rpc = cluster.rpc.clone();
                let request = ListJobsRequest { page_size, page_token };
                match within(CALL_DEADLINE, rpc.list_jobs(request)).await {
                    Ok(page) => {
                        let ListJobsResponse { mut jobs, next_page_token } = page.into_inner();
                        jobs.truncate(left);
                        let next = Some((left - jobs.len(), next_page_token));
                        Some((Ok(jobs), next.filter(|(_, token)| !token.is_empty())))
                    }
                    Err(status) => Some((Err(cluster.error(&status)), None)),
                }
            }
        })
    }

    /// Lists the nodes ordered by name, with node-2 before node-10.
    ///
    /// # Errors
    /// When the orchestrator cannot be reached.
    pub async fn nodes(&self) -> Result<Vec<proto::Node>, Error> {
        let mut rpc = self.rpc.clone();
        let answer = within(CALL_DEADLINE, rpc.list_nodes(ListNodesRequest {})).await;
        let mut nodes = answer.map_err(|status| self.error(&status))?.into_inner().nodes;
        nodes.sort_by(|a, b| words::by_number(&a.name, &b.name));
        Ok(nodes)
    }

    /// Asks a node itself, at its own address, what it is and does; `node` is one of [`nodes`](Self::nodes).
    ///
    /// # Errors
    /// When it cannot be reached from here.
    pub async fn describe(&self, node: &proto::Node) -> Result<proto::DescribeNodeResponse, Error> {
        let unreachable = |reason| Error::Failed {
            message: format!("node {} does not answer at {} ({reason})", node.name, node.address),
        };
        let asking = async {
            let channel = endpoint(&node.address)?.connect().await;
            let channel = channel.map_err(|error| unreachable(root_cause(&error)))?;
            let answer = RenderNodeClient::new(channel).describe_node(DescribeNodeRequest {}).await;
            answer.map(Response::into_inner).map_err(|status| unreachable(root_cause(&status)))
        };
        let asked = tokio::time::timeout(CONNECT_TIMEOUT, asking).await;
        asked.unwrap_or_else(|_| Err(unreachable("no answer in time".into())))
    }

    /// A job's frames with their outputs, by number, page by page.
    pub fn frames(
        &self,
        job_id: u64,
    ) -> impl Stream<Item = Result<Vec<proto::Frame>, Error>> + Send + use<> {
        let cluster = self.clone();
        stream::unfold(Some(String::new()), move |page_token| {
            let cluster = cluster.clone();
            async move {
                let request =
                    ListFramesRequest { job_id, page_size: PAGE_SIZE, page_token: page_token? };
                let mut rpc = cluster.rpc.clone();
                match within(CALL_DEADLINE, rpc.list_frames(request)).await {
                    Ok(page) => {
                        let page = page.into_inner();
                        let next = Some(page.next_page_token).filter(|token| !token.is_empty());
                        Some((Ok(page.frames), next))
                    }
                    Err(status) => Some((Err(cluster.job_error(job_id, &status)), None)),
                }
            }
        })
    }

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

    /// Downloads everything that the job has finished so far into the folder `to`. A file that is already there
    /// with the right content is not fetched again. A file of the same name with other content is replaced if
    /// Framecrew wrote it. A file that a person made or changed stays, and [`Error::Incomplete`] names it (see
    /// [`OutputFolder::overwriting`]).
    ///
    /// # Errors
    /// When the folder cannot be written to, there is no such job, or the connection stays broken.
    pub async fn fetch(&self, job_id: u64, to: impl AsRef<Path>) -> Result<FetchProgress, Error> {
        let folder = OutputFolder::open(to.as_ref())?;
        fetch::fetch(self, job_id, &folder, None, |_| {}).await
    }

    /// Cancels a job; gives it back as it is then. No frame finishes any more once this has returned.
    ///
    /// # Errors
    /// [`Error::NoSuchJob`] when there is none, or the orchestrator cannot be reached.
    pub async fn cancel(&self, job_id: u64) -> Result<proto::Job, Error> {
        let mut rpc = self.rpc.clone();
        let answer = within(CALL_DEADLINE, rpc.cancel_job(CancelJobRequest { job_id })).await;
        let job = answer.map_err(|status| self.job_error(job_id, &status))?.into_inner().job;
        Ok(job.unwrap_or_default())
    }

    /// Opens failed frames of a job again, with a fresh budget of tries: those of `frames`, or all of them. A job that
    /// had failed goes on, under its own number. It is durable once this returns; `reopened` says how many there were,
    /// which may be none.
    ///
    /// # Errors
    /// [`Error::NoSuchJob`] when there is none, [`Error::Refused`] when it was cancelled or has not all of `frames`,
    /// or the orchestrator cannot be reached.
    pub async fn retry(
        &self,
        job_id: u64,
        frames: Option<&FrameSet>,
    ) -> Result<proto::RetryFramesResponse, Error> {
        let frames = frames.iter().flat_map(|frames| frames.ranges());
        let frames = frames.map(|range| (*range).into()).collect();
        let mut rpc = self.rpc.clone();
        let call = rpc.retry_frames(RetryFramesRequest { job_id, frames });
        let answer = within(CALL_DEADLINE, call).await;
        Ok(answer.map_err(|status| self.job_error(job_id, &status))?.into_inner())
    }

    /// What the renderers of a job have written so far, oldest first: of one frame or of all. Never reconnects.
    ///
    /// # Errors
    /// [`Error::NoSuchJob`] when there is none, or the orchestrator cannot be reached.
    pub async fn log(
        &self,
        job_id: u64,
        frame: Option<i32>,
    ) -> Result<impl Stream<Item = Result<LogEvent, Error>> + Send + use<>, Error> {
        let messages = self.read_log(job_id, frame, false).await?;
        let url = self.url.clone();
        Ok(messages.map(move |message| match message {
            Ok(ReadLogResponse { lines, dropped }) => Ok(LogEvent::Lines { lines, dropped }),
            Err(status) => Err(Error::from_status(&url, &status)),
        }))
    }

    /// The same, and then what they go on to write until the job is over. Reconnects by itself for as long as it is
    /// polled, and tells no line twice; drop it to stop.
    ///
    /// # Errors
    /// As [`log`](Self::log), and in the stream [`Error::JobLost`] when another job bears the number by then.
    pub async fn follow_log(
        &self,
        job_id: u64,
        frame: Option<i32>,
    ) -> Result<impl Stream<Item = Result<LogEvent, Error>> + Send + use<>, Error> {
        let job = self.job(job_id).await?;
        Ok(log::follow(self.clone(), job.info, frame))
    }

    pub(crate) async fn read_log(
        &self,
        job_id: u64,
        frame: Option<i32>,
        follow: bool,
    ) -> Result<Streaming<ReadLogResponse>, Error> {
        let request = ReadLogRequest { job_id, frame, follow };
        let mut rpc = self.rpc.clone();
        let answer = within(CALL_DEADLINE, rpc.read_log(request)).await;
        Ok(answer.map_err(|status| self.job_error(job_id, &status))?.into_inner())
    }

    fn job_error(&self, job_id: u64, status: &Status) -> Error {
        Error::of_job(&self.url, job_id, status)
    }

    fn error(&self, status: &Status) -> Error {
        Error::from_status(&self.url, status)
    }
}

/// A submitted job.
#[derive(Debug, Clone)]
pub struct Job {
    cluster: Cluster,
    info: proto::Job,
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
        let at = now + pause(self.attempt, retry_after);
        (at <= *self.give_up_at.get_or_insert(at + SUBMIT_PATIENCE)).then_some(at)
    }
}

/// What comes of a call, or that nothing did by the deadline. tonic's own timeout would say CANCELLED.
async fn within<T>(
    deadline: Duration,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    tokio::time::timeout(deadline, call).await.unwrap_or_else(|_| {
        Err(Status::deadline_exceeded(format!("no answer within {} s", deadline.as_secs())))
    })
}

/// Whether a job was refused for blobs that are not there.
fn lacks_blobs(status: &Status) -> bool {
    let failure = status.get_details_precondition_failure();
    failure.is_some_and(|failure| failure.violations.iter().any(|fault| fault.r#type == "BLOB"))
}

fn endpoint(url: &str) -> Result<Endpoint, Error> {
    let invalid = || Error::InvalidUrl { url: url.into() };
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|_| invalid())?;
    let uri = endpoint.uri();
    if uri.scheme_str() != Some("http") || uri.host().is_none_or(str::is_empty) {
        return Err(invalid());
    }
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn what_is_no_url_is_refused_before_the_network_is_asked() {
        for url in ["", "127.0.0.1", "localhost:4000", "ftp://a:1", "http://", "http://a b"] {
            let error = Cluster::connect(url).await.unwrap_err();
            assert!(matches!(error, Error::InvalidUrl { .. }), "{url}: {error}");
        }
    }

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

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_not_answered_ends_as_unreachable() {
        let silent = within(CALL_DEADLINE, std::future::pending::<Result<(), _>>()).await;
        let error = Error::from_status("http://a:4000", &silent.unwrap_err());
        assert!(matches!(error, Error::Unreachable { .. }) && error.is_transient());
        assert!(error.to_string().contains("no answer within 20 s"), "{error}");
        assert_eq!(within(CALL_DEADLINE, async { Ok(7) }).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn an_orchestrator_that_is_not_there_is_named_with_its_address() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", free.local_addr().unwrap());
        drop(free);
        let error = Cluster::connect(url.clone()).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&url) && text.contains("framecrew up"), "{text}");
    }
}
