//! The cost of a crowd of watchers: `cargo bench -p framecrew-orchestrator --bench watchers`. Linux only.
//!
//! An orchestrator in a process of its own, a node that finishes frames as fast as it gets them, and a crowd: 1,000
//! watchers that read one message and then nothing more, and 1,000 of a job that waits. Frames a second with
//! the crowd and without it, in pairs within one run; the memory that the crowd adds to the orchestrator; and, at
//! a steady pace, the time from a node's report of a finished frame to a healthy watcher. In the end the crowd stalls
//! until its streams are dropped; a later crowd that adds less memory than the first shows that the memory comes back.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    net::IpAddr,
    path::Path,
    pin::Pin,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use framecrew_blobs::{BlobClient, Digest};
use framecrew_proto::v1 as proto;
use futures::Stream;
use proto::{
    batch_event::Event,
    orchestrator_client::OrchestratorClient,
    render_node_server::{RenderNode, RenderNodeServer},
    watch_job_response::Update,
};
use tokio::{net::TcpListener, sync::mpsc, time::sleep};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{
    Code, Request, Response, Status, Streaming,
    transport::{Channel, Endpoint, Server},
};

/// Watchers of each kind.
const WATCHERS: usize = 1_000;
/// Watchers on one connection.
const PER_CONNECTION: usize = 50;
/// Receive window of a stalled watcher, in bytes: it stalls within the first second.
const WINDOW_BYTES: u32 = 16 << 10;
/// Receive window of a connection, in bytes: a stalled watcher does not stall the others on it.
const CONNECTION_BYTES: u32 = 64 << 20;
const PAIRS: usize = 3;
/// How long frames are counted for one figure.
const COUNTED: Duration = Duration::from_secs(5);
/// How long lags are measured.
const STEADY: Duration = Duration::from_secs(8);
/// Frames a second at the steady pace.
const STEADY_PACE: u32 = 300;
/// Longer than the orchestrator keeps stalled watchers.
const STALL: Duration = Duration::from_secs(80);
const FRAMES: i32 = 1_000_000;
const MEMORY_TARGET_MB: f64 = 128.0;
const THROUGHPUT_TARGET: f64 = 0.95;
const LAG_TARGET: Duration = Duration::from_millis(250);

#[tokio::main]
async fn main() {
    let home = tempfile::tempdir().unwrap();
    let orchestrator = Orchestrator::start(home.path()).await;
    let clock = Arc::new(Clock::new());
    // Before a node joins, which would lack the tag.
    let waiting = orchestrator.submit("waiting", vec!["of nobody".into()]).await;
    let node = Node::join(&orchestrator, clock.clone()).await;

    let (mut ratios, mut memory, mut lags) = (vec![], vec![], vec![]);
    println!(
        "\n{:>16} {:>16} {:>8} {:>12} {:>12}",
        "frames/s alone", "with the crowd", "ratio", "memory", "lag p99"
    );
    let mut crowd: Option<Crowd> = None;
    for pair in 0..PAIRS {
        drop(crowd.take());
        // A job of its own for each pair: a watcher of a job with a long past waits for its snapshot.
        let busy = orchestrator.submit(&format!("busy {pair}"), vec![]).await;
        let healthy = orchestrator.client("127.0.0.1", None).await;
        let watcher = tokio::spawn(follow(healthy, busy, clock.clone()));
        sleep(Duration::from_secs(1)).await;
        let before = orchestrator.memory_mb();
        // One time the crowd comes first, one time it comes second.
        let (alone, crowded);
        if pair % 2 == 0 {
            alone = clock.frames_a_second().await;
            crowd = Some(Crowd::gather(&orchestrator, busy, waiting).await);
            crowded = clock.frames_a_second().await;
        } else {
            let first = Crowd::gather(&orchestrator, busy, waiting).await;
            crowded = clock.frames_a_second().await;
            drop(first);
            sleep(Duration::from_secs(1)).await;
            alone = clock.frames_a_second().await;
            crowd = Some(Crowd::gather(&orchestrator, busy, waiting).await);
        }
        node.pace(STEADY_PACE);
        let lag = clock.lag_p99().await;
        let added = orchestrator.memory_mb() - before;
        node.pace(0);
        println!(
            "{alone:>16.0} {crowded:>16.0} {:>8.3} {added:>9.1} MB {:>9} ms",
            crowded / alone,
            lag.as_millis()
        );
        ratios.push(crowded / alone);
        memory.push(added);
        lags.push(lag.as_secs_f64());
        if pair + 1 < PAIRS {
            orchestrator.cancel(busy).await;
        }
        watcher.abort();
    }

    node.pace(STEADY_PACE);
    let full = orchestrator.memory_mb();
    sleep(STALL).await;
    let dropped = crowd.as_mut().unwrap().dropped().await;
    let after = orchestrator.memory_mb();
    println!(
        "\nafter {} s: {dropped} of {WATCHERS} stalled watchers dropped, {full:.0} MB then, {after:.0} MB now",
        STALL.as_secs()
    );
    println!(
        "\n{:<52} {:>8.3}  at least {THROUGHPUT_TARGET}",
        "throughput, median",
        median(&mut ratios)
    );
    println!(
        "{:<52} {:>8.1}  at most {MEMORY_TARGET_MB}",
        "memory that a crowd adds in MB, worst",
        worst(&memory)
    );
    println!(
        "{:<52} {:>8.0}  at most {}",
        "p99 lag of a healthy watcher in ms, worst",
        worst(&lags) * 1e3,
        LAG_TARGET.as_millis()
    );
}

