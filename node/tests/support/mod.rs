//! A cluster small enough to see through: an orchestrator that only grants leases and keeps blobs in memory,
//! and a real node over real sockets.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub, missing_docs)]

pub mod blender;

use std::{
    collections::HashMap,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use framecrew_blobs::Digest;
use framecrew_node::{Config, RendererChoice, ServeError};
use framecrew_proto::v1::{
    batch_event::Event, blob_store_server::*, orchestrator_server::*,
    render_node_client::RenderNodeClient, *,
};
use futures::{Stream, StreamExt as _};
use tokio::{net::TcpListener, task::JoinHandle, time};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Channel, Server},
};

/// Longest wait for anything: a cold Blender on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Default)]
pub struct State {
    /// Whose frames nodes draw; heartbeats that name another one are strangers'.
    pub store_id: String,
    pub registered: Vec<RegisterNodeRequest>,
    pub heartbeats: u64,
    pub left: Vec<UnregisterNodeRequest>,
    /// Goodbyes that are refused before one is heard.
    pub deaf: u32,
    /// Registrations before each of them.
    pub left_after: Vec<usize>,
    pub blobs: HashMap<String, Vec<u8>>,
    pub uploads: u64,
    pub downloads: u64,
    /// What heartbeats are answered with instead of a lease.
    pub refuse: Option<Status>,
    pub abandon: Vec<u64>,
    pub ttl: Duration,
    /// Heartbeats that said that the node drains.
    pub draining: u64,
    /// Whether uploads fail.
    pub store_is_away: bool,
    /// What they are answered with otherwise.
    pub store_refuses: Option<Status>,
    /// Frames that were handed in, and adopted as soon as their blobs were there.
    pub adopted: Vec<SliceFinished>,
    /// How often frames were handed in.
    pub offers: u64,
}

#[derive(Clone)]
pub struct Fake(pub Arc<Mutex<State>>);

type Answer<T> = Result<Response<T>, Status>;
type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Orchestrator for Fake {
    type WatchJobStream = Messages<WatchJobResponse>;
    type WatchClusterStream = Messages<WatchClusterResponse>;
    type ReadLogStream = Messages<ReadLogResponse>;

    async fn register_node(
        &self,
        request: Request<RegisterNodeRequest>,
    ) -> Answer<RegisterNodeResponse> {
        let mut state = self.0.lock().unwrap();
        if let Some(status) = &state.refuse {
            return Err(status.clone());
        }
        state.registered.push(request.into_inner());
        Ok(Response::new(RegisterNodeResponse {
            lease_ttl_ms: state.ttl.as_millis() as u64,
            heartbeat_interval_ms: 100,
            epoch: 1,
            abandon_batch_ids: Vec::new(),
            first_batch_id: 0,
            store_id: state.store_id.clone(),
        }))
    }

    async fn heartbeat(&self, request: Request<HeartbeatRequest>) -> Answer<HeartbeatResponse> {
        let mut state = self.0.lock().unwrap();
        if let Some(status) = &state.refuse {
            return Err(status.clone());
        }
        state.heartbeats += 1;
        let request = request.into_inner();
        if request.store_id != state.store_id {
            return Err(Status::not_found("register first"));
        }
        state.draining += u64::from(request.draining);
        Ok(Response::new(HeartbeatResponse {
            lease_ttl_ms: state.ttl.as_millis() as u64,
            epoch: 1,
            abandon_batch_ids: std::mem::take(&mut state.abandon),
        }))
    }

    async fn unregister_node(
        &self,
        request: Request<UnregisterNodeRequest>,
    ) -> Answer<UnregisterNodeResponse> {
        let mut state = self.0.lock().unwrap();
        if let Some(status) = &state.refuse {
            return Err(status.clone());
        }
        if state.deaf > 0 {
            state.deaf -= 1;
            return Err(Status::unavailable("not yet"));
        }
        state.left.push(request.into_inner());
        let registered = state.registered.len();
        state.left_after.push(registered);
        Ok(Response::new(UnregisterNodeResponse {}))
    }

    async fn retry_frames(&self, _: Request<RetryFramesRequest>) -> Answer<RetryFramesResponse> {
        not_here()
    }
    async fn adopt_frames(
        &self,
        request: Request<AdoptFramesRequest>,
    ) -> Answer<AdoptFramesResponse> {
        let mut state = self.0.lock().unwrap();
        state.offers += 1;
        let request = request.into_inner();
        assert_eq!(request.store_id, state.store_id);
        let mut adoptions = Vec::new();
        for frame in request.frames {
            let finished = frame.finished.unwrap();
            let is_there = |output: &Output| state.blobs.contains_key(&output.digest);
            if finished.outputs.iter().all(is_there) {
                state.adopted.push(finished);
                adoptions.push(Adoption::Adopted.into());
            } else {
                adoptions.push(Adoption::BlobsMissing.into());
            }
        }
        Ok(Response::new(AdoptFramesResponse { adoptions }))
    }
    async fn submit_job(&self, _: Request<SubmitJobRequest>) -> Answer<SubmitJobResponse> {
        not_here()
    }
    async fn get_job(&self, _: Request<GetJobRequest>) -> Answer<GetJobResponse> {
        not_here()
    }
    async fn list_jobs(&self, _: Request<ListJobsRequest>) -> Answer<ListJobsResponse> {
        not_here()
    }
    async fn list_frames(&self, _: Request<ListFramesRequest>) -> Answer<ListFramesResponse> {
        not_here()
    }
    async fn cancel_job(&self, _: Request<CancelJobRequest>) -> Answer<CancelJobResponse> {
        not_here()
    }
    async fn watch_job(&self, _: Request<WatchJobRequest>) -> Answer<Self::WatchJobStream> {
        not_here()
    }
    async fn watch_cluster(
        &self,
        _: Request<WatchClusterRequest>,
    ) -> Answer<Self::WatchClusterStream> {
        not_here()
    }
    async fn read_log(&self, _: Request<ReadLogRequest>) -> Answer<Self::ReadLogStream> {
        not_here()
    }
    async fn list_nodes(&self, _: Request<ListNodesRequest>) -> Answer<ListNodesResponse> {
        not_here()
    }
}

