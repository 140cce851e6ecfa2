//! Watchers follow a job, or the whole cluster, at their own pace. The driver publishes committed changes only.
//!
//! A watcher pulls: its next message is computed when it is ready, from the recent changes kept here or, if it is further
//! behind, from the store. So a slow watcher skips intermediate states, costs nothing while it sleeps, and slows nobody.
//! A queue for each watcher was rejected: a thousand slow watchers of a fast job would hold a thousand copies of it, and
//! a bounded queue needs this path anyway for those who overflow it.
//!
//! `job_watch`, `cluster_watch` and `log_reader` are the readers; `reasons` has the sentences that say why something
//! waits.

mod cluster_watch;
mod job_snapshot;
mod job_watch;
mod log_reader;
mod previews;
pub(crate) mod reasons;
pub(crate) mod sizes;

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

use self::{
    job_snapshot::JobSnapshot,
    previews::{PREVIEWS_BYTES_MAX, Previews},
    sizes::bytes_of,
};
pub(crate) use self::{job_snapshot::shown, job_watch::Update};
use crate::{
    clock::wall_ms,
    domain::{
        ActiveSlice, Frame, JobId, NodeName, NodeState, NodeView, Requirements, Revision, Slice,
    },
    store::{Archive, Identity, JobRecord, JobStatus, StoreError},
};

/// Changes of one job that are kept for watchers that keep up: some tens of milliseconds at the highest rate. Others read
/// the store.
const RECENT_MAX: usize = 4_096;
/// Bytes of these changes, about: as many finished frames, or fewer failed ones with long log tails.
const RECENT_BYTES: usize = 2 << 20;
/// Pause between two checks for a feed that is about to open.
const FEED_OPENS: Duration = Duration::from_millis(1);
/// Jobs that are over and stay in the cluster's view, so that watchers learn of their end.
const CLOSED_JOBS_MAX: usize = 100;
/// How long a node that is gone stays in view, as the protocol states.
const GONE_NODES_FOR_MS: i64 = 3_600_000;

/// The changes of a job in one commit.
#[derive(Debug)]
pub(crate) struct JobChange {
    pub(crate) status: JobStatus,
    /// In order of their revisions.
    pub(crate) frames: Vec<Arc<Frame>>,
    /// The bytes of those frames' previews.
    pub(crate) previews: Vec<(Digest, Bytes)>,
    pub(crate) active: Vec<ActiveSlice>,
}

#[derive(Debug)]
struct JobFeed {
    /// As it was when the feed opened. `now` has its current status.
    record: JobRecord,
    now: Mutex<JobNow>,
    changed: watch::Sender<()>,
    /// Number of snapshot reads so far.
    reads: AtomicU64,
    /// Result of the latest snapshot read and its sequence number. Watchers that arrived before the read began share it,
    /// so a stampede costs two reads.
    snapshot: AsyncMutex<Option<(u64, Arc<JobSnapshot>)>>,
}

#[derive(Debug)]
struct JobNow {
    status: JobStatus,
    recent: VecDeque<Arc<Frame>>,
    /// Size of the frames in `recent`, about.
    recent_bytes: usize,
    /// Every change of a frame above this revision is in `recent`.
    recent_above: Revision,
    active: HashMap<Slice, (u64, ActiveSlice)>,
    /// Rises with each change of `active`.
    active_version: u64,
}

impl JobFeed {
    fn record(&self) -> JobRecord {
        JobRecord { status: lock(&self.now).status.clone(), ..self.record.clone() }
    }
}

impl JobNow {
    /// Keeps a change, and drops the oldest ones beyond the limits.
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