/// An orchestrator in a process of its own, killed when this is dropped.
struct Orchestrator {
    url: String,
    process: Child,
}

impl Drop for Orchestrator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Orchestrator {
    async fn start(data: &Path) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Command::new(env!("CARGO_BIN_EXE_framecrew-orchestrator"))
            .arg("--data")
            .arg(data)
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { url: format!("http://127.0.0.1:{port}"), process }
    }

    /// A connection from one of this machine's own addresses, which count as clients of their own.
    async fn channel(&self, from: &str, window_bytes: Option<u32>) -> Channel {
        let from: IpAddr = from.parse().unwrap();
        let endpoint = Endpoint::from_shared(self.url.clone())
            .unwrap()
            .local_address(Some(from))
            .initial_stream_window_size(window_bytes)
            .initial_connection_window_size(CONNECTION_BYTES);
        loop {
            match endpoint.connect().await {
                Ok(channel) => return channel,
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        }
    }

    async fn client(&self, from: &str, window_bytes: Option<u32>) -> OrchestratorClient<Channel> {
        OrchestratorClient::new(self.channel(from, window_bytes).await)
    }

    async fn submit(&self, name: &str, tags: Vec<String>) -> u64 {
        let blend: &[u8] = b"BLENDER-v405 and so on ENDB";
        let digest = Digest::of(blend);
        let blobs = BlobClient::new(self.channel("127.0.0.1", None).await);
        blobs.upload_bytes(blend.into(), digest).await.unwrap();
        blobs.upload_bytes(PICTURE.into(), Digest::of(PICTURE)).await.unwrap();
        let file = proto::ProjectFile {
            path: "shot.blend".into(),
            digest: digest.to_string(),
            size_bytes: blend.len() as u64,
            ..Default::default()
        };
        let spec = proto::JobSpec {
            name: name.into(),
            project: Some(proto::Project { blend_path: "shot.blend".into(), files: vec![file] }),
            frames: vec![proto::FrameRange { first: 1, last: FRAMES, step: 1 }],
            tags,
            ..Default::default()
        };
        let mut client = self.client("127.0.0.1", None).await;
        let request = proto::SubmitJobRequest { request_id: name.into(), spec: Some(spec) };
        client.submit_job(request).await.unwrap().into_inner().job.unwrap().job_id
    }

    async fn cancel(&self, job_id: u64) {
        let mut client = self.client("127.0.0.1", None).await;
        client.cancel_job(proto::CancelJobRequest { job_id }).await.unwrap();
    }

    fn memory_mb(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }
}

const PICTURE: &[u8] = b"1";

/// When the node reported each finished frame, and how many of the reports reached a healthy watcher, and how late.
struct Clock {
    started: Instant,
    /// By frame, in microseconds.
    said: Vec<AtomicU64>,
    heard: AtomicU64,
    lags: std::sync::Mutex<Vec<Duration>>,
}