fn not_here<T>() -> Answer<T> {
    Err(Status::unimplemented("not in this test"))
}

#[tonic::async_trait]
impl BlobStore for Fake {
    type DownloadStream = Messages<DownloadResponse>;

    async fn find_missing(
        &self,
        request: Request<FindMissingRequest>,
    ) -> Answer<FindMissingResponse> {
        let state = self.0.lock().unwrap();
        let mut missing = request.into_inner().digests;
        missing.retain(|digest| !state.blobs.contains_key(digest));
        Ok(Response::new(FindMissingResponse { missing }))
    }

    async fn upload(&self, request: Request<Streaming<UploadRequest>>) -> Answer<UploadResponse> {
        use upload_request::Part;
        if self.0.lock().unwrap().store_is_away {
            return Err(Status::unavailable("the store is away"));
        }
        if let Some(status) = self.0.lock().unwrap().store_refuses.clone() {
            return Err(status);
        }
        let mut parts = request.into_inner();
        let (mut digest, mut content) = (String::new(), Vec::new());
        let (mut existed, mut blobs) = (true, 0);
        while let Some(part) = parts.message().await? {
            match part.part {
                Some(Part::Header(header)) => digest = header.digest,
                Some(Part::Chunk(chunk)) => content.extend_from_slice(&chunk.data),
                Some(Part::Commit(_)) => {
                    if Digest::of(&content).to_string() != digest {
                        return Err(Status::invalid_argument("digest differs"));
                    }
                    let mut state = self.0.lock().unwrap();
                    state.uploads += 1;
                    blobs += 1;
                    let content = std::mem::take(&mut content);
                    existed &= state.blobs.insert(std::mem::take(&mut digest), content).is_some();
                }
                None => {}
            }
        }
        if digest.is_empty() && blobs > 0 {
            return Ok(Response::new(UploadResponse { existed, blobs }));
        }
        Err(Status::aborted("no commit"))
    }