    /// Nodes that reported slices of the job as active.
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

/// The driver publishes here, and watchers read.
#[derive(Debug)]
pub(crate) struct Feed {
    store: Arc<dyn Archive>,
    identity: Identity,
    jobs: Mutex<HashMap<JobId, Arc<JobFeed>>>,
    cluster: Mutex<ClusterNow>,
    previews: Mutex<Previews>,
    cluster_changed: watch::Sender<()>,
    /// Whether a commit is held because the store takes no writes.
    is_held: AtomicBool,
}

/// Why a watch cannot begin.
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
            status: record.status.clone(),
            recent: VecDeque::new(),
            recent_bytes: 0,
            recent_above: record.status.revision,
            active: HashMap::new(),
            active_version: 0,
        };
        let feed = JobFeed {
            record: record.clone(),
            now: Mutex::new(now),
            changed: watch::Sender::new(()),
            reads: AtomicU64::new(0),
            snapshot: AsyncMutex::default(),
        };
        lock(&self.jobs).insert(record.job, Arc::new(feed));
        self.publish_record(record.clone());
    }

    /// Publishes the changes of a job. If the job is over, its feed ends.
    pub(crate) fn publish_job(&self, record: &JobRecord, news: JobChange) {
        let is_final = news.status.state.is_final();
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
            let status_changed = now.status != news.status;
            now.status = news.status.clone();
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
            // Outdated for new watchers. If the lock is taken, a read is under way, and its waiters share its result.
            if let Ok(mut snapshot) = feed.snapshot.try_lock() {
                *snapshot = None;
            }
            feed.changed.send_replace(());
            if !status_changed {
                return;
            }
        }
        let mut record = JobRecord { status: news.status, ..record.clone() };
        if is_final {
            record.spec = Arc::new(record.spec.without_project());
        }
        self.publish_record(record);
    }

    /// The record of a job that is over comes without its project, which may be large.
    fn publish_record(&self, record: JobRecord) {
        let mut cluster = lock(&self.cluster);
        cluster.version += 1;
        let version = cluster.version;
        cluster.jobs.insert(record.job, (version, record));
        let closed = |cluster: &ClusterNow| {
            cluster.jobs.values().filter(|(_, job)| job.status.state.is_final()).count()
        };
        if cluster.jobs.len() > CLOSED_JOBS_MAX && closed(&cluster) > CLOSED_JOBS_MAX {
            let oldest = cluster.jobs.iter().find(|(_, (_, job))| job.status.state.is_final());
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
                // The state changed because of the node's silence.
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

    /// Notes a heartbeat of a node. It is not worth a message to watchers.
    pub(crate) fn note_seen(&self, node: &NodeName, seen_at_ms: i64) {
        if let Some((_, view)) = lock(&self.cluster).nodes.get_mut(node) {
            view.seen_at_ms = seen_at_ms;
        }
    }

    // The watchers' side.

    pub(crate) fn nodes(&self) -> Vec<NodeView> {
        lock(&self.cluster).nodes.values().map(|(_, node)| node.clone()).collect()
    }

    /// Notes whether a commit is held because the store takes no writes.
    pub(crate) fn hold(&self, is_held: bool) {
        self.is_held.store(is_held, Ordering::Relaxed);
    }

    /// Why an open job does not proceed; empty while it does.
    pub(crate) fn waiting_reason(&self, job: JobId, requirements: &Requirements) -> String {
        let feed = lock(&self.jobs).get(&job).cloned();
        let at_work = feed.map(|feed| lock(&feed.now).at_work()).unwrap_or_default();
        let cluster = lock(&self.cluster);
        let live = cluster.nodes.values().map(|(_, node)| node);
        let live: Vec<_> = live.filter(|node| node.state.is_live()).collect();
        let is_held = self.is_held.load(Ordering::Relaxed);
        reasons::waiting_reason(is_held, &live, &at_work, requirements)
    }

    /// A job and, while it is open, its feed. An open job is not read, so that a crowd of watchers costs the store nothing.
    /// A job that is read comes without its project.
    async fn find(&self, job: JobId) -> Result<(Option<Arc<JobFeed>>, JobRecord), WatchError> {
        loop {
            // The feed is looked up first: if the job ends in between, the feed shows its end.
            let feed = lock(&self.jobs).get(&job).cloned();
            if let Some(feed) = feed {
                let record = feed.record();
                return Ok((Some(feed), record));
            }
            let stored = self.store.job_without_project(job).await?;
            let record = stored.ok_or(WatchError::UnknownJob)?;
            if record.status.state.is_final() {
                return Ok((None, record));
            }
            // The job was committed a moment ago, and the driver is about to open its feed.
            tokio::time::sleep(FEED_OPENS).await;
        }
    }
}

#[cfg(test)]
mod tests;
