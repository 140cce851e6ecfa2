//! A connection to a cluster, and the calls that are answered once. Submitting, watching, fetching and reading logs
//! stand upon it, in files of their own.

use std::{sync::Arc, time::Duration};

use framecrew_blobs::BlobClient;
use framecrew_model::FrameSet;
use framecrew_net::{
    backoff::Backoff,
    endpoint::{self, Keepalive},
};
use framecrew_proto::{
    limits,
    v1::{
        self as proto, CancelJobRequest, DescribeNodeRequest, ListFramesRequest, ListJobsRequest,
        ListJobsResponse, ListNodesRequest, ReadLogRequest, ReadLogResponse, RetryFramesRequest,
        orchestrator_client::OrchestratorClient, render_node_client::RenderNodeClient,
    },
};
use futures::{Stream, StreamExt as _, stream};
use tonic::{
    Response, Status, Streaming,
    transport::{Channel, Endpoint},
};

use crate::{
    error::{Error, root_cause},
    words,
};

/// How long a connection may take to come about: far longer than any network of one's own needs.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a call that is answered once may take: the orchestrator answers from memory or after one commit, so
/// that what takes this long is somebody else, or a disk that hangs.
pub(crate) const CALL_DEADLINE: Duration = Duration::from_secs(20);
/// A watch notices within 15 s that the other side is gone without a word.
const KEEPALIVE: Keepalive = Keepalive {
    connect_within: CONNECT_TIMEOUT,
    probe_every: Duration::from_secs(10),
    answer_within: Duration::from_secs(5),
};
/// Pauses before attempts to reconnect: an orchestrator that is back is noticed within 5 s.
pub(crate) const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(200), longest: Duration::from_secs(5) };
/// Items in one page of a listing; the most the orchestrator gives.
const PAGE_SIZE: u32 = limits::PAGE_MAX;
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
    pub(crate) url: Arc<str>,
    pub(crate) rpc: OrchestratorClient<Channel>,
    pub(crate) blobs: BlobClient,
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

    pub(crate) fn job_error(&self, job_id: u64, status: &Status) -> Error {
        Error::of_job(&self.url, job_id, status)
    }

    pub(crate) fn error(&self, status: &Status) -> Error {
        Error::from_status(&self.url, status)
    }
}

/// What comes of a call, or that nothing did by the deadline. tonic's own timeout would say CANCELLED.
pub(crate) async fn within<T>(
    deadline: Duration,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    tokio::time::timeout(deadline, call).await.unwrap_or_else(|_| {
        Err(Status::deadline_exceeded(format!("no answer within {} s", deadline.as_secs())))
    })
}

/// Makes sure that `now` is the job that was `known`, and not one with its number in another store. It compares what
/// backups keep.
pub(crate) fn check_same(url: &str, known: &proto::Job, now: &proto::Job) -> Result<(), Error> {
    let name =
        |job: &proto::Job| job.spec.as_ref().map_or_else(String::new, |spec| spec.name.clone());
    if (now.submitted_at_ms, name(now)) == (known.submitted_at_ms, name(known)) {
        return Ok(());
    }
    Err(Error::JobLost { job_id: known.job_id, url: url.into(), other: Some(name(now)) })
}

fn endpoint(url: &str) -> Result<Endpoint, Error> {
    endpoint::endpoint(url, KEEPALIVE).map_err(|_| Error::InvalidUrl { url: url.into() })
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