    async fn download(&self, request: Request<DownloadRequest>) -> Answer<Self::DownloadStream> {
        let request = request.into_inner();
        let Some(download_request::Source::Digest(digest)) = request.source else {
            return Err(Status::unimplemented("by digest only"));
        };
        let content = {
            let mut state = self.0.lock().unwrap();
            state.downloads += 1;
            state.blobs.get(&digest).cloned()
        };
        let content = content.ok_or_else(|| Status::not_found("no such blob"))?;
        let size_bytes = content.len() as u64;
        let rest = content[request.offset as usize..].to_vec();
        let mut chunks: Vec<_> = rest.chunks(256 * 1024).map(<[u8]>::to_vec).collect();
        if chunks.is_empty() {
            chunks.push(Vec::new());
        }
        let messages = chunks.into_iter().enumerate().map(move |(n, data)| {
            Ok(DownloadResponse {
                size_bytes: if n == 0 { size_bytes } else { 0 },
                data: data.into(),
            })
        });
        Ok(Response::new(futures::stream::iter(messages.collect::<Vec<_>>()).boxed()))
    }
}

/// Starts the orchestrator and gives its state, its address and its task.
pub async fn orchestrate(ttl: Duration) -> (Arc<Mutex<State>>, String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (state, serving) = orchestrate_on(listener, ttl);
    (state, format!("http://{address}"), serving)
}

/// The same at a given address.
pub async fn orchestrate_at(
    address: std::net::SocketAddr,
    ttl: Duration,
) -> (Arc<Mutex<State>>, JoinHandle<()>) {
    orchestrate_on(TcpListener::bind(address).await.unwrap(), ttl)
}

fn orchestrate_on(listener: TcpListener, ttl: Duration) -> (Arc<Mutex<State>>, JoinHandle<()>) {
    let state = Arc::new(Mutex::new(State { ttl, store_id: "store".into(), ..State::default() }));
    let fake = Fake(state.clone());
    let serving = tokio::spawn(async move {
        Server::builder()
            .add_service(OrchestratorServer::new(fake.clone()))
            .add_service(BlobStoreServer::new(fake))
            .serve_with_incoming(TcpListenerStream::new(listener))
            .await
            .unwrap();
    });
    (state, serving)
}

/// A node and what it needs. Dropping it ends everything.
pub struct Crew {
    pub state: Arc<Mutex<State>>,
    pub node: RenderNodeClient<Channel>,
    channel: Channel,
    pub data: tempfile::TempDir,
    process: Option<std::process::Child>,
    /// How the process is started.
    command: Option<std::process::Command>,
    stop: CancellationToken,
    serving: Option<JoinHandle<Result<(), ServeError>>>,
    fake: JoinHandle<()>,
}

impl Crew {
    /// Starts a node of one slot and waits until it has a lease.
    pub async fn start(renderer: RendererChoice) -> Self {
        Self::start_with(renderer, Duration::from_secs(15)).await
    }

    /// The same, with a lease of `ttl`.
    pub async fn start_with(renderer: RendererChoice, ttl: Duration) -> Self {
        Self::start_as(ttl, |config| Config { renderer, ..config }).await.unwrap()
    }

    /// The same, set up as `change` says; not started: why.
    pub async fn start_as(
        ttl: Duration,
        change: impl FnOnce(Config) -> Config,
    ) -> Result<Self, ServeError> {
        let (state, orchestrator, fake) = orchestrate(ttl).await;
        let data = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let renderer = RendererChoice::Synthetic(Duration::ZERO);
        let config = change(Config {
            tags: vec!["fast".into()],
            ..Config::new("node", orchestrator, renderer, data.path())
        });
        let stop = CancellationToken::new();
        let shutdown = stop.clone().cancelled_owned();
        let serving = tokio::spawn(framecrew_node::serve(listener, config, shutdown));
        let settled =
            async || serving.is_finished() || !state.lock().unwrap().registered.is_empty();
        eventually("a registration", settled).await;
        if serving.is_finished() {
            fake.abort();
            serving.await.unwrap()?;
            panic!("the node ended on its own");
        }
        Ok(Self::registered(state, data, None, stop, Some(serving), fake).await)
    }

