//! The `Orchestrator` service: which RPC goes where.

use std::{net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use framecrew_proto::v1::{
    AdoptFramesRequest, AdoptFramesResponse, CancelJobRequest, CancelJobResponse, GetJobRequest,
    GetJobResponse, HeartbeatRequest, HeartbeatResponse, ListFramesRequest, ListFramesResponse,
    ListJobsRequest, ListJobsResponse, ListNodesRequest, ListNodesResponse, ReadLogRequest,
    ReadLogResponse, RegisterNodeRequest, RegisterNodeResponse, RetryFramesRequest,
    RetryFramesResponse, SubmitJobRequest, SubmitJobResponse, UnregisterNodeRequest,
    UnregisterNodeResponse, WatchClusterRequest, WatchClusterResponse, WatchJobRequest,
    WatchJobResponse,
    orchestrator_server::{Orchestrator, OrchestratorServer},
};
use futures::Stream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{
    blob_store,
    quotas::{Client, Permitted, Quota, UploadPermits, admit},
    status::exhausted,
};
use crate::{blobs::Blobs, feed::Feed, mailbox::DriverHandle, store::Archive};

/// A job with a project of 100,000 files, at about 150 bytes each, and of 500,000 chunks at 80.
pub(super) const REQUEST_BYTES_MAX: usize = 64 << 20;
/// The same job in an answer, or the snapshot of a million frames in runs.
const RESPONSE_BYTES_MAX: usize = 64 << 20;

/// Calls of clients that may wait for the driver: a quarter of its mailbox, so that the reports of nodes always find
/// room there.
const CLIENT_CALLS_MAX: usize = 256;

/// Implements `Orchestrator`. The methods are in `submit`, `jobs`, `watches` and `members`.
#[derive(Debug, Clone)]
pub(crate) struct OrchestratorService {
    pub(super) driver: DriverHandle,
    pub(super) store: Arc<dyn Archive>,
    pub(super) feed: Arc<Feed>,
    pub(super) blobs: Blobs,
    pub(super) lease: Duration,
    quota: Quota,
    uploads: UploadPermits,
    calls: Arc<Semaphore>,
    /// Ends the streams. Otherwise they would keep the server from stopping.
    pub(super) shutdown: CancellationToken,
}

impl OrchestratorService {
    /// A service whose nodes' leases last `lease`.
    pub(crate) fn new(
        driver: DriverHandle,
        store: Arc<dyn Archive>,
        feed: Arc<Feed>,
        blobs: Blobs,
        lease: Duration,
        quota: Quota,
        shutdown: CancellationToken,
    ) -> Self {
        let calls = Arc::new(Semaphore::new(CLIENT_CALLS_MAX));
        let uploads = blob_store::upload_permits();
        Self { driver, store, feed, blobs, lease, quota, uploads, calls, shutdown }
    }

    /// Admits a client's call to the driver, unless too many wait for it.
    pub(super) fn admit_call(&self) -> Result<SemaphorePermit<'_>, Status> {
        self.calls.try_acquire().map_err(|_| {
            exhausted("CALLS", "the orchestrator is overloaded; nothing was done, try again")
        })
    }

    /// The permits of uploads. The service knows which machines have nodes.
    pub(crate) fn uploads(&self) -> UploadPermits {
        self.uploads.clone()
    }

    /// Reserves upload permits for a node's machine, so that finished frames do not wait for uploads of people.
    fn note_node(&self, peer: Option<SocketAddr>) {
        if let Some(peer) = peer {
            self.uploads.note_node(Client::at(peer.ip()));
        }
    }

    /// The service, with the limits that its messages need.
    pub(crate) fn server(self) -> OrchestratorServer<Self> {
        OrchestratorServer::new(self)
            .max_decoding_message_size(REQUEST_BYTES_MAX)
            .max_encoding_message_size(RESPONSE_BYTES_MAX)
    }
}

