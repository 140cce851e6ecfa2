//! The checker: what the cluster says in the end, against what clients were told and what must be.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use framecrew::{
    Cluster, JobView, WatchEvent,
    proto::{
        DownloadRequest, FindMissingRequest, Frame, FrameState, JobState, Output,
        blob_store_client::BlobStoreClient, download_request::Source,
    },
};
use framecrew_blobs::Digest;
use framecrew_orchestrator::{
    domain::{self, JobId},
    history::replay,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::json;
use tokio::time::sleep;
use tonic::transport::Channel;

use crate::{
    load::{Facts, POISON, submit_again},
    process::{self, belonging_to},
    world::{Kind, POISONED, TEMPORARY, World},
};

/// How long jobs may take to end after the last fault is healed.
const END_TIMEOUT: Duration = Duration::from_secs(300);
/// How long folders and processes may take to be gone after their reason is.
const GONE_TIMEOUT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(100);
/// Downloads at a time.
const DOWNLOADS: usize = 8;
/// Jobs that are submitted once more, at most: each is a call.
const AGAIN_MAX: usize = 200;
/// The most memory that the orchestrator may hold, in bytes: far above what it needs, far below what a leak takes.
const MEMORY_BYTES_MAX: u64 = 1 << 30;
/// Nodes that a poisoned frame may cost.
const POISON_LOSSES_MAX: u64 = 3;
/// Jobs that are looked at after each kill, at most: the latest ones.
const RECENT_MAX: usize = 12;
/// How long an orchestrator that serves again may take until it has attached to every live batch.
pub(crate) const ATTACH_TIMEOUT: Duration = Duration::from_secs(10);
/// A log tells wall clocks, which faults shift: no life waits for a batch so long.
const ATTACH_MAX: Duration = Duration::from_secs(3600);
const DAY_SECONDS: f64 = 86_400.0;
/// A synthetic frame's size.
const SYNTHETIC: (u32, u32) = (64, 36);

/// What a run came to.
#[derive(Debug, Default)]
pub(crate) struct Sum {
    pub(crate) jobs: u64,
    pub(crate) finished: BTreeMap<&'static str, u64>,
    pub(crate) failed: u64,
    pub(crate) cancelled: u64,
    pub(crate) begun: u64,
    /// Frames of jobs that nobody cancelled which were begun once more than needed.
    pub(crate) extra: u64,
    /// Lives of the orchestrator that found a batch of a former one too late.
    pub(crate) late: u64,
    /// The history of what the orchestrator decided, if it wrote one and nothing in it must not be.
    pub(crate) replayed: Option<Replay>,
}

/// How much was decided.
#[derive(Debug)]
pub(crate) struct Replay {
    pub(crate) actions: u64,
    pub(crate) commits: u64,
    /// Of the orchestrator.
    pub(crate) lives: u64,
    /// Commits that nobody knows to be durable.
    pub(crate) dropped: u64,
    /// Size of the history.
    pub(crate) bytes: u64,
}

/// Waits until every job is over (I20), now that nothing goes wrong any more: also those that nobody was told of.
pub(crate) async fn ends(world: &World) {
    let begun = Instant::now();
    while world.ledger.is_open() {
        if begun.elapsed() > END_TIMEOUT {
            let open: Vec<u64> = world
                .ledger
                .jobs()
                .into_iter()
                .filter(|(_, facts)| facts.views.is_empty())
                .map(|(job, _)| job)
                .collect();
            world
                .history
                .finding(format!("I20: jobs did not end although all is healed: {open:?}"));
            return;
        }
        sleep(POLL).await;
    }
    let cluster = Cluster::connect(format!("http://{}", world.orchestrator.address)).await;
    let cluster = cluster.expect("the orchestrator serves");
    loop {
        let listed = cluster.jobs(usize::MAX).await.unwrap();
        let open = listed.iter().filter(|job| !is_over(job.state())).map(|job| job.job_id);
        let open: Vec<u64> = open.collect();
        if open.is_empty() {
            break;
        }
        if begun.elapsed() > END_TIMEOUT {
            world.history.finding(format!("I20: jobs that nobody watches do not end: {open:?}"));
            return;
        }
        sleep(POLL).await;
    }
    world.history.took("all is healed, and every job is over", begun.elapsed());
}

fn is_over(state: JobState) -> bool {
    matches!(state, JobState::Finished | JobState::Failed | JobState::Cancelled)
}

/// Checks everything that clients were told, and every output.
pub(crate) async fn jobs(world: &Arc<World>) -> Sum {
    let cluster = Cluster::connect(format!("http://{}", world.orchestrator.address)).await;
    let cluster = cluster.expect("the orchestrator serves");
    let jobs = world.ledger.jobs();
    let mut sum = Sum { jobs: jobs.len() as u64, ..Sum::default() };
    let listed = cluster.jobs(usize::MAX).await.unwrap();
    let unknown = listed.iter().filter(|job| !jobs.contains_key(&job.job_id)).count() as u64;
    let unanswered = world.ledger.unanswered.load(std::sync::atomic::Ordering::Relaxed);
    if unknown > unanswered {
        world.history.finding(format!(
            "I4: {unknown} jobs exist that nobody was told of, but only {unanswered} were submitted in vain"
        ));
    }
    for (job, facts) in &jobs {
        check_job(world, &cluster, *job, facts, &mut sum).await;
    }
    for (job, facts) in jobs.iter().rev().take(AGAIN_MAX) {
        submit_again(world, *job, facts).await;
    }
    let broken = world.ledger.broken_uploads();
    let mut blobs = BlobStoreClient::new(world.straight());
    for digests in broken.chunks(1_000) {
        let request = FindMissingRequest { digests: digests.to_vec() };
        let missing = blobs.find_missing(request).await.unwrap().into_inner().missing;
        if missing.len() < digests.len() {
            world.history.finding("F21: a blob is stored whose upload broke off");
        }
    }
    let poisoned = jobs.values().filter(|facts| facts.is_poisoned).count() as u64;
    let killed = world.history.counts().get(POISONED).copied().unwrap_or_default();
    if killed > POISON_LOSSES_MAX * poisoned {
        world.history.finding(format!("I14: {poisoned} poisoned frames killed {killed} nodes"));
    }
    let memory = world.ledger.memory_bytes();
    if memory > MEMORY_BYTES_MAX {
        world.history.finding(format!("I19: the orchestrator held {} MiB", memory >> 20));
    }
    sum
}

/// Checks that what clients were told of the latest jobs is still so, in the middle of it all (I4, I1).
pub(crate) async fn told(world: &World) {
    let Ok(cluster) = Cluster::connect(format!("http://{}", world.orchestrator.address)).await
    else {
        return;
    };
    for (job, facts) in world.ledger.jobs().into_iter().rev().take(RECENT_MAX) {
        let found = |text: String| world.history.finding(format!("job {job}: {text}"));
        let frames: Result<Vec<Vec<Frame>>, _> = cluster.frames(job).try_collect().await;
        match frames {
            Err(error) => found(format!("I4: it was acknowledged and is lost: {error}")),
            Ok(pages) => {
                let states = pages
                    .iter()
                    .flatten()
                    .map(|frame| (frame.frame, (frame.state(), frame.revision)));
                let states: BTreeMap<_, _> = states.collect();
                for (number, (revision, _)) in &facts.committed {
                    let now = states.get(number);
                    if now != Some(&(FrameState::Finished, *revision)) {
                        found(format!(
                            "I1: frame {number} was finished at {revision} and is {now:?}"
                        ));
                    }
                }
            }
        }
        world.history.count("checks of what was told, after a kill");
    }
}

async fn check_job(world: &Arc<World>, cluster: &Cluster, id: u64, facts: &Facts, sum: &mut Sum) {
    let found = |text: String| world.history.finding(format!("job {id}: {text}"));
    let job = match cluster.job(id).await {
        Ok(job) => job.info().clone(),
        Err(error) => return found(format!("I4: it was acknowledged and is lost: {error}")),
    };
    let counts = job.counts.unwrap_or_default();
    let whole = counts.open + counts.finished + counts.failed + counts.cancelled;
    if whole != facts.frames || (counts.open > 0 && !facts.views.is_empty()) {
        found(format!("I3: {} frames were asked for, and it has {counts:?}", facts.frames));
    }
    let expected = match job.state() {
        JobState::Finished => counts.finished == facts.frames,
        JobState::Failed => counts.failed > 0,
        JobState::Cancelled => counts.cancelled > 0,
        _ => facts.views.is_empty(),
    };
    if !expected {
        found(format!("I3: it is {} with {counts:?}", job.state().as_str_name()));
    }
    let frames: Result<Vec<Vec<Frame>>, _> = cluster.frames(id).try_collect().await;
    let frames: Vec<Frame> = match frames {
        Ok(pages) => pages.into_iter().flatten().collect(),
        Err(error) => return found(format!("its frames cannot be listed: {error}")),
    };
    if frames.len() as u64 != facts.frames {
        found(format!("I3: {} frames are listed of {}", frames.len(), facts.frames));
    }
    let states = |state| frames.iter().filter(|frame| frame.state() == state).count() as u64;
    if (states(FrameState::Finished), states(FrameState::Failed))
        != (counts.finished, counts.failed)
    {
        found(format!("I3: its frames are not as its counts {counts:?}"));
    }
    for frame in &frames {
        let number = frame.frame;
        if frame.state() == FrameState::Failed
            && frame.failure.as_ref().is_none_or(|failure| failure.message.is_empty())
        {
            found(format!("frame {number} failed without a reason"));
        }
        if let Some(committed) = facts.committed.get(&number) {
            let digest = frame.outputs.first().map_or_else(String::new, |o| o.digest.clone());
            let now = (frame.revision, digest);
            if frame.state() != FrameState::Finished || now != *committed {
                found(format!("I1: frame {number} was told as {committed:?} and is {now:?}"));
            }
        }
        let is_late = facts.cancelled_at.is_some_and(|at| frame.revision > at);
        if is_late && frame.state() == FrameState::Finished {
            found(format!("I11: frame {number} was finished after the cancel had been answered"));
        }
    }
    if facts.is_poisoned && job.state() != JobState::Cancelled {
        let failed = frames.iter().filter(|frame| frame.state() == FrameState::Failed);
        let failed: Vec<i32> = failed.map(|frame| frame.frame).collect();
        if failed != [POISON] {
            found(format!("I14: of its frames {failed:?} failed, not the poisoned one alone"));
        }
    }
    for frame in frames.iter().filter(|frame| frame.state() == FrameState::Failed) {
        let reason = frame.failure.as_ref().map(|failure| failure.reason().as_str_name());
        world.history.count(&format!("frames failed: {}", reason.unwrap_or_default()));
    }
    *sum.finished.entry(facts.kind.tag()).or_default() += counts.finished;
    sum.failed += counts.failed;
    sum.cancelled += counts.cancelled;
    views(world, cluster, id, facts).await;

    let channel = world.straight();
    // A synthetic renderer that takes no time has one picture for all frames; it is looked at once.
    let is_shared = facts.kind == Kind::Synthetic && world.settings.frame.is_zero();
    let mut seen = HashSet::new();
    let mut is_new = |frame: &Frame| {
        let digests: Vec<_> = frame.outputs.iter().map(|output| output.digest.clone()).collect();
        seen.insert(digests)
    };
    let finished = frames.into_iter().filter(|frame| frame.state() == FrameState::Finished);
    let finished = finished.filter(|frame| !is_shared || is_new(frame));
    let downloads = stream::iter(finished).for_each_concurrent(DOWNLOADS, |frame| {
        let channel = channel.clone();
        async move {
            if frame.outputs.is_empty() {
                world
                    .history
                    .finding(format!("I2: frame {} of job {id} has no output", frame.frame));
            }
            let number = frame.frame;
            let shows = if is_shared { 0 } else { number };
            for output in &frame.outputs {
                if let Err(what) = check_output(channel.clone(), facts.kind, shows, output).await {
                    world.history.finding(format!("I2: frame {number} of job {id}: {what}"));
                }
            }
        }
    });
    downloads.await;
}

/// I9: who watched through it all ends equal to who joins afresh.
async fn views(world: &World, cluster: &Cluster, id: u64, facts: &Facts) {
    if facts.views.is_empty() {
        return;
    }
    let mut fresh = JobView::default();
    let mut watch = cluster.watch(id);
    while let Some(event) = watch.next().await {
        if let Ok(WatchEvent::Update(update)) = event {
            fresh.apply(&update);
        }
    }
    for view in &facts.views {
        let differs = if view.revision() != fresh.revision() {
            "its revision"
        } else if !view.runs().eq(fresh.runs()) {
            "the states of its frames"
        } else if view.counts() != fresh.counts() || view.state() != fresh.state() {
            "its counts"
        } else if !view.troubled().eq(fresh.troubled()) {
            "its frames with failed tries"
        } else if view.warnings() != fresh.warnings() {
            "its warnings"
        } else {
            world.history.count("watchers that ended equal");
            continue;
        };
        world.history.finding(format!("I9: a watcher of job {id} ended with {differs} different"));
        world.history.tell("views", &json!([format!("{view:?}"), format!("{fresh:?}")]));
    }
}

/// Downloads an output: it must be what was promised, and a picture of that frame.
async fn check_output(
    channel: Channel,
    kind: Kind,
    frame: i32,
    output: &Output,
) -> Result<(), String> {
    let source = Source::Digest(output.digest.clone());
    let request = DownloadRequest { source: Some(source), offset: 0 };
    let answer = BlobStoreClient::new(channel).download(request).await;
    let mut stream = answer.map_err(|status| status.to_string())?.into_inner();
    let mut bytes = Vec::new();
    while let Some(piece) = stream.message().await.map_err(|status| status.to_string())? {
        bytes.extend_from_slice(&piece.data);
    }
    if bytes.len() as u64 != output.size_bytes || Digest::of(&bytes).to_string() != output.digest {
        return Err(format!("{} is not what was promised", output.name));
    }
    let picture = image::load_from_memory(&bytes).map_err(|error| error.to_string())?.to_rgb8();
    if picture.dimensions() != (output.width, output.height) {
        return Err(format!("{} has another size than was promised", output.name));
    }
    if kind == Kind::Synthetic {
        let [a, b, c, d] = frame.to_le_bytes();
        if picture.dimensions() != SYNTHETIC || picture.get_pixel(0, 0).0 != [a, b, c ^ d] {
            return Err(format!("{} is not that frame's picture", output.name));
        }
    }
    Ok(())
}

/// Ends the cluster as a person would, and looks what it leaves behind (I15).
pub(crate) async fn end(world: &Arc<World>) {
    for node in &world.nodes {
        let status = {
            let process = node.life().server.release();
            process::terminate(process).await
        };
        if status.is_none_or(|status| !status.success()) {
            let name = node.life().name.clone();
            world.history.finding(format!("{name} did not end well: {status:?}"));
        }
        let life = node.life();
        let left = entries(&life.disk.path().join("work"));
        if !left.is_empty() {
            world.history.finding(format!("I15: {} left in its work folder: {left:?}", life.name));
        }
    }
    let status = {
        let process = world.orchestrator.server().release();
        process::terminate(process).await
    };
    if status.is_none_or(|status| !status.success()) {
        world.history.finding(format!("the orchestrator did not end well: {status:?}"));
    }
    let left = entries(&world.folder().join(TEMPORARY));
    if !left.is_empty() {
        world.history.finding(format!("I15: temporary files are left: {left:?}"));
    }
    let begun = Instant::now();
    loop {
        let left = belonging_to(world.mark(), world.folder());
        if left.is_empty() {
            break;
        }
        if begun.elapsed() > GONE_TIMEOUT {
            let commands: Vec<_> = left.iter().map(|entry| (entry.id, &entry.command)).collect();
            world.history.finding(format!("I15: processes are left: {commands:?}"));
            for entry in left {
                process::signal(entry.id, rustix::process::Signal::KILL);
            }
            break;
        }
        sleep(POLL).await;
    }
}

/// Tells what the orchestrator decided to the checker of invariants: it breaks none, every job is over by it, and
/// what clients were told was decided.
pub(crate) fn decided(world: &World, sum: &mut Sum) {
    let Some(path) = &world.orchestrator.history else {
        if !process::are_ready_made() {
            world.history.finding("the orchestrator that was built for this writes no history");
        }
        return;
    };
    let begun = Instant::now();
    let replayed = match replay(path) {
        Ok(replayed) => replayed,
        Err(error) => return world.history.finding(error.to_string()),
    };
    let invariants = replayed.invariants;
    if !invariants.all_over() {
        world.history.finding("I20: by what the orchestrator decided, jobs are not over");
    }
    for (job, facts) in world.ledger.jobs() {
        let finished = invariants.frames(JobId(job), domain::FrameState::Finished);
        let finished: HashSet<i32> = finished.into_iter().collect();
        for number in facts.committed.keys().filter(|number| !finished.contains(number)) {
            world.history.finding(format!(
                "I1: frame {number} of job {job} was told as finished, and nobody decided that"
            ));
        }
    }
    world.history.took("the history is replayed", begun.elapsed());
    let (actions, commits, lives) = (replayed.actions, replayed.commits, replayed.lives);
    let bytes = fs::metadata(path).map_or(0, |metadata| metadata.len());
    sum.replayed = Some(Replay { actions, commits, lives, dropped: replayed.dropped, bytes });
}

/// Reads the servers' logs: nothing panicked, how often frames were begun, and how soon batches were found again.
pub(crate) fn logs(world: &World, sum: &mut Sum) {
    let jobs = world.ledger.jobs();
    let mut begun: BTreeMap<(u64, i32), u64> = BTreeMap::new();
    for entry in fs::read_dir(world.folder()).unwrap().flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let text = fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&text);
        if path == world.orchestrator.server().log() {
            sum.late = attached(world, &text);
        }
        for line in text.lines() {
            if line.contains("panicked at") {
                let name = entry.file_name().to_string_lossy().into_owned();
                world.history.finding(format!("{name}: {line}"));
            }
            if let Some(slice) = line.split_once("frame begun").and_then(|(_, rest)| slice(rest)) {
                *begun.entry(slice).or_default() += 1;
            }
        }
    }
    sum.begun = begun.values().sum();
    let counted = begun
        .iter()
        .filter(|((job, _), _)| jobs.get(job).is_some_and(|facts| facts.cancelled_at.is_none()));
    sum.extra = counted.map(|(_, times)| times - 1).sum();
}