    /// Starts a node as a process of its own.
    pub async fn spawn(arguments: &[&str], ttl: Duration) -> Self {
        Self::spawn_in(arguments, &[], ttl).await
    }

    /// Does the same with environment variables.
    pub async fn spawn_in(
        arguments: &[&str],
        variables: &[(&str, &std::ffi::OsStr)],
        ttl: Duration,
    ) -> Self {
        let (state, orchestrator, fake) = orchestrate(ttl).await;
        let data = tempfile::tempdir().unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_framecrew-node"));
        command
            .args(["--orchestrator", &orchestrator, "--listen", "127.0.0.1:0", "--data"])
            .arg(data.path())
            .args(arguments)
            .envs(variables.iter().copied());
        let process = command.spawn().unwrap();
        let stop = CancellationToken::new();
        let mut crew = Self::registered(state, data, Some(process), stop, None, fake).await;
        crew.command = Some(command);
        crew
    }

    /// Starts the node's process again, on the same folder, when it has ended.
    pub async fn again(&mut self) {
        let before = self.state.lock().unwrap().registered.len();
        self.process = Some(self.command.as_mut().unwrap().spawn().unwrap());
        let registered = async || self.state.lock().unwrap().registered.len() > before;
        eventually("a registration", registered).await;
        let port = self.state.lock().unwrap().registered[before].port;
        self.channel =
            Channel::from_shared(format!("http://127.0.0.1:{port}")).unwrap().connect_lazy();
        self.node = RenderNodeClient::new(self.channel.clone());
        self.is_ready(before).await;
    }

    /// Waits until the node has a lease and knows what it draws with: it registers at once, and again with
    /// what it has found. `before`: how often earlier lives of it had registered.
    async fn is_ready(&self, before: usize) {
        let registered = || self.state.lock().unwrap().registered.len();
        eventually("a node that is equipped", async || registered() >= before + 2).await;
        eventually("a lease", async || self.status().await.leased).await;
    }

    async fn registered(
        state: Arc<Mutex<State>>,
        data: tempfile::TempDir,
        process: Option<std::process::Child>,
        stop: CancellationToken,
        serving: Option<JoinHandle<Result<(), ServeError>>>,
        fake: JoinHandle<()>,
    ) -> Self {
        eventually("a registration", async || !state.lock().unwrap().registered.is_empty()).await;
        let port = state.lock().unwrap().registered[0].port;
        let address = format!("http://127.0.0.1:{port}");
        let channel = Channel::from_shared(address).unwrap().connect_lazy();
        let crew = Self {
            state,
            node: RenderNodeClient::new(channel.clone()),
            channel,
            data,
            process,
            command: None,
            stop,
            serving,
            fake,
        };
        crew.is_ready(0).await;
        crew
    }

    /// A connection to the node.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Sends a signal to the node's process.
    #[cfg(unix)]
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = self.process.as_ref().unwrap().id() as i32;
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for the node's process and gives its exit code.
    pub async fn code(&mut self) -> Option<i32> {
        let mut process = self.process.take().unwrap();
        let waiting = tokio::task::spawn_blocking(move || process.wait().unwrap());
        time::timeout(PATIENCE, waiting).await.unwrap().unwrap().code()
    }

    /// Stops the node as a signal would.
    pub async fn stop(&mut self) -> Result<(), ServeError> {
        self.stop.cancel();
        self.ended().await
    }

    /// Waits for the node to end on its own.
    pub async fn ended(&mut self) -> Result<(), ServeError> {
        let serving = self.serving.take().unwrap();
        time::timeout(PATIENCE, serving).await.unwrap().unwrap()
    }

    /// Puts a file where the node downloads from.
    pub fn put(&self, path: &str, content: &[u8]) -> ProjectFile {
        let digest = Digest::of(content).to_string();
        let mut state = self.state.lock().unwrap();
        state.blobs.insert(digest.clone(), content.to_owned());
        ProjectFile {
            path: path.into(),
            digest,
            size_bytes: content.len() as u64,
            chunks: Vec::new(),
        }
    }

