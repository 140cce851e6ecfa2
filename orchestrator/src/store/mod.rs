//! What must survive: the records, and what a database has to offer.

pub(crate) mod backup;
pub(crate) mod check;
pub(crate) mod sqlite;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    fs::{self, File},
    io,
    path::Path,
    sync::Arc,
};

use framecrew_blobs::Digest;
use futures::{FutureExt as _, future::BoxFuture};

use crate::domain::{
    Attempts, BatchId, BlenderVersion, Frame, FrameCounts, FrameState, Incarnation, JobId, JobSpec,
    JobState, NodeDescription, NodeName, Project, Requirements, Revision, Slice, Warning,
};

/// Log lines kept of one job; older ones are dropped, and a reader is told how many.
pub(crate) const LOG_LINES_MAX: u64 = 10_000;

/// A job as it is remembered.
#[derive(Debug, Clone)]
pub(crate) struct JobRecord {
    pub(crate) job: JobId,
    pub(crate) spec: Arc<JobSpec>,
    pub(crate) file_version: BlenderVersion,
    pub(crate) submitted_at_ms: i64,
    pub(crate) standing: JobStanding,
}

/// The part of a job that changes. Cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JobStanding {
    pub(crate) state: JobState,
    pub(crate) counts: FrameCounts,
    pub(crate) revision: Revision,
    /// Milliseconds since 1970; 0: not yet.
    pub(crate) started_at_ms: i64,
    /// Milliseconds since 1970; 0: not yet.
    pub(crate) ended_at_ms: i64,
    /// What is wrong with its frames although they are drawn, in the order it was told; none twice.
    pub(crate) warnings: Arc<[Warning]>,
    /// The job that makes a movie of its frames.
    pub(crate) movie_job: Option<JobId>,
}

impl JobRecord {
    /// A job as it begins.
    pub(crate) fn submitted(
        job: JobId,
        spec: Arc<JobSpec>,
        file_version: BlenderVersion,
        submitted_at_ms: i64,
    ) -> Self {
        let counts = FrameCounts { open: spec.frames.len(), ..FrameCounts::default() };
        let standing = JobStanding {
            state: JobState::Queued,
            counts,
            revision: 1,
            started_at_ms: 0,
            ended_at_ms: 0,
            warnings: Arc::default(),
            movie_job: None,
        };
        Self { job, spec, file_version, submitted_at_ms, standing }
    }

    pub(crate) fn requirements(&self) -> Requirements {
        Requirements {
            file_version: self.file_version,
            blender: self.spec.settings.blender,
            tags: self.spec.tags.clone(),
            ffmpeg: self.spec.movie_of.is_some(),
            run_scripts: self.spec.settings.needs_scripts(),
        }
    }
}

/// A spec without its project, which may be large.
pub(crate) fn without_project(spec: &JobSpec) -> JobSpec {
    // Field by field: a project is what must not be copied here.
    let JobSpec {
        name,
        project: _,
        frames,
        settings,
        priority,
        tags,
        strict,
        movie,
        movie_of,
        limits,
    } = spec;
    JobSpec {
        name: name.clone(),
        project: Project { blend_path: String::new(), files: Vec::new() },
        frames: frames.clone(),
        settings: settings.clone(),
        priority: *priority,
        tags: tags.clone(),
        strict: *strict,
        movie: *movie,
        movie_of: movie_of.clone(),
        limits: *limits,
    }
}

/// The request that made a job: makes submitting it again safe.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) request_id: String,
    pub(crate) fingerprint: String,
}