/// The job and the frame that a line of a node's log tells of.
fn slice(line: &str) -> Option<(u64, i32)> {
    Some((field(line, "job")?.parse().ok()?, field(line, "frame")?.parse().ok()?))
}

/// What a line of a log says of something.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

/// A life of the orchestrator by its log, and how it found the batches that former ones had begun.
#[derive(Debug, Default)]
struct Life<'a> {
    epoch: u64,
    batches: usize,
    /// Seconds of the day.
    served: Option<f64>,
    /// Batches that it attached to, or that their nodes do not know.
    found: HashSet<&'a str>,
    /// From when it served until it had attached to the last of them.
    attached: Option<Duration>,
}

/// Tells how soon each life had attached to the batches that it found alive, and gives back how many were too late.
fn attached(world: &World, log: &str) -> u64 {
    let mut lives: Vec<Life<'_>> = Vec::new();
    for line in log.lines() {
        if line.contains("store opened") {
            let number = |name| field(line, name).and_then(|text| text.parse::<u64>().ok());
            let (epoch, batches) = (number("epoch"), number("batches"));
            let (epoch, batches) =
                (epoch.unwrap_or_default(), batches.unwrap_or_default() as usize);
            lives.push(Life { epoch, batches, ..Life::default() });
        }
        if let Some(life) = lives.last_mut() {
            life.take(line);
        }
    }
    let mut late = 0;
    for life in lives.iter().filter(|life| life.batches > 0) {
        if life.found.len() < life.batches {
            world
                .history
                .count("lives that ended before the nodes of all live batches had answered");
        }
        if let Some(after) = life.attached.filter(|after| *after < ATTACH_MAX) {
            world.history.took("an orchestrator that serves again has every live batch", after);
            late += u64::from(after > ATTACH_TIMEOUT);
        }
    }
    late
}

