//! Watchers follow a job, or the whole cluster, at their own pace.
//!
//! A watcher pulls: what it gets next is computed when it is ready to take it, from the recent changes kept
//! here or, when it is further behind, from the store. So a slow one skips intermediate states, costs
//! nothing while it sleeps, and slows nobody. The driver publishes only what is committed.

mod whole;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use framecrew_blobs::Digest;
use tokio::sync::{Mutex as AsyncMutex, watch};

pub(crate) use self::whole::{Whole, shown};
use crate::{
    domain::{Frame, Incarnation, JobId, NodeDescription, NodeName, Requirements, Revision, Slice},
    driver::wall_ms,
    previews::{PREVIEWS_BYTES_MAX, Previews},
    store::{
        Archive, Identity, JobRecord, JobStanding, LogRecord, NodeRecord, StoreError,
        without_project,
    },
};

/// Changes kept of one job for watchers that keep up: some tens of milliseconds at the highest rate. Others
/// read the store.
const RECENT_MAX: usize = 4_096;
/// Bytes of these changes, about: as many frames that are drawn, fewer that failed and tell of it at length.
const RECENT_BYTES: usize = 2 << 20;
/// Nodes that are named where a job waits because all that could render it rest.
const RESTING_NAMED_MAX: usize = 3;
/// Frames in one message of changes.
const FRAMES_IN_MESSAGE: usize = 256;
/// Bytes of frames in one message of changes, about: what a watcher that stalls holds here.
const CHANGES_BYTES: usize = 64 << 10;
/// Bytes of troubled frames in a snapshot, about: some hundreds with the last lines of their renderers.
const TROUBLED_BYTES: usize = 512 << 10;
/// Pause between two looks for a feed that is about to be opened.
const FEED_OPENS: Duration = Duration::from_millis(1);
/// Frames with failed tries in a snapshot; the protocol says so.
const TROUBLED_MAX: u32 = 1_000;
/// Jobs that are over but stay in the cluster's view, for watchers that have yet to hear of it.
const CLOSED_JOBS_MAX: usize = 100;
/// Nodes that are gone stay in view for this long; the protocol says so.
const GONE_NODES_FOR_MS: i64 = 3_600_000;
/// How often a watcher of a job is told at least why the job waits, where that has changed: soon enough for a
/// person, seldom enough for a thousand watchers.
const WAITING_LOOKED_AT_EVERY: Duration = Duration::from_secs(1);
/// Pause between two messages of a cluster watch: ten a second, faster than people look.
const CLUSTER_PAUSE: Duration = Duration::from_millis(100);
/// Log lines in one message; a line has 2,000 bytes at most.
const LINES_IN_MESSAGE: u32 = 500;
/// Pause before a follower of a log that has all of it looks again: a job changes hundreds of times a second, and
/// people read ten times a second at most.
const LOG_PAUSE: Duration = Duration::from_millis(100);

/// What a node is doing to a slice. Not durable.
#[derive(Debug, Clone)]
pub(crate) struct ActiveSlice {
    pub(crate) slice: Slice,
    pub(crate) node: NodeName,
    pub(crate) started_at_ms: i64,
    pub(crate) progress: Progress,
}

/// How far a slice is, as far as the renderer tells.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Progress {
    pub(crate) samples_done: u32,
    pub(crate) samples_total: u32,
    pub(crate) fraction: Option<f64>,
    pub(crate) remaining_seconds: Option<f64>,
    pub(crate) memory_bytes: u64,
}

/// What happened to a job in one commit.
#[derive(Debug)]
pub(crate) struct JobNews {
    pub(crate) standing: JobStanding,
    /// By revision, rising.
    pub(crate) frames: Vec<Arc<Frame>>,
    /// The bytes of those frames' previews.
    pub(crate) previews: Vec<(Digest, Bytes)>,
    pub(crate) active: Vec<ActiveSlice>,
}

/// A node as people see it.
#[derive(Debug, Clone)]
pub(crate) struct NodeView {
    pub(crate) name: NodeName,
    pub(crate) incarnation: Incarnation,
    pub(crate) address: String,
    pub(crate) description: NodeDescription,
    pub(crate) state: NodeState,
    pub(crate) unsettled_slices: u32,
    pub(crate) finished_slices: u64,
    pub(crate) seen_at_ms: i64,
    /// When it was found to be gone; 0: it is not.
    pub(crate) gone_at_ms: i64,
    /// Why it gets no work; empty: it may.
    pub(crate) state_reason: String,
    /// Until when, as far as that is known; else 0.
    pub(crate) state_until_ms: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodeState {
    Idle,
    Rendering,
    Paused,
    Lost,
    Left,
    Quarantined,
    Silent,
    Draining,
}

impl NodeView {
    pub(crate) fn new(
        name: NodeName,
        record: &NodeRecord,
        state: NodeState,
        seen_at_ms: i64,
    ) -> Self {
        Self {
            name,
            incarnation: record.incarnation,
            address: record.address.clone(),
            description: record.description.clone(),
            state,
            unsettled_slices: 0,
            finished_slices: 0,
            seen_at_ms,
            gone_at_ms: 0,
            state_reason: String::new(),
            state_until_ms: 0,
        }
    }
}

impl NodeState {
    pub(crate) fn is_live(self) -> bool {
        !matches!(self, Self::Lost | Self::Left)
    }