    /// Starts a batch and gives its events as they come.
    pub async fn render(&self, request: RenderBatchRequest) -> Result<Events, Status> {
        let messages = self.node.clone().render_batch(request).await?.into_inner();
        Ok(Events { messages: messages.map(|m| m.map(|m| m.events)).boxed(), ready: Vec::new() })
    }

    pub async fn attach(&self, batch_id: u64, after_sequence: u64) -> Result<Events, Status> {
        let request =
            AttachBatchRequest { batch_id, after_sequence, epoch: 1, store_id: "store".into() };
        let messages = self.node.clone().attach_batch(request).await?.into_inner();
        Ok(Events { messages: messages.map(|m| m.map(|m| m.events)).boxed(), ready: Vec::new() })
    }

    pub async fn cancel(&self, batch_id: u64) -> Result<(), Status> {
        let request = CancelBatchRequest { batch_id, store_id: "store".into() };
        self.node.clone().cancel_batch(request).await.map(drop)
    }

    pub async fn status(&self) -> NodeStatus {
        let answer = self.node.clone().describe_node(DescribeNodeRequest {}).await;
        answer.unwrap().into_inner().status.unwrap()
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.stop.cancel();
        self.fake.abort();
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// The events of a stream.
pub struct Events {
    messages: Messages<Vec<BatchEvent>>,
    ready: Vec<BatchEvent>,
}

impl Events {
    /// The next event; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Result<BatchEvent, Status>> {
        while self.ready.is_empty() {
            let message = time::timeout(PATIENCE, self.messages.next()).await.unwrap();
            match message? {
                Ok(events) => self.ready = events,
                Err(status) => return Some(Err(status)),
            }
        }
        Some(Ok(self.ready.remove(0)))
    }

    /// Events up to the one that `last` picks.
    pub async fn until(&mut self, last: impl Fn(&Event) -> bool) -> Vec<BatchEvent> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            let event = event.unwrap();
            let found = last(event.event.as_ref().unwrap());
            events.push(event);
            if found {
                return events;
            }
        }
        panic!("the stream ended first: {events:#?}");
    }

    /// All events; the last one must be the end.
    pub async fn all(mut self) -> Vec<BatchEvent> {
        let events = self.until(|event| matches!(event, Event::Ended(_))).await;
        assert!(self.next().await.is_none(), "nothing follows the end");
        events
    }
}

/// How a batch ended.
pub fn end(events: &[BatchEvent]) -> BatchEnd {
    match &events.last().unwrap().event {
        Some(Event::Ended(ended)) => ended.end(),
        other => panic!("{other:?}"),
    }
}

pub fn finished(events: &[BatchEvent]) -> Vec<SliceFinished> {
    let events = events.iter().filter_map(|event| match &event.event {
        Some(Event::Finished(finished)) => Some(finished.clone()),
        _ => None,
    });
    events.collect()
}

pub fn failures(events: &[BatchEvent]) -> Vec<Failure> {
    let events = events.iter().filter_map(|event| match &event.event {
        Some(Event::Failed(failed)) => failed.failure.clone(),
        _ => None,
    });
    events.collect()
}

pub fn log(events: &[BatchEvent]) -> Vec<String> {
    let lines = events.iter().filter_map(|event| match &event.event {
        Some(Event::Log(log)) => Some(log.lines.iter().map(|line| line.text.clone())),
        _ => None,
    });
    lines.flatten().collect()
}

pub fn request(
    batch_id: u64,
    file: ProjectFile,
    frames: impl IntoIterator<Item = i32>,
) -> RenderBatchRequest {
    RenderBatchRequest {
        batch_id,
        epoch: 1,
        job_id: 1,
        project: Some(Project { blend_path: file.path.clone(), files: vec![file] }),
        settings: None,
        slices: frames.into_iter().map(|frame| Slice { frame, index: 0 }).collect(),
        file_version: String::new(),
        settled_batch_ids: Vec::new(),
        store_id: "store".into(),
        ..RenderBatchRequest::default()
    }
}

/// Waits for a condition.
pub async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let waited = time::timeout(PATIENCE, async {
        while !condition().await {
            time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited in vain for {what}");
}

/// A folder's files, by path.
pub fn files(folder: &std::path::Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.push(path);
        }
    }
    all
}