#[derive(Debug, Clone)]
pub(crate) struct BatchRecord {
    pub(crate) job: JobId,
    pub(crate) node: NodeName,
    pub(crate) slices: Vec<Slice>,
    /// Sequence of its latest event whose log lines are kept.
    pub(crate) log_sequence: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct NodeRecord {
    pub(crate) incarnation: Incarnation,
    pub(crate) address: String,
    pub(crate) description: NodeDescription,
}

#[derive(Debug, Clone)]
pub(crate) struct LogRecord {
    pub(crate) line: u64,
    pub(crate) frame: Option<i32>,
    pub(crate) node: NodeName,
    pub(crate) at_ms: i64,
    pub(crate) text: String,
}

/// What one commit writes. Later states of the same thing replace earlier ones.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) new_jobs: Vec<(Request, JobRecord)>,
    /// All but their warnings, which are only added to.
    pub(crate) jobs: BTreeMap<JobId, JobStanding>,
    /// New warnings, each with its place among all of its job, from 0.
    pub(crate) warnings: BTreeMap<JobId, Vec<(usize, Warning)>>,
    pub(crate) frames: BTreeMap<(JobId, Slice), Arc<Frame>>,
    pub(crate) started_batches: BTreeMap<BatchId, BatchRecord>,
    pub(crate) ended_batches: BTreeSet<BatchId>,
    pub(crate) nodes: BTreeMap<NodeName, Option<NodeRecord>>,
    pub(crate) log: BTreeMap<JobId, Vec<LogRecord>>,
    pub(crate) log_sequences: BTreeMap<BatchId, u64>,
}

impl Group {
    pub(crate) fn is_empty(&self) -> bool {
        let Self {
            new_jobs,
            jobs,
            warnings,
            frames,
            started_batches,
            ended_batches,
            nodes,
            log,
            log_sequences,
        } = self;
        new_jobs.is_empty()
            && jobs.is_empty()
            && warnings.is_empty()
            && frames.is_empty()
            && started_batches.is_empty()
            && ended_batches.is_empty()
            && nodes.is_empty()
            && log.is_empty()
            && log_sequences.is_empty()
    }

    pub(crate) fn end_batch(&mut self, batch: BatchId) {
        self.log_sequences.remove(&batch);
        if self.started_batches.remove(&batch).is_none() {
            self.ended_batches.insert(batch);
        }
    }
}

/// Which life of which store this is.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) store_id: Arc<str>,
    pub(crate) epoch: crate::domain::Epoch,
}

/// Everything that a new life goes on from.
#[derive(Debug, Default)]
pub(crate) struct Remembered {
    pub(crate) open_jobs: Vec<(JobRecord, Remains)>,
    pub(crate) batches: Vec<(BatchId, BatchRecord)>,
    pub(crate) nodes: Vec<(NodeName, NodeRecord)>,
    /// The highest job number ever given.
    pub(crate) last_job: u64,
    /// Commits of all lives.
    pub(crate) commits: u64,
}

/// What is to be known of a job's frames to go on with it.
#[derive(Debug, Default)]
pub(crate) struct Remains {
    /// Frames that are finished.
    pub(crate) finished: Vec<i32>,
    /// Frames that failed, and open ones that have a history, each with the tries behind it.
    pub(crate) tried: Vec<(i32, FrameState, Attempts)>,
    pub(crate) next_log_line: u64,
}