    /// The word for a live node that gets no work; `None` for one that may.
    fn rest(self) -> Option<&'static str> {
        match self {
            Self::Idle | Self::Rendering | Self::Lost | Self::Left => None,
            Self::Paused => Some("paused"),
            Self::Quarantined => Some("quarantined"),
            Self::Silent => Some("silent"),
            Self::Draining => Some("draining"),
        }
    }
}

#[derive(Debug)]
struct JobFeed {
    /// As it was when the feed was opened; `now` has how it stands.
    record: JobRecord,
    now: Mutex<JobNow>,
    changed: watch::Sender<()>,
    /// How often the whole state has been asked of the store.
    reads: AtomicU64,
    /// What the latest of these reads, by its number, gave, until the job changes: whoever came before it
    /// began shares it, so that a crowd that comes at once costs two of them.
    whole: AsyncMutex<Option<(u64, Arc<Whole>)>>,
}

#[derive(Debug)]
struct JobNow {
    standing: JobStanding,
    recent: VecDeque<Arc<Frame>>,
    /// Of the frames in `recent`, about.
    recent_bytes: usize,
    /// Every change of a frame above this revision is in `recent`.
    recent_above: Revision,
    active: HashMap<Slice, (u64, ActiveSlice)>,
    /// Rises with each change of `active`.
    active_version: u64,
}

impl JobFeed {
    fn record(&self) -> JobRecord {
        JobRecord { standing: lock(&self.now).standing.clone(), ..self.record.clone() }
    }
}

impl JobNow {
    /// Keeps a change for a while.
    fn keep(&mut self, frame: Arc<Frame>) {
        self.recent_bytes += bytes_of(&frame);
        self.recent.push_back(frame);
        while (self.recent.len() > RECENT_MAX || self.recent_bytes > RECENT_BYTES)
            && let Some(oldest) = self.recent.pop_front()
        {
            self.recent_bytes -= bytes_of(&oldest);
            self.recent_above = oldest.revision;
        }
    }

    /// Who draws slices of the job, as far as has been heard.
    fn at_work(&self) -> HashSet<NodeName> {
        self.active.values().map(|(_, active)| active.node.clone()).collect()
    }
}

#[derive(Debug, Default)]
struct ClusterNow {
    version: u64,
    jobs: BTreeMap<JobId, (u64, JobRecord)>,
    nodes: BTreeMap<NodeName, (u64, NodeView)>,
}

/// Where the driver publishes and watchers read. Cheap to share.
#[derive(Debug)]
pub(crate) struct Feed {
    store: Arc<dyn Archive>,
    identity: Identity,
    jobs: Mutex<HashMap<JobId, Arc<JobFeed>>>,
    cluster: Mutex<ClusterNow>,
    previews: Mutex<Previews>,
    cluster_changed: watch::Sender<()>,
    /// Whether what is decided cannot be written, and waits.
    is_held: AtomicBool,
}

/// What keeps a watch from beginning.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    #[error("there is no such job")]
    UnknownJob,
    #[error("revision {after} lies ahead of the job, which is at {current}: watch from revision 0")]
    FutureRevision { after: Revision, current: Revision },
    #[error("these revisions are of another store: watch from revision 0")]
    OtherStore,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The next thing that a watcher of a job gets.
#[derive(Debug)]
pub(crate) enum Update {
    Snapshot { snapshot: Arc<Whole>, active: Vec<ActiveSlice> },
    Changes { standing: JobStanding, frames: Vec<FrameNews>, active: Vec<ActiveSlice> },
    Ended(JobStanding),
}

/// A frame that changed, and its preview's bytes while they are kept.
pub(crate) type FrameNews = (Arc<Frame>, Bytes);

