//! Records: the values that a store takes and returns.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::domain::{
    Attempts, BatchId, BlenderVersion, Epoch, Frame, FrameCounts, FrameState, Incarnation, JobId,
    JobSpec, JobState, NodeDescription, NodeName, Requirements, Revision, Slice, Warning,
};

/// Log lines kept of one job; older ones are dropped, and readers learn how many.
pub(crate) const LOG_LINES_MAX: u64 = 10_000;

/// A job and its latest committed state.
#[derive(Debug, Clone)]
pub(crate) struct JobRecord {
    pub(crate) job: JobId,
    pub(crate) spec: Arc<JobSpec>,
    pub(crate) file_version: BlenderVersion,
    pub(crate) submitted_at_ms: i64,
    pub(crate) status: JobStatus,
}

/// The part of a job that changes. Cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JobStatus {
    pub(crate) state: JobState,
    pub(crate) counts: FrameCounts,
    pub(crate) revision: Revision,
    /// Milliseconds since 1970; 0 before.
    pub(crate) started_at_ms: i64,
    /// Milliseconds since 1970; 0 before.
    pub(crate) ended_at_ms: i64,
    /// Problems of frames that rendered nevertheless, in the order of their reports, without duplicates.
    pub(crate) warnings: Arc<[Warning]>,
    /// The job that encodes a movie from its frames.
    pub(crate) movie_job: Option<JobId>,
}

impl JobRecord {
    /// A new job.
    pub(crate) fn submitted(
        job: JobId,
        spec: Arc<JobSpec>,
        file_version: BlenderVersion,
        submitted_at_ms: i64,
    ) -> Self {
        let counts = FrameCounts { open: spec.frames.count(), ..FrameCounts::default() };
        let status = JobStatus {
            state: JobState::Queued,
            counts,
            revision: 1,
            started_at_ms: 0,
            ended_at_ms: 0,
            warnings: Arc::default(),
            movie_job: None,
        };
        Self { job, spec, file_version, submitted_at_ms, status }
    }

    pub(crate) fn requirements(&self) -> Requirements {
        self.spec.requirements(self.file_version)
    }
}

/// The request that made a job. Submitting it again finds that job.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) request_id: String,
    pub(crate) fingerprint: String,
}

/// A batch that a node has.
#[derive(Debug, Clone)]
pub(crate) struct BatchRecord {
    pub(crate) job: JobId,
    pub(crate) node: NodeName,
    pub(crate) slices: Vec<Slice>,
    /// Sequence number of its latest event whose log lines are stored.
    pub(crate) log_sequence: u64,
}

/// A registered node.
#[derive(Debug, Clone)]
pub(crate) struct NodeRecord {
    pub(crate) incarnation: Incarnation,
    pub(crate) address: String,
    pub(crate) description: NodeDescription,
}

/// A line of a job's log.
#[derive(Debug, Clone)]
pub(crate) struct LogRecord {
    pub(crate) line: u64,
    pub(crate) frame: Option<i32>,
    pub(crate) node: NodeName,
    pub(crate) at_ms: i64,
    pub(crate) text: String,
}

/// The changes of one commit. Later states of the same thing replace earlier ones.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) new_jobs: Vec<(Request, JobRecord)>,
    /// New states of jobs; their warnings are not written from here.
    pub(crate) jobs: BTreeMap<JobId, JobStatus>,
    /// New warnings, each with its index among those of its job, from 0.
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

/// Names a store and the run of the orchestrator that opened it.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) store_id: Arc<str>,
    pub(crate) epoch: Epoch,
}

impl Identity {
    /// The next opening of a store; `None` for a new store.
    pub(crate) fn next(latest: Option<&Self>) -> Self {
        // At least the seconds since 1970, so that nodes see it rise also when the data folder is a new one.
        let seconds = u32::try_from(crate::clock::wall_ms() / 1_000).unwrap_or(1).max(1);
        let store_id = latest.map(|latest| latest.store_id.clone());
        Self {
            store_id: store_id.unwrap_or_else(|| uuid::Uuid::new_v4().simple().to_string().into()),
            epoch: Epoch(latest.map_or(seconds, |latest| seconds.max(latest.epoch.0 + 1))),
        }
    }
}

/// Everything that a restarted orchestrator goes on from.
#[derive(Debug, Default)]
pub(crate) struct RestoredState {
    pub(crate) open_jobs: Vec<(JobRecord, JobProgressRecord)>,
    pub(crate) batches: Vec<(BatchId, BatchRecord)>,
    pub(crate) nodes: Vec<(NodeName, NodeRecord)>,
    /// The highest job number ever given.
    pub(crate) last_job: u64,
    /// Commits of all orchestrators so far.
    pub(crate) commits: u64,
}

/// The facts about a job's frames that a restarted orchestrator needs.
#[derive(Debug, Default)]
pub(crate) struct JobProgressRecord {
    /// Finished frames.
    pub(crate) finished: Vec<i32>,
    /// Frames that failed, and open ones that were tried, each with its failed attempts.
    pub(crate) tried: Vec<(i32, FrameState, Attempts)>,
    pub(crate) next_log_line: u64,
}

/// A job at one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) job: JobRecord,
    /// Ordered by frame number.
    pub(crate) states: Vec<(i32, FrameState)>,
    pub(crate) troubled: Vec<Frame>,
}
