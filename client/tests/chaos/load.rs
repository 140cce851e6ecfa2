//! Clients: who submits, watches, cancels and retries, and what each was told.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use framecrew::{
    Cluster, JobView, WatchEvent,
    proto::{
        CancelJobRequest, FrameRange, FrameState, JobSpec, JobState, Project, ProjectFile,
        RenderEngine, RenderSettings, RetryFramesRequest, SubmitJobRequest, TimeLimits,
        orchestrator_client::OrchestratorClient, watch_job_response::Update,
    },
};
use framecrew_blobs::{BlobClient, Digest};
use futures::StreamExt as _;
use serde_json::json;
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};

use crate::world::{Kind, World};

/// The scene of every job.
pub(crate) const SCENE: &[u8] = include_bytes!("../../assets/demo.blend");
/// Pause before a call is made again.
const PAUSE: Duration = Duration::from_millis(300);
/// How long a client waits for an answer before it asks again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a submitter looks whether there is too little to do.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// The frame that kills every node which draws it.
pub(crate) const POISON: i32 = 7_777_777;
/// How long a renderer that hangs is waited for in the jobs here.
const FRAME_SILENCE_SECONDS: u32 = 10;

/// What clients know, to be compared with what is so in the end.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    jobs: Mutex<BTreeMap<u64, Facts>>,
    /// What nodes do, as watchers see it: node and start of each slice.
    active: Mutex<HashMap<(u64, i32), (String, i64)>>,
    open: [AtomicU64; 2],
    /// Submissions that nobody ever answered.
    pub(crate) unanswered: AtomicU64,
    cannot_retry: AtomicBool,
    /// Blobs that were never uploaded to their end.
    broken_uploads: Mutex<Vec<String>>,
    memory_bytes: AtomicU64,
}

/// What clients know about a job.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) request: SubmitJobRequest,
    pub(crate) kind: Kind,
    pub(crate) frames: u64,
    /// Whether one of them is the poisoned one.
    pub(crate) is_poisoned: bool,
    /// Revision at which the cancel was answered.
    pub(crate) cancelled_at: Option<u64>,
    /// Frames that watchers saw finished: at which revision, and with what.
    pub(crate) committed: BTreeMap<i32, (u64, String)>,
    /// What those who watched to the end have.
    pub(crate) views: Vec<JobView>,
}

impl Ledger {
    pub(crate) fn jobs(&self) -> BTreeMap<u64, Facts> {
        self.jobs.lock().unwrap().clone()
    }

    /// Whether a job is watched that is not over.
    pub(crate) fn is_open(&self) -> bool {
        self.open.iter().any(|open| open.load(Ordering::Relaxed) > 0)
    }

    pub(crate) fn open_jobs(&self, kind: Kind) -> u64 {
        self.open[kind as usize].load(Ordering::Relaxed)
    }

    fn is_poisoned(&self, job: u64) -> bool {
        self.jobs.lock().unwrap().get(&job).is_some_and(|facts| facts.is_poisoned)
    }

    /// How many of a job's frames watchers have seen finished.
    pub(crate) fn committed(&self, job: u64) -> usize {
        self.jobs.lock().unwrap().get(&job).map_or(0, |facts| facts.committed.len())
    }

    /// Whether those who watch a job have seen its end.
    pub(crate) fn is_over(&self, job: u64) -> bool {
        self.jobs.lock().unwrap().get(&job).is_some_and(|facts| !facts.views.is_empty())
    }

    /// The slices that a node is at, with when each was started.
    pub(crate) fn at_work(&self, node: &str) -> Vec<((u64, i32), i64)> {
        let active = self.active.lock().unwrap();
        let its = active.iter().filter(|(_, (name, _))| name == node);
        its.map(|(slice, (_, started))| (*slice, *started)).collect()
    }

    /// Whether watchers still see a node at a slice that it started then.
    pub(crate) fn is_at_work(&self, slice: (u64, i32), node: &str, started: i64) -> bool {
        let active = self.active.lock().unwrap();
        active.get(&slice).is_some_and(|(name, since)| name == node && *since == started)
    }