impl Clock {
    fn new() -> Self {
        let said = (0..=FRAMES).map(|_| AtomicU64::new(0)).collect();
        Self { started: now(), said, heard: AtomicU64::new(0), lags: std::sync::Mutex::default() }
    }

    fn micros(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    fn say(&self, frame: i32) {
        self.said[frame as usize].store(self.micros(), Ordering::Relaxed);
    }

    fn mark_heard(&self, frame: i32) {
        self.heard.fetch_add(1, Ordering::Relaxed);
        let said = self.said[frame as usize].load(Ordering::Relaxed);
        let lag = Duration::from_micros(self.micros().saturating_sub(said));
        self.lags.lock().unwrap().push(lag);
    }

    async fn frames_a_second(&self) -> f64 {
        let (begun, heard) = (now(), self.heard.load(Ordering::Relaxed));
        sleep(COUNTED).await;
        let heard = self.heard.load(Ordering::Relaxed) - heard;
        heard as f64 / begun.elapsed().as_secs_f64()
    }

    async fn lag_p99(&self) -> Duration {
        // Frames that were under way at full speed are not counted.
        sleep(Duration::from_secs(2)).await;
        self.lags.lock().unwrap().clear();
        sleep(STEADY).await;
        let mut lags = std::mem::take(&mut *self.lags.lock().unwrap());
        assert!(lags.len() > 100, "the job stands still");
        lags.sort_unstable();
        lags[lags.len() * 99 / 100]
    }
}

/// A healthy watcher.
async fn follow(mut client: OrchestratorClient<Channel>, job_id: u64, clock: Arc<Clock>) {
    let request = proto::WatchJobRequest { job_id, ..Default::default() };
    let mut stream = client.watch_job(request).await.unwrap().into_inner();
    while let Some(message) = stream.message().await.unwrap() {
        if let Some(Update::Changes(changes)) = message.update {
            for frame in &changes.frames {
                clock.mark_heard(frame.frame);
            }
        }
    }
}

/// Watchers that read their first message and nothing more, and watchers of a job that waits.
struct Crowd {
    stalled: Vec<Streaming<proto::WatchJobResponse>>,
    _idle: Vec<Streaming<proto::WatchJobResponse>>,
}

impl Crowd {
    async fn gather(orchestrator: &Orchestrator, busy: u64, waiting: u64) -> Self {
        Self {
            stalled: watchers(orchestrator, "127.0.0.2", Some(WINDOW_BYTES), busy).await,
            _idle: watchers(orchestrator, "127.0.0.3", None, waiting).await,
        }
    }

    /// How many of the stalled ones find their stream reset.
    async fn dropped(&mut self) -> usize {
        let mut dropped = 0;
        for stream in &mut self.stalled {
            loop {
                match tokio::time::timeout(Duration::from_secs(1), stream.message()).await {
                    Ok(Ok(Some(_))) => {}
                    Ok(Err(status)) if status.code() == Code::Cancelled => {
                        dropped += 1;
                        break;
                    }
                    _ => break,
                }
            }
        }
        dropped
    }
}

async fn watchers(
    orchestrator: &Orchestrator,
    from: &str,
    window_bytes: Option<u32>,
    job_id: u64,
) -> Vec<Streaming<proto::WatchJobResponse>> {
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS / PER_CONNECTION {
        let client = orchestrator.client(from, window_bytes).await;
        // All at once, as after a restart.
        let coming = (0..PER_CONNECTION).map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move {
                let request = proto::WatchJobRequest { job_id, ..Default::default() };
                let mut stream = client.watch_job(request).await.unwrap().into_inner();
                stream.message().await.unwrap().unwrap();
                stream
            })
        });
        for watcher in coming.collect::<Vec<_>>() {
            watchers.push(watcher.await.unwrap());
        }
    }
    watchers
}

/// A node that finishes frames as soon as it gets them, or at a pace.
struct Node {
    /// Microseconds for a frame.
    frame_micros: Arc<AtomicU64>,
}