impl<'a> Life<'a> {
    fn take(&mut self, line: &'a str) {
        let is_attached = line.contains("attached to the batch");
        if line.contains("orchestrator serves") {
            self.served = seconds_of_day(line);
        } else if is_attached || line.contains("does not know the batch") {
            // A batch is named by the epoch that it was begun in.
            let Some(batch) = field(line, "batch") else { return };
            let begun = batch.split_once('.').and_then(|(epoch, _)| epoch.parse::<u64>().ok());
            let is_new = begun.is_none_or(|epoch| epoch >= self.epoch);
            if is_new || !self.found.insert(batch) || !is_attached {
                return;
            }
            // Before it served, too.
            let after = self.served.zip(seconds_of_day(line));
            let after = after.map_or(0.0, |(from, to)| (to - from).rem_euclid(DAY_SECONDS));
            self.attached = Some(Duration::from_secs_f64(after));
        }
    }
}

/// When a line was written, as `2026-11-24T16:17:03.384067Z` says it.
fn seconds_of_day(line: &str) -> Option<f64> {
    let time = line.split_whitespace().next()?.split_once('T')?.1.strip_suffix('Z')?;
    let mut parts = time.split(':').map(str::parse::<f64>);
    parts.try_fold(0.0, |seconds, part| Some(seconds * 60.0 + part.ok()?))
}

fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