    /// Whether a slice is finished, over, or was started anew since `started`.
    pub(crate) fn went_on(&self, slice: (u64, i32), node: &str, started: i64) -> bool {
        let jobs = self.jobs.lock().unwrap();
        let Some(facts) = jobs.get(&slice.0) else { return true };
        if facts.committed.contains_key(&slice.1)
            || facts.cancelled_at.is_some()
            || !facts.views.is_empty()
        {
            return true;
        }
        let active = self.active.lock().unwrap();
        active.get(&slice).is_some_and(|(name, since)| name != node || *since > started)
    }

    /// A blob whose upload broke off.
    pub(crate) fn never_stored(&self, digest: String) {
        self.broken_uploads.lock().unwrap().push(digest);
    }

    pub(crate) fn broken_uploads(&self) -> Vec<String> {
        self.broken_uploads.lock().unwrap().clone()
    }

    pub(crate) fn memory(&self, bytes: u64) {
        self.memory_bytes.fetch_max(bytes, Ordering::Relaxed);
    }

    /// The most memory that the orchestrator was seen to hold.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory_bytes.load(Ordering::Relaxed)
    }
}

/// Keeps so many jobs of a kind open until the world closes.
pub(crate) async fn submit_all(world: Arc<World>, kind: Kind, open: u64, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    while !world.closing.is_cancelled() {
        if world.ledger.open_jobs(kind) >= open {
            sleep(LOOK_INTERVAL).await;
            continue;
        }
        let spec = spec(kind, &mut rng);
        let Some(job) = submit(&world, kind, spec, &mut rng).await else { return };
        if rng.u32(0..12) == 0 {
            let patience = Duration::from_millis(rng.u64(0..8_000));
            tokio::spawn(cancel(world.clone(), job, rng.usize(..), patience));
        }
    }
}

/// A job like the ones people submit, only shorter.
fn spec(kind: Kind, rng: &mut Rng) -> JobSpec {
    let first = rng.i32(-50..1_000);
    let (step, frames) = match kind {
        Kind::Synthetic => (rng.i32(1..4), rng.i32(10..150)),
        Kind::Blender => (1, rng.i32(4..12)),
    };
    let last = first + step * (frames - 1);
    job_of(kind, vec![FrameRange { first, last, step: step as u32 }])
}

/// A job of these frames.
pub(crate) fn job_of(kind: Kind, frames: Vec<FrameRange>) -> JobSpec {
    let digest = Digest::of(SCENE).to_string();
    let file = ProjectFile {
        path: "demo.blend".into(),
        digest,
        size_bytes: SCENE.len() as u64,
        ..ProjectFile::default()
    };
    let mut settings =
        RenderSettings { samples: Some(1), scale_percent: Some(10), ..RenderSettings::default() };
    settings.set_engine(RenderEngine::Cycles);
    let limits = TimeLimits {
        frame_silence_seconds: (kind == Kind::Blender).then_some(FRAME_SILENCE_SECONDS),
        ..TimeLimits::default()
    };
    JobSpec {
        name: format!("{} {}", kind.tag(), frames.len()),
        project: Some(Project { blend_path: "demo.blend".into(), files: vec![file] }),
        frames,
        settings: Some(settings),
        tags: vec![kind.tag().into()],
        limits: Some(limits),
        ..JobSpec::default()
    }
}

/// How many frames a job asks for.
fn requested(spec: &JobSpec) -> u64 {
    let frames = |range: &FrameRange| {
        u64::try_from((range.last - range.first) / range.step as i32).unwrap() + 1
    };
    spec.frames.iter().map(frames).sum()
}