/// What the store could not do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("the disk that holds the database is full")]
    Full,
    #[error(
        "the disk that holds the database has {free_bytes} bytes left, of which {reserve_bytes} are kept for \
         the frames of jobs that are there; make room"
    )]
    Low { free_bytes: u64, reserve_bytes: u64 },
    #[error(
        "another orchestrator has opened the store since; this one stops, because only one may give work away"
    )]
    Superseded,
    #[error(
        "the database is damaged ({0}); `framecrew-orchestrator check` tells where. Go on from a copy made by \
         `framecrew-orchestrator backup`, or begin anew with another folder: nothing was changed"
    )]
    Corrupt(String),
    #[error("the database failed: {0}")]
    Database(#[source] sqlx::Error),
    #[error("the database holds something unreadable in {what}: {detail}")]
    Unreadable { what: &'static str, detail: String },
}

/// A database. Reads see what was committed and nothing else.
pub(crate) trait Store: Debug + Send + Sync + 'static {
    /// Writes a group, whole and durable, or not at all; refused once another orchestrator has opened the store.
    fn commit<'a>(&'a self, group: &'a Group) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Refused when what is left on the disk is for the jobs that are there.
    fn check_room(&self) -> Result<(), StoreError>;

    /// Refused once another orchestrator has opened the store.
    fn check_epoch(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// What a new life goes on from.
    fn remember(&self) -> BoxFuture<'_, Result<Remembered, StoreError>>;

    /// The job that a request made.
    fn find_request<'a>(
        &'a self,
        request_id: &'a str,
    ) -> BoxFuture<'a, Result<Option<(JobId, Request)>, StoreError>>;

    /// A job.
    fn job(&self, job: JobId) -> BoxFuture<'_, Result<Option<JobRecord>, StoreError>>;

    /// A job without its project, which may be long.
    fn job_without_project(
        &self,
        job: JobId,
    ) -> BoxFuture<'_, Result<Option<JobRecord>, StoreError>> {
        let below = JobId(job.0.saturating_add(1));
        async move {
            let found = self.jobs_before(below, 1).await?.pop();
            Ok(found.filter(|record| record.job == job))
        }
        .boxed()
    }

    /// Jobs below a number, without their projects, highest first, at most `limit`.
    fn jobs_before(
        &self,
        before: JobId,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<JobRecord>, StoreError>>;

    /// Frames of a job that have rows, above a number, lowest first, at most `limit`.
    fn frames_after(
        &self,
        job: JobId,
        after: i64,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<Frame>, StoreError>>;

    /// Frames of a job that changed after a revision, in that order, at most `limit`.
    fn frames_changed(
        &self,
        job: JobId,
        after: Revision,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<Frame>, StoreError>>;

    /// A job without its project, with the state of each of its frames that has a row and the latest `troubled_max` frames with
    /// failed tries, all of the same moment.
    fn snapshot(
        &self,
        job: JobId,
        troubled_max: u32,
    ) -> BoxFuture<'_, Result<Option<Snapshot>, StoreError>>;

    /// Log lines of a job from `line` on, at most `limit`; of one frame, or of all.
    fn log(
        &self,
        job: JobId,
        frame: Option<i32>,
        line: u64,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<LogRecord>, StoreError>>;

    /// Every blob that a job needs: of its project, and of what its frames produced; some more than once.
    fn pins<'a>(
        &'a self,
        each: &'a mut (dyn FnMut(Digest) + Send),
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// What of a job's frames is to be known to go on with it. Costs some ten milliseconds for each hundred
    /// thousand of them.
    fn remains(&self, job: JobId) -> BoxFuture<'_, Result<Remains, StoreError>>;
}

/// A job at one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) job: JobRecord,
    /// By frame number.
    pub(crate) states: Vec<(i32, FrameState)>,
    pub(crate) troubled: Vec<Frame>,
}

/// Makes a folder that a store can rely on, with those above it: all are durable under their names.
pub(crate) fn make_folder(folder: &Path) -> io::Result<()> {
    let missing = folder.ancestors().take_while(|above| !above.is_dir()).count();
    fs::create_dir_all(folder)?;
    // One that is there may have been made by a life that ended before it was durable.
    for made in folder.canonicalize()?.ancestors().take(missing.max(1)) {
        match made.parent().map(sync_folder) {
            // A folder that may not be read belongs to somebody who made it long ago.
            Some(Err(error)) if error.kind() != io::ErrorKind::PermissionDenied => {
                return Err(error);
            }
            _ => {}
        }
    }
    Ok(())
}

/// Makes the names in a folder durable. Only Unix can.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// A point around a commit at which a test may have the process end, as by `kill -9`:
/// `FAILPOINTS=commit-before=1%return`.
#[cfg(feature = "failpoints")]
pub(crate) fn point(name: &'static str) {
    fail::fail_point!(name, |_| std::process::abort());
}

/// Nothing, in what people get.
#[cfg(not(feature = "failpoints"))]
pub(crate) fn point(_: &'static str) {}