/// A stream of answers.
pub(super) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
/// A stream with its permit.
type Held<T> = Permitted<Answers<T>>;

#[tonic::async_trait]
impl Orchestrator for OrchestratorService {
    async fn submit_job(
        &self,
        request: Request<SubmitJobRequest>,
    ) -> Result<Response<SubmitJobResponse>, Status> {
        self.submit(request.into_inner()).await.map(Response::new)
    }

    async fn get_job(
        &self,
        request: Request<GetJobRequest>,
    ) -> Result<Response<GetJobResponse>, Status> {
        let job = self.job(request.into_inner().job_id).await?;
        Ok(Response::new(GetJobResponse { job: Some(job) }))
    }

    async fn list_jobs(
        &self,
        request: Request<ListJobsRequest>,
    ) -> Result<Response<ListJobsResponse>, Status> {
        self.page_of_jobs(request.into_inner()).await.map(Response::new)
    }

    async fn list_frames(
        &self,
        request: Request<ListFramesRequest>,
    ) -> Result<Response<ListFramesResponse>, Status> {
        self.page_of_frames(request.into_inner()).await.map(Response::new)
    }

    async fn cancel_job(
        &self,
        request: Request<CancelJobRequest>,
    ) -> Result<Response<CancelJobResponse>, Status> {
        let job = self.cancel(request.into_inner().job_id).await?;
        Ok(Response::new(CancelJobResponse { job: Some(job) }))
    }

    async fn retry_frames(
        &self,
        request: Request<RetryFramesRequest>,
    ) -> Result<Response<RetryFramesResponse>, Status> {
        self.retry(request.into_inner()).await.map(Response::new)
    }

    async fn adopt_frames(
        &self,
        request: Request<AdoptFramesRequest>,
    ) -> Result<Response<AdoptFramesResponse>, Status> {
        self.adopt(request.into_inner()).await.map(Response::new)
    }

    type WatchJobStream = Held<WatchJobResponse>;

    async fn watch_job(
        &self,
        request: Request<WatchJobRequest>,
    ) -> Result<Response<Self::WatchJobStream>, Status> {
        let permit = admit(&self.quota, &request)?;
        let answers = self.watch(request.into_inner()).await?;
        Ok(Response::new(Permitted::new(answers, permit)))
    }

    type WatchClusterStream = Held<WatchClusterResponse>;

    async fn watch_cluster(
        &self,
        request: Request<WatchClusterRequest>,
    ) -> Result<Response<Self::WatchClusterStream>, Status> {
        let permit = admit(&self.quota, &request)?;
        Ok(Response::new(Permitted::new(self.watch_all(), permit)))
    }

    type ReadLogStream = Held<ReadLogResponse>;

    async fn read_log(
        &self,
        request: Request<ReadLogRequest>,
    ) -> Result<Response<Self::ReadLogStream>, Status> {
        let permit = admit(&self.quota, &request)?;
        let answers = self.log(request.into_inner()).await?;
        Ok(Response::new(Permitted::new(answers, permit)))
    }

    async fn register_node(
        &self,
        request: Request<RegisterNodeRequest>,
    ) -> Result<Response<RegisterNodeResponse>, Status> {
        let peer = request.remote_addr();
        let answer = self.register(request.into_inner(), peer).await?;
        self.note_node(peer);
        Ok(Response::new(answer))
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        let peer = request.remote_addr();
        let answer = self.renew_lease(request.into_inner()).await?;
        self.note_node(peer);
        Ok(Response::new(answer))
    }

    async fn unregister_node(
        &self,
        request: Request<UnregisterNodeRequest>,
    ) -> Result<Response<UnregisterNodeResponse>, Status> {
        self.unregister(request.into_inner()).await.map(Response::new)
    }

    async fn list_nodes(
        &self,
        _: Request<ListNodesRequest>,
    ) -> Result<Response<ListNodesResponse>, Status> {
        Ok(Response::new(self.nodes()))
    }
}