/// Submits until it is answered, and has the job watched. `None`: the world closed before that.
pub(crate) async fn submit(
    world: &Arc<World>,
    kind: Kind,
    spec: JobSpec,
    rng: &mut Rng,
) -> Option<u64> {
    let request = SubmitJobRequest {
        request_id: format!("chaos-{:016x}", rng.u64(..)),
        spec: Some(spec.clone()),
    };
    world.history.tell("submit", &json!(request.request_id));
    let job = loop {
        match try_submit(world, &request, rng.usize(..)).await {
            Ok((job, _)) => break job,
            Err(status) if may_pass(&status) => {}
            Err(status) => world.history.finding(format!("a submission was refused: {status}")),
        }
        if world.closing.is_cancelled() {
            world.ledger.unanswered.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        sleep(PAUSE).await;
    };
    world.history.tell("acknowledged", &json!({ "request": request.request_id, "job": job }));
    world.history.count("submissions acknowledged");
    let facts = Facts {
        frames: requested(&spec),
        is_poisoned: spec.frames.iter().any(|range| range.first == POISON),
        request,
        kind,
        cancelled_at: None,
        committed: BTreeMap::new(),
        views: Vec::new(),
    };
    let known = world.ledger.jobs.lock().unwrap().insert(job, facts.clone());
    if let Some(known) = known {
        let (one, other) = (known.request.request_id, &facts.request.request_id);
        world.history.finding(format!("I4: job {job} was made for {one} and for {other}"));
    }
    world.ledger.open[kind as usize].fetch_add(1, Ordering::Relaxed);
    tokio::spawn(follow(world.clone(), job, kind, rng.fork()));
    Some(job)
}

async fn try_submit(
    world: &World,
    request: &SubmitJobRequest,
    link: usize,
) -> Result<(u64, bool), Status> {
    let channel = world.channel(link);
    let mut rpc = OrchestratorClient::new(channel.clone());
    let answer = match answered(rpc.submit_job(request.clone())).await {
        Err(status) if status.code() == Code::FailedPrecondition => {
            let upload = BlobClient::new(channel);
            let upload = upload.upload_bytes(SCENE.into(), Digest::of(SCENE));
            let _ = timeout(ANSWER_TIMEOUT, upload).await;
            answered(rpc.submit_job(request.clone())).await?
        }
        answer => answer?,
    };
    let answer = answer.into_inner();
    Ok((answer.job.unwrap().job_id, answer.existed))
}

/// Says it again: the same request must be the same job.
pub(crate) async fn submit_again(world: &World, job: u64, facts: &Facts) {
    let answer = async {
        loop {
            match try_submit(world, &facts.request, 0).await {
                Err(status) if may_pass(&status) => sleep(PAUSE).await,
                answer => return answer,
            }
        }
    };
    match answer.await {
        Ok((same, true)) if same == job => {}
        other => {
            world.history.finding(format!("I4: job {job} was submitted again and became {other:?}"))
        }
    }
}

/// Cancels a job after a while, and remembers when that was answered.
pub(crate) async fn cancel(world: Arc<World>, job: u64, link: usize, patience: Duration) {
    sleep(patience).await;
    loop {
        let mut rpc = OrchestratorClient::new(world.channel(link));
        match answered(rpc.cancel_job(CancelJobRequest { job_id: job })).await {
            Ok(answer) => {
                let answer = answer.into_inner().job.unwrap();
                if answer.state() == JobState::Cancelled {
                    world.history.tell("cancelled", &json!(job));
                    world.history.count("jobs cancelled");
                    let mut jobs = world.ledger.jobs.lock().unwrap();
                    jobs.get_mut(&job).unwrap().cancelled_at = Some(answer.revision);
                }
                return;
            }
            Err(status) if may_pass(&status) => sleep(PAUSE).await,
            Err(status) => {
                world.history.finding(format!("job {job} could not be cancelled: {status}"));
                return;
            }
        }
    }
}

/// Watches a job to its end with two watchers; where frames failed, opens them again once and watches on.
async fn follow(world: Arc<World>, job: u64, kind: Kind, mut rng: Rng) {
    let mut retries_left = 3;
    loop {
        let observer = tokio::spawn(observe(world.clone(), job));
        let (one, other) = (rng.usize(..), rng.usize(..));
        let (one, other) = tokio::join!(watch(&world, job, one), watch(&world, job, other));
        observer.abort();
        // What is poisoned would only kill more nodes.
        let failed = one.state() == JobState::Failed && !world.ledger.is_poisoned(job);
        if failed && retries_left > 0 && retry(&world, job).await {
            retries_left -= 1;
            continue;
        }
        let mut jobs = world.ledger.jobs.lock().unwrap();
        jobs.get_mut(&job).unwrap().views = vec![one, other];
        break;
    }
    world.ledger.active.lock().unwrap().retain(|slice, _| slice.0 != job);
    world.ledger.open[kind as usize].fetch_sub(1, Ordering::Relaxed);
}

/// Opens failed frames again. False: that cannot be done.
async fn retry(world: &World, job: u64) -> bool {
    while !world.ledger.cannot_retry.load(Ordering::Relaxed) {
        let mut rpc = OrchestratorClient::new(world.channel(0));
        let request = RetryFramesRequest { job_id: job, frames: Vec::new() };
        match answered(rpc.retry_frames(request)).await {
            Ok(_) => {
                world.history.tell("retried", &json!(job));
                world.history.count("jobs retried");
                return true;
            }
            Err(status) if status.code() == Code::Unimplemented => {
                world.ledger.cannot_retry.store(true, Ordering::Relaxed);
            }
            Err(status) if may_pass(&status) => sleep(PAUSE).await,
            Err(status) => {
                world.history.finding(format!("job {job} could not be retried: {status}"));
                return false;
            }
        }
    }
    false
}

/// Watches a job until it is over, through whatever happens to the link.
async fn watch(world: &World, job: u64, link: usize) -> JobView {
    let url = world.links[link % world.links.len()].url();
    let cluster = connect(&url).await;
    let mut view = JobView::default();
    let mut watch = cluster.watch(job);
    while let Some(event) = watch.next().await {
        match event {
            Ok(WatchEvent::Update(update)) => {
                if update.revision < view.revision() {
                    let (from, to) = (view.revision(), update.revision);
                    world
                        .history
                        .finding(format!("I9: job {job} went from revision {from} to {to}"));
                }
                if let Some(update) = &update.update {
                    note(world, job, update);
                }
                view.apply(&update);
            }
            Ok(WatchEvent::StartingOver { .. }) => {
                world.history.finding(format!("I9: the watch of job {job} starts over"));
            }
            Ok(WatchEvent::Reconnecting { .. }) => world.history.count("reconnections of watchers"),
            Err(error) => {
                world.history.finding(format!("the watch of job {job} ended: {error}"));
                return view;
            }
        }
    }
    view
}

/// Sees by a link that nothing happens to what nodes do to a job.
async fn observe(world: Arc<World>, job: u64) {
    let url = format!("http://{}", world.orchestrator.address);
    let cluster = connect(&url).await;
    let mut watch = cluster.watch(job);
    while let Some(event) = watch.next().await {
        let Ok(WatchEvent::Update(update)) = event else { continue };
        let mut all = world.ledger.active.lock().unwrap();
        let active = match &update.update {
            Some(Update::Snapshot(snapshot)) => &snapshot.active,
            Some(Update::Changes(changes)) => {
                for frame in &changes.frames {
                    // Whatever a node was doing to it led to this, or came to nothing.
                    all.remove(&(job, frame.frame));
                }
                &changes.active
            }
            _ => continue,
        };
        for slice in active {
            let frame = slice.slice.unwrap_or_default().frame;
            all.insert((job, frame), (slice.node.clone(), slice.started_at_ms));
        }
    }
}

async fn connect(url: &str) -> Cluster {
    loop {
        match Cluster::connect(url).await {
            Ok(cluster) => return cluster,
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// Remembers what an update says, and holds it against what others have said.
fn note(world: &World, job: u64, update: &Update) {
    let Update::Changes(changes) = update else { return };
    let mut jobs = world.ledger.jobs.lock().unwrap();
    let facts = jobs.get_mut(&job).unwrap();
    for frame in &changes.frames {
        let is_finished = frame.state() == FrameState::Finished;
        let digest = frame.outputs.first().map_or_else(String::new, |o| o.digest.clone());
        let (number, now) = (frame.frame, (frame.revision, digest));
        match facts.committed.get(&number) {
            None if is_finished => {
                facts.committed.insert(number, now);
            }
            // Another watcher may be ahead of this one.
            Some(before) if now.0 >= before.0 && (!is_finished || *before != now) => {
                let state = frame.state().as_str_name();
                world.history.finding(format!(
                    "I1: frame {number} of job {job} was finished as {before:?} and is {state} as {now:?}"
                ));
            }
            _ => {}
        }
    }
}

pub(crate) async fn answered<T>(
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let late = |_| Err(Status::deadline_exceeded("no answer"));
    timeout(ANSWER_TIMEOUT, call).await.unwrap_or_else(late)
}

/// Whether a refusal is of the moment: the link, a server that is away, a disk that is full, nodes that are.
pub(crate) fn may_pass(status: &Status) -> bool {
    use std::error::Error as _;
    status.source().is_some()
        || matches!(
            status.code(),
            Code::Unavailable
                | Code::DeadlineExceeded
                | Code::ResourceExhausted
                | Code::Cancelled
                | Code::FailedPrecondition
        )
}
