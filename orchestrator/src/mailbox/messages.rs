//! The messages that the driver takes, and what it answers.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::errors::{MembershipError, RetryError, SubmitError};
use crate::{
    domain::{
        BatchId, BlenderVersion, Failure, FrameSet, Incarnation, JobId, JobSpec, NodeDescription,
        NodeName, Progress, Rendered, Slice, Warning,
    },
    store::{JobRecord, Request},
};

/// One thing that a node reported about a batch, or that dispatch found out about it.
#[derive(Debug)]
pub(crate) enum BatchReport {
    Started(Slice),
    Progress(Slice, Progress),
    Finished(Slice, Rendered),
    Failed(Slice, Failure),
    /// Log lines. After a restart the node sends them again; `sequence` identifies those that are stored.
    Log {
        sequence: u64,
        lines: Vec<(Option<i32>, String)>,
        dropped: u64,
    },
    Warning(Warning),
    /// The node refused the batch, with its reason, or never received it.
    Refused(Option<String>),
    /// No call for the batch has succeeded for this long.
    Unreachable(Duration),
    /// The node had the batch and no longer knows it: that incarnation of the node has ended.
    Unknown,
    Ended,
}

/// A validated job, ready to be stored.
#[derive(Debug)]
pub(crate) struct NewJob {
    pub(crate) request: Request,
    pub(crate) spec: Arc<JobSpec>,
    pub(crate) file_version: BlenderVersion,
}

/// A node that wants to join.
#[derive(Debug, Clone)]
pub(crate) struct Registration {
    pub(crate) node: NodeName,
    pub(crate) incarnation: Incarnation,
    pub(crate) address: String,
    pub(crate) description: NodeDescription,
    /// The batches that the node holds.
    pub(crate) batches: Vec<BatchId>,
    /// Where the node's process itself listens, if it runs on this machine.
    pub(crate) neighbour: Option<SocketAddr>,
    /// The address of an earlier process of that name that has certainly ended.
    pub(crate) replaces: Option<String>,
}

/// The answer to a registration.
#[derive(Debug)]
pub(crate) struct Welcome {
    /// The node's batches that it is to abandon.
    pub(crate) abandoned: Vec<BatchId>,
    /// Every batch below this one that the node does not hold is over. If one arrives late, the node must not
    /// render it.
    pub(crate) first_batch: BatchId,
}

/// What happens to a frame that a node finished in a batch that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Adoption {
    /// The frame is durably finished with these outputs.
    Adopted,
    /// The frame is no longer open, or never was.
    Unwanted,
    /// The frame is open, but some of its outputs are not stored.
    BlobsMissing,
}

/// A finished frame that belongs to no batch of its node.
#[derive(Debug)]
pub(crate) struct Orphan {
    pub(crate) job: JobId,
    pub(crate) slice: Slice,
    pub(crate) rendered: Rendered,
    /// Whether the blob store holds its outputs as described.
    pub(crate) is_stored: bool,
}

/// A node that renews its lease.
pub(crate) struct Heartbeat {
    pub(crate) node: NodeName,
    pub(crate) incarnation: Incarnation,
    /// The batches that the node holds.
    pub(crate) batches: Vec<BatchId>,
    /// The node will render no batch below this one except those it holds now.
    pub(crate) first_batch: BatchId,
    pub(crate) draining: bool,
    pub(crate) reply: oneshot::Sender<Result<Vec<BatchId>, MembershipError>>,
}

/// The job, and how many of its frames are open again.
pub(crate) type RetryReply = oneshot::Sender<Result<(JobRecord, u64), RetryError>>;

/// The job, and whether an earlier call had made it.
pub(crate) type SubmitReply = oneshot::Sender<Result<(JobRecord, bool), SubmitError>>;

/// A request to the driver. Heartbeats travel apart.
pub(crate) enum Command {
    Submit(NewJob, SubmitReply),
    Cancel(JobId, oneshot::Sender<()>),
    Register(Box<Registration>, oneshot::Sender<Result<Welcome, MembershipError>>),
    Retry(JobId, Option<FrameSet>, RetryReply),
    Adopt {
        node: NodeName,
        incarnation: Incarnation,
        orphans: Vec<Orphan>,
        reply: oneshot::Sender<Result<Vec<Adoption>, MembershipError>>,
    },
    Unregister {
        node: NodeName,
        incarnation: Incarnation,
        reply: oneshot::Sender<()>,
    },
    Batch(BatchId, Vec<BatchReport>),
}