impl Node {
    async fn join(orchestrator: &Orchestrator, clock: Arc<Clock>) -> Self {
        let frame_micros = Arc::new(AtomicU64::new(0));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let service = Service { clock, frame_micros: frame_micros.clone() };
        tokio::spawn(
            Server::builder()
                .add_service(RenderNodeServer::new(service))
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        let registration = proto::RegisterNodeRequest {
            name: "bench".into(),
            incarnation: 1,
            address,
            description: Some(proto::NodeDescription {
                slots: 1,
                blenders: vec![proto::Blender {
                    kind: proto::BlenderKind::Synthetic.into(),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut client = orchestrator.client("127.0.0.1", None).await;
        client.register_node(registration).await.unwrap();
        tokio::spawn(async move {
            loop {
                sleep(Duration::from_secs(3)).await;
                let name = "bench".into();
                let heartbeat =
                    proto::HeartbeatRequest { name, incarnation: 1, ..Default::default() };
                // Once the orchestrator is gone, the bench is over.
                if client.heartbeat(heartbeat).await.is_err() {
                    return;
                }
            }
        });
        Self { frame_micros }
    }

    /// Frames a second; 0 for no limit.
    fn pace(&self, frames_a_second: u32) {
        let micros = 1_000_000_u64.checked_div(frames_a_second.into()).unwrap_or(0);
        self.frame_micros.store(micros, Ordering::Relaxed);
    }
}

struct Service {
    clock: Arc<Clock>,
    frame_micros: Arc<AtomicU64>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl RenderNode for Service {
    type RenderBatchStream = Answers<proto::RenderBatchResponse>;

    async fn render_batch(
        &self,
        request: Request<proto::RenderBatchRequest>,
    ) -> Result<Response<Self::RenderBatchStream>, Status> {
        let slices = request.into_inner().slices;
        let (events, stream) = mpsc::channel(16);
        let (clock, frame_micros) = (self.clock.clone(), self.frame_micros.clone());
        tokio::spawn(async move {
            let mut sequence = 0;
            let mut event = |event| {
                sequence += 1;
                proto::BatchEvent { sequence, event: Some(event) }
            };
            for slice in slices {
                sleep(Duration::from_micros(frame_micros.load(Ordering::Relaxed))).await;
                let frame = slice.frame;
                let output = proto::Output {
                    name: format!("{frame:04}.png"),
                    digest: Digest::of(PICTURE).to_string(),
                    size_bytes: PICTURE.len() as u64,
                    width: 1,
                    height: 1,
                    channels: 4,
                };
                let (slice, outputs, render_seconds) = (Some(slice), vec![output], 0.001);
                let started = event(Event::Started(proto::SliceStarted { slice }));
                let finished = event(Event::Finished(proto::SliceFinished {
                    slice,
                    outputs,
                    render_seconds,
                    ..Default::default()
                }));
                let message = proto::RenderBatchResponse { events: vec![started, finished] };
                let Ok(room) = events.reserve().await else { return };
                clock.say(frame);
                room.send(Ok(message));
            }
            let end = proto::BatchEnd::Complete.into();
            let ended = event(Event::Ended(proto::BatchEnded { end }));
            let _ = events.send(Ok(proto::RenderBatchResponse { events: vec![ended] })).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    type AttachBatchStream = Answers<proto::AttachBatchResponse>;

    async fn attach_batch(
        &self,
        _: Request<proto::AttachBatchRequest>,
    ) -> Result<Response<Self::AttachBatchStream>, Status> {
        Err(Status::not_found("batches are not kept"))
    }

    async fn cancel_batch(
        &self,
        _: Request<proto::CancelBatchRequest>,
    ) -> Result<Response<proto::CancelBatchResponse>, Status> {
        Ok(Response::new(proto::CancelBatchResponse {}))
    }

    async fn describe_node(
        &self,
        _: Request<proto::DescribeNodeRequest>,
    ) -> Result<Response<proto::DescribeNodeResponse>, Status> {
        Err(Status::unimplemented("not for the bench"))
    }

    type WatchNodeStream = Answers<proto::WatchNodeResponse>;

    async fn watch_node(
        &self,
        _: Request<proto::WatchNodeRequest>,
    ) -> Result<Response<Self::WatchNodeStream>, Status> {
        Err(Status::unimplemented("not for the bench"))
    }
}

/// A benchmark reads the clock.
#[allow(clippy::disallowed_methods)]
fn now() -> Instant {
    Instant::now()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn worst(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}