/// No holder of these locks panics, so a poisoned one is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Feed {
    pub(crate) fn new(store: Arc<dyn Archive>, identity: Identity) -> Self {
        Self {
            store,
            identity,
            jobs: Mutex::default(),
            cluster: Mutex::default(),
            previews: Mutex::new(Previews::new(PREVIEWS_BYTES_MAX)),
            cluster_changed: watch::Sender::new(()),
            is_held: AtomicBool::new(false),
        }
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    // The driver's side.

    pub(crate) fn open_job(&self, record: &JobRecord) {
        let now = JobNow {
            standing: record.standing.clone(),
            recent: VecDeque::new(),
            recent_bytes: 0,
            recent_above: record.standing.revision,
            active: HashMap::new(),
            active_version: 0,
        };
        let feed = JobFeed {
            record: record.clone(),
            now: Mutex::new(now),
            changed: watch::Sender::new(()),
            reads: AtomicU64::new(0),
            whole: AsyncMutex::default(),
        };
        lock(&self.jobs).insert(record.job, Arc::new(feed));
        self.publish_record(record.clone());
    }

    /// Shows what happened to a job, and lets it go when it is over.
    pub(crate) fn publish_job(&self, record: &JobRecord, news: JobNews) {
        let is_final = news.standing.state.is_final();
        {
            let mut previews = lock(&self.previews);
            for (digest, data) in news.previews {
                previews.keep(digest, data);
            }
        }
        let feed = {
            let mut jobs = lock(&self.jobs);
            if is_final { jobs.remove(&record.job) } else { jobs.get(&record.job).cloned() }
        };
        if let Some(feed) = feed {
            let mut now = lock(&feed.now);
            let standing_changed = now.standing != news.standing;
            now.standing = news.standing.clone();
            for frame in news.frames {
                now.active.remove(&Slice::whole(frame.frame));
                now.keep(frame);
            }
            for active in news.active {
                now.active_version += 1;
                let version = now.active_version;
                now.active.insert(active.slice, (version, active));
            }
            if is_final {
                now.active.clear();
            }
            drop(now);
            // Of no use to those who come from now on; those who wait for it have the lock.
            if let Ok(mut whole) = feed.whole.try_lock() {
                *whole = None;
            }
            feed.changed.send_replace(());
            if !standing_changed {
                return;
            }
        }
        let mut record = JobRecord { standing: news.standing, ..record.clone() };
        if is_final {
            record.spec = Arc::new(without_project(&record.spec));
        }
        self.publish_record(record);
    }

    /// In a job that is over, the spec is one without its project, which may be large.
    fn publish_record(&self, record: JobRecord) {
        let mut cluster = lock(&self.cluster);
        cluster.version += 1;
        let version = cluster.version;
        cluster.jobs.insert(record.job, (version, record));
        let closed = |cluster: &ClusterNow| {
            cluster.jobs.values().filter(|(_, job)| job.standing.state.is_final()).count()
        };
        if cluster.jobs.len() > CLOSED_JOBS_MAX && closed(&cluster) > CLOSED_JOBS_MAX {
            let oldest = cluster.jobs.iter().find(|(_, (_, job))| job.standing.state.is_final());
            if let Some(job) = oldest.map(|(job, _)| *job) {
                cluster.jobs.remove(&job);
            }
        }
        drop(cluster);
        self.cluster_changed.send_replace(());
    }

    pub(crate) fn publish_node(&self, mut view: NodeView) {
        let mut cluster = lock(&self.cluster);
        let before = cluster.nodes.get(&view.name).map(|(_, before)| before);
        if let Some(before) = before.filter(|before| before.incarnation == view.incarnation) {
            if matches!(view.state, NodeState::Silent | NodeState::Lost) {
                // It changed because nothing was heard of it.
                view.seen_at_ms = before.seen_at_ms;
            }
            if !view.state.is_live() {
                view.finished_slices = before.finished_slices;
            }
        }
        let now_ms = wall_ms();
        if !view.state.is_live() {
            view.gone_at_ms = now_ms;
        }
        cluster.version += 1;
        let version = cluster.version;
        cluster.nodes.insert(view.name.clone(), (version, view));
        cluster.nodes.retain(|_, (_, node)| {
            node.state.is_live() || node.gone_at_ms > now_ms - GONE_NODES_FOR_MS
        });
        drop(cluster);
        self.cluster_changed.send_replace(());
    }

    /// What a node was last seen to do to a slice.
    pub(crate) fn active(&self, job: JobId, slice: Slice) -> Option<ActiveSlice> {
        let feed = lock(&self.jobs).get(&job).cloned()?;
        let now = lock(&feed.now);
        now.active.get(&slice).map(|(_, active)| active.clone())
    }

    /// Notes that a node was heard of; not worth a message to watchers.
    pub(crate) fn note_seen(&self, node: &NodeName, seen_at_ms: i64) {
        if let Some((_, view)) = lock(&self.cluster).nodes.get_mut(node) {
            view.seen_at_ms = seen_at_ms;
        }
    }

    // The watchers' side.

    pub(crate) fn nodes(&self) -> Vec<NodeView> {
        lock(&self.cluster).nodes.values().map(|(_, node)| node.clone()).collect()
    }

    /// Notes whether what is decided cannot be written, and waits.
    pub(crate) fn hold(&self, is_held: bool) {
        self.is_held.store(is_held, Ordering::Relaxed);
    }

    /// Why an open job does not proceed; empty while it does.
    pub(crate) fn waiting_reason(&self, job: JobId, requirements: &Requirements) -> String {
        if self.is_held.load(Ordering::Relaxed) {
            return "the orchestrator cannot write to its store now, perhaps because its disk is full (its log tells); \
                    nodes keep what they finish, and it goes on when it can"
                .to_owned();
        }
        let feed = lock(&self.jobs).get(&job).cloned();
        let at_work = feed.map(|feed| lock(&feed.now).at_work()).unwrap_or_default();
        let cluster = lock(&self.cluster);
        let live = cluster.nodes.values().map(|(_, node)| node);
        let live: Vec<_> = live.filter(|node| node.state.is_live()).collect();
        if live.is_empty() {
            return "no node is registered".to_owned();
        }
        let could = live.iter().copied().filter(|node| node.description.meets(requirements));
        let could: Vec<_> = could.collect();
        if could.is_empty() {
            let unable = who_is_unable(&live, requirements);
            return if unable.is_empty() {
                format!("no registered node has {requirements}")
            } else {
                unable
            };
        }
        who_rests(&could, &at_work)
    }

    pub(crate) async fn watch(
        self: &Arc<Self>,
        job: JobId,
        after: Revision,
        store_id: &str,
    ) -> Result<JobWatch, WatchError> {
        if !store_id.is_empty() && *store_id != *self.identity.store_id {
            return Err(WatchError::OtherStore);
        }
        let (feed, record) = self.find(job).await?;
        let mut current = record.standing.revision;
        if after > current {
            // A commit is readable, and told to those who ask for the job, a moment before it is published.
            let stored = self.store.job_without_project(job).await?;
            current = stored.map_or(current, |record| record.standing.revision);
        }
        if after > current {
            return Err(WatchError::FutureRevision { after, current });
        }
        let changed = feed.as_ref().map(|feed| feed.changed.subscribe());
        Ok(JobWatch {
            hub: self.clone(),
            requirements: record.requirements(),
            record,
            waiting_reason: String::new(),
            feed,
            changed,
            revision: after,
            active_version: 0,
            phase: if after == 0 { Phase::Snapshot } else { Phase::Resume },
        })
    }

    /// A job and, while it is open, its feed: then nothing is read, and a crowd of watchers costs the store
    /// nothing. What was read is without its project.
    async fn find(&self, job: JobId) -> Result<(Option<Arc<JobFeed>>, JobRecord), WatchError> {
        loop {
            // The feed is looked up first: a job that ends in between is then seen to end through it.
            let feed = lock(&self.jobs).get(&job).cloned();
            if let Some(feed) = feed {
                let record = feed.record();
                return Ok((Some(feed), record));
            }
            let stored = self.store.job_without_project(job).await?;
            let record = stored.ok_or(WatchError::UnknownJob)?;
            if record.standing.state.is_final() {
                return Ok((None, record));
            }
            // Committed this very moment: the driver is about to open its feed.
            tokio::time::sleep(FEED_OPENS).await;
        }
    }

    pub(crate) fn watch_cluster(self: &Arc<Self>) -> ClusterWatch {
        ClusterWatch {
            feed: self.clone(),
            changed: self.cluster_changed.subscribe(),
            version: None,
        }
    }

    pub(crate) async fn read_log(
        self: &Arc<Self>,
        job: JobId,
        frame: Option<i32>,
        follow: bool,
    ) -> Result<LogReader, WatchError> {
        let (feed, _) = self.find(job).await?;
        let feed = feed.filter(|_| follow);
        let changed = feed.as_ref().map(|feed| feed.changed.subscribe());
        Ok(LogReader { store: self.store.clone(), job, frame, next: 1, feed, changed })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Snapshot,
    /// The first message after a resume has what nodes are doing even when nothing durable changed.
    Resume,
    Follow,
    Over,
}

/// One watcher of a job.
#[derive(Debug)]
pub(crate) struct JobWatch {
    hub: Arc<Feed>,
    /// As it was when the watch began.
    record: JobRecord,
    requirements: Requirements,
    /// What the watcher has been told of why the job waits.
    waiting_reason: String,
    /// `None` for a job that was over when the watch began, and has not been seen to go on since.
    feed: Option<Arc<JobFeed>>,
    changed: Option<watch::Receiver<()>>,
    /// The watcher has everything up to here.
    revision: Revision,
    active_version: u64,
    phase: Phase,
}

impl JobWatch {
    /// The job as it was when the watch began; its project may be left out.
    pub(crate) fn record(&self) -> &JobRecord {
        &self.record
    }

    /// The next update and the revision that the watcher is at then; `None` after the last. Waits for it.
    pub(crate) async fn next(&mut self) -> Result<Option<(Revision, Update)>, StoreError> {
        let next = match self.phase {
            Phase::Over => return Ok(None),
            Phase::Snapshot => self.snapshot().await,
            Phase::Resume | Phase::Follow => self.changes().await,
        };
        self.waiting_reason = self.waits_for();
        next.map(Some)
    }

    fn waits_for(&self) -> String {
        self.hub.waiting_reason(self.record.job, &self.requirements)
    }

    async fn snapshot(&mut self) -> Result<(Revision, Update), StoreError> {
        let snapshot = match &self.feed {
            Some(feed) => {
                let came_after = feed.reads.load(Ordering::Relaxed);
                let mut whole = feed.whole.lock().await;
                let current = lock(&feed.now).standing.revision;
                match &*whole {
                    Some((read, known))
                        if *read > came_after || known.job.standing.revision >= current =>
                    {
                        known.clone()
                    }
                    _ => {
                        let read = feed.reads.fetch_add(1, Ordering::Relaxed) + 1;
                        let fresh = self.read_whole().await?;
                        *whole = Some((read, fresh.clone()));
                        fresh
                    }
                }
            }
            None => self.read_whole().await?,
        };
        self.revision = snapshot.job.standing.revision;
        // A commit is readable a moment before it is published. What nodes were doing before it must not be
        // shown after it.
        self.published(self.revision).await?;
        let active = self.new_active();
        self.phase = Phase::Follow;
        Ok((self.revision, Update::Snapshot { snapshot, active }))
    }

    async fn read_whole(&self) -> Result<Arc<Whole>, StoreError> {
        let read = self.hub.store.snapshot(self.record.job, TROUBLED_MAX).await?;
        let mut snapshot = read.ok_or_else(vanished)?;
        let fit = fitting(snapshot.troubled.iter().map(bytes_of), TROUBLED_BYTES);
        snapshot.troubled.truncate(fit);
        Ok(Arc::new(Whole::of(snapshot)))
    }

    async fn changes(&mut self) -> Result<(Revision, Update), StoreError> {
        if self.phase == Phase::Resume {
            self.published(self.revision).await?;
        }
        loop {
            if let Some(changed) = &mut self.changed {
                changed.borrow_and_update();
            }
            let (standing, frames) = self.frames().await?;
            let mut frames = self.with_previews(frames);
            let sizes = frames.iter().map(|(frame, data)| bytes_of(frame) + data.len());
            let fit = fitting(sizes.take(FRAMES_IN_MESSAGE), CHANGES_BYTES);
            let is_cut = frames.len() > fit;
            frames.truncate(fit);
            let revision = match frames.last() {
                Some((frame, _)) if is_cut => frame.revision,
                _ => standing.revision.max(self.revision),
            };
            let active = self.new_active();
            let is_final = standing.state.is_final();
            let waits_anew = || !is_final && self.waits_for() != self.waiting_reason;
            if revision > self.revision
                || !active.is_empty()
                || self.phase == Phase::Resume
                || waits_anew()
            {
                self.phase = Phase::Follow;
                self.revision = revision;
                return Ok((revision, Update::Changes { standing, frames, active }));
            }
            if is_final {
                self.phase = Phase::Over;
                return Ok((self.revision, Update::Ended(standing)));
            }
            // Nodes come and go without a change of the job.
            let _ = tokio::time::timeout(WAITING_LOOKED_AT_EVERY, self.wait()).await;
        }
    }

    /// How the job stands, and the frames that changed since, one more than a message takes at most.
    async fn frames(&mut self) -> Result<(JobStanding, Vec<Arc<Frame>>), StoreError> {
        let limit = FRAMES_IN_MESSAGE + 1;
        let mut over = None;
        if self.feed.is_none() {
            // It was over, and goes on if frames of it are tried again.
            over = Some(self.find_feed().await?);
        }
        let standing = match (&self.feed, over) {
            (Some(feed), _) => {
                let now = lock(&feed.now);
                if now.recent_above <= self.revision {
                    let from = now.recent.partition_point(|frame| frame.revision <= self.revision);
                    let frames = now.recent.range(from..).take(limit).cloned().collect();
                    return Ok((now.standing.clone(), frames));
                }
                now.standing.clone()
            }
            (None, Some(over)) => over,
            (None, None) => return Err(vanished()),
        };
        let frames =
            self.hub.store.frames_changed(self.record.job, self.revision, limit as u32).await?;
        Ok((standing, frames.into_iter().map(Arc::new).collect()))
    }

    fn with_previews(&self, frames: Vec<Arc<Frame>>) -> Vec<FrameNews> {
        let previews = lock(&self.hub.previews);
        let with_preview = |frame: Arc<Frame>| {
            let preview = frame.rendered.as_ref().and_then(|rendered| rendered.preview.as_ref());
            let data = preview.map(|preview| previews.find(preview.digest)).unwrap_or_default();
            (frame, data)
        };
        frames.into_iter().map(with_preview).collect()
    }

    fn new_active(&mut self) -> Vec<ActiveSlice> {
        let Some(feed) = &self.feed else { return Vec::new() };
        let now = lock(&feed.now);
        let seen = std::mem::replace(&mut self.active_version, now.active_version);
        if seen == now.active_version {
            return Vec::new();
        }
        now.active
            .values()
            .filter(|(version, _)| *version > seen)
            .map(|(_, active)| active.clone())
            .collect()
    }

    /// Goes on with the feed that the job has now; how the job stands.
    async fn find_feed(&mut self) -> Result<JobStanding, StoreError> {
        let (feed, record) = self.hub.find(self.record.job).await.map_err(|error| match error {
            WatchError::Store(error) => error,
            _ => vanished(),
        })?;
        self.changed = feed.as_ref().map(|feed| feed.changed.subscribe());
        self.feed = feed;
        self.active_version = 0;
        Ok(record.standing)
    }

    /// Waits until the driver has published at least `revision`.
    async fn published(&mut self, revision: Revision) -> Result<(), StoreError> {
        while let Some(feed) = &self.feed {
            let (published, is_final) = {
                let standing = &lock(&feed.now).standing;
                (standing.revision, standing.state.is_final())
            };
            if published >= revision {
                break;
            }
            if is_final {
                // Nothing follows here: frames were tried again since, and the job has another feed.
                self.find_feed().await?;
            } else {
                self.wait().await;
            }
        }
        Ok(())
    }

    async fn wait(&mut self) {
        if let Some(changed) = &mut self.changed {
            // The sender lives as long as `feed` does, so this cannot fail.
            let _ = changed.changed().await;
        }
    }
}

/// Which of these nodes get no work, in a sentence; empty when one of them may get some, or is among those that
/// are at work on the job.
fn who_rests(nodes: &[&NodeView], at_work: &HashSet<NodeName>) -> String {
    let rests = |node: &&NodeView| {
        let is_at_work = at_work.contains(&node.name) && node.state != NodeState::Silent;
        let rest = node.state.rest().filter(|_| !is_at_work)?;
        Some(format!("{} is {rest}", node.name))
    };
    let resting: Vec<_> = nodes.iter().filter_map(rests).collect();
    if resting.len() < nodes.len() {
        return String::new();
    }
    let named = resting.len().min(RESTING_NAMED_MAX);
    let more = match resting.len() - named {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("no node that could render it takes work now: {}{more}", resting[..named].join(", "))
}

/// Says on which of these nodes the Blender for a job does not start, and why; empty if there is none.
fn who_is_unable(nodes: &[&NodeView], requirements: &Requirements) -> String {
    let why = |node: &&NodeView| {
        let why = node.description.why_unable(requirements)?;
        Some(format!("on {}: {why}", node.name))
    };
    let unable: Vec<_> = nodes.iter().filter_map(why).collect();
    let named = unable.len().min(RESTING_NAMED_MAX);
    match unable.len() - named {
        _ if unable.is_empty() => String::new(),
        0 => format!("no node can render it now: {}", unable[..named].join("; ")),
        more => {
            format!("no node can render it now: {}; and on {more} more", unable[..named].join("; "))
        }
    }
}

fn vanished() -> StoreError {
    StoreError::Unreadable { what: "a job", detail: "it vanished".to_owned() }
}

/// How many frames of these sizes fit in so many bytes; at least one.
pub(crate) fn fitting(frames: impl IntoIterator<Item = usize>, bytes_max: usize) -> usize {
    let mut bytes = 0;
    let fit = frames.into_iter().take_while(|frame_bytes| {
        bytes += frame_bytes;
        bytes <= bytes_max
    });
    fit.count().max(1)
}

/// Bytes of a frame in a message, about.
pub(crate) fn bytes_of(frame: &Frame) -> usize {
    /// What a frame has besides its texts and outputs: numbers, the node's name, a digest.
    const FRAME_BYTES: usize = 200;
    /// What an output has besides its name: a digest, numbers.
    const OUTPUT_BYTES: usize = 100;
    let failure = frame.failure.as_ref().map_or(0, |failure| {
        failure.message.len() + failure.log_tail.iter().map(String::len).sum::<usize>()
    });
    let outputs = frame.rendered.as_ref().map_or(0, |rendered| {
        rendered.outputs.iter().map(|output| OUTPUT_BYTES + output.name.len()).sum()
    });
    FRAME_BYTES + failure + outputs
}

/// One watcher of the cluster.
#[derive(Debug)]
pub(crate) struct ClusterWatch {
    feed: Arc<Feed>,
    changed: watch::Receiver<()>,
    /// `None` before the first message.
    version: Option<u64>,
}

impl ClusterWatch {
    /// Jobs and nodes that are new or changed. Waits for some.
    pub(crate) async fn next(&mut self) -> (Vec<JobRecord>, Vec<NodeView>) {
        if self.version.is_some() {
            tokio::time::sleep(CLUSTER_PAUSE).await;
            let _ = self.changed.changed().await;
        }
        let cluster = lock(&self.feed.cluster);
        let is_first = self.version.is_none();
        let seen = self.version.replace(cluster.version).unwrap_or(0);
        let jobs = cluster.jobs.values().filter(|(version, job)| {
            *version > seen && !(is_first && job.standing.state.is_final())
        });
        let nodes = cluster.nodes.values().filter(|(version, _)| *version > seen);
        (jobs.map(|(_, j)| j.clone()).collect(), nodes.map(|(_, n)| n.clone()).collect())
    }
}

/// One reader of a job's log.
#[derive(Debug)]
pub(crate) struct LogReader {
    store: Arc<dyn Archive>,
    job: JobId,
    frame: Option<i32>,
    /// Number of the next line.
    next: u64,
    /// `None`: ends when it has read what is there.
    feed: Option<Arc<JobFeed>>,
    changed: Option<watch::Receiver<()>>,
}

impl LogReader {
    /// The next lines, and how many were lost before them; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<(Vec<LogRecord>, u64)>, StoreError> {
        loop {
            if let Some(changed) = &mut self.changed {
                changed.borrow_and_update();
            }
            // Asked before reading: lines of a job that is over by now are all there.
            let is_over =
                self.feed.as_ref().is_none_or(|feed| lock(&feed.now).standing.state.is_final());
            // A follower is given the lines of all frames, to go on after those that it does not want, too:
            // the others would be looked through again each time.
            let asked = self.frame.filter(|_| self.feed.is_none());
            let mut lines = self.store.log(self.job, asked, self.next, LINES_IN_MESSAGE).await?;
            if let (Some(first), Some(mut last)) =
                (lines.first().map(|line| line.line), lines.last().map(|line| line.line))
            {
                let mut lost = 0;
                // Numbers rise by one, so a gap is what was lost, and each is told before what follows it. One
                // frame's lines always have gaps.
                if self.frame.is_none() {
                    lost = first - self.next;
                    let whole = lines.iter().zip(first..).take_while(|(line, at)| line.line == *at);
                    let whole = whole.count();
                    lines.truncate(whole);
                    last = first + whole as u64 - 1;
                }
                self.next = last + 1;
                lines.retain(|line| self.frame.is_none() || line.frame == self.frame);
                if lines.is_empty() {
                    continue;
                }
                return Ok(Some((lines, lost)));
            }
            if is_over {
                return Ok(None);
            }
            if let Some(changed) = &mut self.changed {
                tokio::time::sleep(LOG_PAUSE).await;
                let _ = changed.changed().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        domain::{
            Attempts, Blender, Failure, FailureReason, FrameSet, FrameState, JobSpec, JobState,
            Project, RenderSettings, TimeLimits,
        },
        store::{Group, Ledger as _, MemoryStore, Request},
    };

    /// Job 1, of one frame, in a store of its own, as the driver would commit and publish it.
    struct Fixture {
        store: Arc<MemoryStore>,
        feed: Arc<Feed>,
        record: JobRecord,
    }

    impl Fixture {
        async fn new() -> Self {
            let store = Arc::new(MemoryStore::new());
            let identity = store.identity();
            let spec = JobSpec {
                name: "shot".to_owned(),
                project: Project { blend_path: String::new(), files: Vec::new() },
                frames: FrameSet::one(1),
                settings: RenderSettings::default(),
                priority: 0,
                tags: Vec::new(),
                strict: false,
                movie: None,
                movie_of: None,
                limits: TimeLimits::default(),
            };
            let version = "3.4".parse().unwrap();
            let record = JobRecord::submitted(JobId(1), Arc::new(spec), version, 0);
            let request = Request { request_id: "r".to_owned(), fingerprint: "f".to_owned() };
            let new_jobs = vec![(request, record.clone())];
            store.commit(&Group { new_jobs, ..Group::default() }).await.unwrap();
            let feed = Arc::new(Feed::new(store.clone(), identity));
            feed.open_job(&record);
            Self { store, feed, record }
        }

        /// What the driver commits next, before it is published.
        async fn commit(&mut self, state: JobState) -> JobNews {
            let standing = &mut self.record.standing;
            standing.state = state;
            standing.revision += 1;
            let jobs = [(JobId(1), standing.clone())].into();
            self.store.commit(&Group { jobs, ..Group::default() }).await.unwrap();
            let standing = self.record.standing.clone();
            JobNews { standing, frames: Vec::new(), previews: Vec::new(), active: Vec::new() }
        }
    }

    #[tokio::test]
    async fn frames_that_fail_at_length_are_kept_for_watchers_by_their_bytes() {
        let fixture = Fixture::new().await;
        let failure = Failure {
            reason: FailureReason::Renderer,
            message: "Blender crashed".to_owned(),
            log_tail: vec!["x".repeat(2_000); 20],
        };
        let failed = |revision| {
            Arc::new(Frame {
                frame: 1,
                state: FrameState::Open,
                revision,
                attempts: Attempts::default(),
                rendered: None,
                failure: Some(failure.clone()),
                node: None,
            })
        };
        let feed = lock(&fixture.feed.jobs)[&JobId(1)].clone();
        let mut now = lock(&feed.now);
        (2..1_000).for_each(|revision| now.keep(failed(revision)));
        let frame_bytes = bytes_of(&now.recent[0]);
        assert_eq!(now.recent.len(), RECENT_BYTES / frame_bytes);
        assert_eq!(now.recent_bytes, now.recent.len() * frame_bytes);
        assert_eq!(now.recent_above + 1, now.recent[0].revision, "others are read from the store");
    }

    #[tokio::test]
    async fn who_follows_one_frame_s_log_looks_at_each_line_of_others_once() {
        let mut fixture = Fixture::new().await;
        let mut reader = fixture.feed.read_log(JobId(1), Some(1), true).await.unwrap();
        let line = |line: u64, frame| LogRecord {
            line,
            frame: Some(frame),
            node: "a".into(),
            at_ms: 0,
            text: "Saved".to_owned(),
        };
        let others = u64::from(2 * LINES_IN_MESSAGE);
        let mut lines: Vec<_> = (1..=others).map(|number| line(number, 2)).collect();
        lines.push(line(others + 1, 1));
        lines.push(line(others + 2, 2));
        let log = [(JobId(1), lines)].into();
        fixture.store.commit(&Group { log, ..Group::default() }).await.unwrap();
        let (lines, lost) = reader.next().await.unwrap().unwrap();
        assert_eq!((lines.len(), lines[0].line, lost), (1, others + 1, 0));
        assert_eq!(reader.next, others + 3, "the last one is of no interest");
        let news = fixture.commit(JobState::Finished).await;
        fixture.feed.publish_job(&fixture.record, news);
        assert!(reader.next().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn who_watches_an_open_job_asks_the_store_for_no_job() {
        let mut fixture = Fixture::new().await;
        let reads = || fixture.store.faults.reads.load(std::sync::atomic::Ordering::SeqCst);
        let before = reads();
        let watch = fixture.feed.watch(JobId(1), 1, "").await.unwrap();
        assert!(Arc::ptr_eq(&watch.record().spec, &fixture.record.spec));
        fixture.feed.read_log(JobId(1), None, true).await.unwrap();
        assert_eq!(reads(), before);
        // Whoever was told of a revision that is yet to be published may watch from there.
        let news = fixture.commit(JobState::Rendering).await;
        let mut watch = fixture.feed.watch(JobId(1), 2, "").await.unwrap();
        fixture.feed.publish_job(&fixture.record, news);
        assert_eq!(watch.next().await.unwrap().unwrap().0, 2);
        let error = fixture.feed.watch(JobId(1), 3, "").await.unwrap_err();
        assert!(matches!(error, WatchError::FutureRevision { after: 3, current: 2 }), "{error}");
    }

    #[tokio::test]
    async fn who_waited_while_a_job_failed_and_was_tried_again_goes_on_with_it() {
        let mut fixture = Fixture::new().await;
        let mut joins = fixture.feed.watch(JobId(1), 0, "").await.unwrap();
        let mut resumes = fixture.feed.watch(JobId(1), 1, "").await.unwrap();
        let news = fixture.commit(JobState::Failed).await;
        fixture.feed.publish_job(&fixture.record, news);
        fixture.commit(JobState::Queued).await;
        fixture.feed.open_job(&fixture.record);
        let over = fixture.commit(JobState::Failed).await;
        // Readable, and yet to be published.
        let joins = tokio::spawn(async move {
            let first = joins.next().await.unwrap().unwrap();
            (first.0, joins.next().await.unwrap().unwrap().0)
        });
        // It has got as far as to wait for the new feed.
        let waits = || lock(&fixture.feed.jobs)[&JobId(1)].changed.receiver_count() > 0;
        let waiting = async {
            while !waits() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap();
        assert!(!joins.is_finished());
        fixture.feed.publish_job(&fixture.record, over);
        assert_eq!(joins.await.unwrap(), (4, 4));
        // Of the first feed it is told the end alone.
        let (revision, update) = resumes.next().await.unwrap().unwrap();
        assert!(matches!(update, Update::Changes { .. }) && revision == 2);
    }

    #[test]
    fn the_reason_for_waiting_quotes_a_blender_that_does_not_start() {
        let requirements = Requirements::of_file("3.4".parse().unwrap());
        let with = |name: &str, version: &str, unusable: &str| {
            let version = version.parse().ok();
            let blender = Blender { version, unusable: unusable.into(), ..Blender::default() };
            let record = NodeRecord {
                incarnation: Incarnation(1),
                address: String::new(),
                description: NodeDescription { blenders: vec![blender], ..Default::default() },
            };
            NodeView::new(name.into(), &record, NodeState::Idle, 0)
        };
        let nodes =
            [with("a", "3.4.1", "Fatal"), with("b", "2.93.0", ""), with("c", "", "no answer")];
        let unable = who_is_unable(&nodes.iter().collect::<Vec<_>>(), &requirements);
        assert_eq!(
            unable,
            "no node can render it now: on a: Blender 3.4.1 does not start: Fatal; on c: no answer"
        );
        assert_eq!(who_is_unable(&[&nodes[1]], &requirements), "");
    }

    #[test]
    fn those_that_rest_are_named_unless_one_is_at_work() {
        use NodeState::{Draining, Idle, Paused, Quarantined, Silent};
        let node = |name: &str, state| {
            let record = NodeRecord {
                incarnation: Incarnation(1),
                address: String::new(),
                description: NodeDescription::default(),
            };
            NodeView::new(name.into(), &record, state, 0)
        };
        let at_work = HashSet::from(["b".into(), "f".into()]);
        let told = |nodes: &[NodeView]| who_rests(&nodes.iter().collect::<Vec<_>>(), &at_work);
        let (a, b) = (node("a", Quarantined), node("b", Silent));
        let none = "no node that could render it takes work now: ";
        assert_eq!(told(&[a.clone(), b.clone()]), format!("{none}a is quarantined, b is silent"));
        let many = [a.clone(), b, node("c", Paused), node("d", Paused)];
        let named = format!("{none}a is quarantined, b is silent, c is paused and 1 more");
        assert_eq!(told(&many), named);
        for proceeds in [node("e", Idle), node("f", Draining)] {
            assert_eq!(told(&[a.clone(), proceeds]), "");
        }
        let other_job = [a, node("g", Draining)];
        assert_eq!(told(&other_job), format!("{none}a is quarantined, g is draining"));
    }
}
