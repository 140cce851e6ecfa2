//! How everyone else talks to the driver.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::{
    blobs::{BlobError, Blobs},
    domain::{
        BatchId, FrameSet, Incarnation, JobId, NodeDescription, NodeName, Rendered, Slice, Warning,
    },
    feed::Progress,
    store::{JobRecord, Request, StoreError},
};

/// Commands that wait for the driver: two updates a second from 500 nodes for a second. Senders wait beyond it.
const COMMANDS_MAX: usize = 1_024;
/// Heartbeats that wait for it, which is for as long as it decides: one of each of 500 nodes, and some that were repeated.
const HEARTBEATS_MAX: usize = 1_024;
/// How long a caller waits for the driver: while the store fails, nobody is left hanging.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// How long a person waits for something that cannot be written now.
const HELD_FOR: Duration = Duration::from_secs(5);

/// Something that a node said of a batch.
#[derive(Debug)]
pub(crate) enum BatchNews {
    Started(Slice),
    Progress(Slice, Progress),
    Finished(Slice, Rendered),
    Failed(Slice, crate::domain::Failure),
    /// What a restart replays is known by the event's sequence.
    Log {
        sequence: u64,
        lines: Vec<(Option<i32>, String)>,
        dropped: u64,
    },
    Warning(Warning),
    /// The node would not take it, and why; or it never had it.
    Refused(Option<String>),
    /// No call for it has got through for so long.
    Unreachable(Duration),
    /// The node had it and does not know it any more: that life of the node is over.
    Unknown,
    Ended,
}

/// A job as it is handed in, checked.
#[derive(Debug)]
pub(crate) struct NewJob {
    pub(crate) request: Request,
    pub(crate) spec: Arc<crate::domain::JobSpec>,
    pub(crate) file_version: crate::domain::BlenderVersion,
}

/// Why a job is not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SubmitError {
    #[error("request_id was used for another job, {0}; choose a new one")]
    RequestIdTaken(JobId),
    #[error("the job was not accepted: {0}; nothing was made, try again later")]
    Store(#[from] StoreError),
    #[error("the orchestrator cannot write to its store; nothing was made, try again later")]
    StoreFailing,
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
}

/// Why the driver gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    #[error("the orchestrator is shutting down; try again when it is back")]
    ShuttingDown,
    /// It may still do what was asked.
    #[error("the orchestrator has no answer yet; ask again")]
    Late,
    #[error(
        "the orchestrator cannot write to its store now, perhaps because its disk is full (its log tells): what was \
         asked for waits until it can, and may still be done"
    )]
    Held,
}

/// A node that wants to join.
#[derive(Debug, Clone)]
pub(crate) struct Registration {
    pub(crate) node: NodeName,
    pub(crate) incarnation: Incarnation,
    pub(crate) address: String,
    pub(crate) description: NodeDescription,
    pub(crate) batches: Vec<BatchId>,
    /// Where its process itself listens, if that is on this machine.
    pub(crate) neighbour: Option<SocketAddr>,
    /// The address of a former process of that name that is certain to have ended.
    pub(crate) replaces: Option<String>,
}

/// What a node is told when it has joined.
#[derive(Debug)]
pub(crate) struct Welcome {
    /// Those of its batches that it is to abandon.
    pub(crate) abandoned: Vec<BatchId>,
    /// Batches below, other than those it holds, are over: one that arrives late is not to be rendered.
    pub(crate) first_batch: BatchId,
}

/// Why a node may not do that.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MembershipError {
    #[error("node {0} is not registered here; register again")]
    NotRegistered(NodeName),
    #[error(
        "node {node} is heard of, but cannot be reached at {address}; register again, from an address (--listen, \
         --advertise) that other machines reach"
    )]
    Unreachable { node: NodeName, address: String },
    #[error("a newer incarnation of node {0} is registered")]
    NewerIncarnation(NodeName),
    #[error(
        "a node at {address} has the name {node}, and it is not certain yet that it has ended: `framecrew nodes` tells \
         until when; wait, or choose another name with --name"
    )]
    NameTaken {
        node: NodeName,
        address: String,
        /// Where that process itself listens, if that is on this machine.
        neighbour: Option<SocketAddr>,
    },
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
}

/// Why frames are not tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RetryError {
    #[error("there is no such job")]
    NotFound,
    #[error("the job was cancelled, and stays so; submit it again to render its frames")]
    Cancelled,
    #[error("the frames were not looked up: {0}; nothing was changed, try again later")]
    Store(#[from] StoreError),
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
}

/// Why finished frames are not looked at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdoptError {
    #[error(transparent)]
    Membership(#[from] MembershipError),
    #[error("the frames' outputs cannot be checked: {0}; keep them, and try again later")]
    Blobs(#[from] BlobError),
}

/// What becomes of a frame that a node has finished in a batch that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Adoption {
    /// It is finished with these outputs, durably.
    Adopted,
    /// It is not open any more, or never was.
    Unwanted,
    /// It is open, and not all of its outputs are stored.
    BlobsMissing,
}

/// A finished frame that is in no batch of its node.
#[derive(Debug)]
pub(super) struct Orphan {
    pub(super) job: JobId,
    pub(super) slice: Slice,
    pub(super) rendered: Rendered,
    /// Whether its outputs are in the blob store, as promised.
    pub(super) is_stored: bool,
}

/// A node that renews its lease.
pub(super) struct Heartbeat {
    pub(super) node: NodeName,
    pub(super) incarnation: Incarnation,
    pub(super) batches: Vec<BatchId>,
    /// Of those below it will render none that it does not hold now.
    pub(super) first_batch: BatchId,
    pub(super) draining: bool,
    pub(super) reply: oneshot::Sender<Result<Vec<BatchId>, MembershipError>>,
}

/// The job, and how many of its frames are open again.
pub(super) type RetryReply = oneshot::Sender<Result<(JobRecord, u64), RetryError>>;

/// The job, and whether an earlier call had made it.
pub(super) type SubmitReply = oneshot::Sender<Result<(JobRecord, bool), SubmitError>>;

/// What the driver is asked for.
pub(super) enum Command {
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
    Batch(BatchId, Vec<BatchNews>),
}

/// Whether what was decided can be written.
#[derive(Debug, Default)]
pub(super) struct StoreHealth {
    fails: AtomicBool,
    /// When a commit was held last.
    held_at: Mutex<Option<Instant>>,
}

impl StoreHealth {
    pub(super) fn failed(&self) {
        self.fails.store(true, Ordering::Relaxed);
    }

    /// Notes that a commit went through. Says whether those before had failed.
    pub(super) fn recovered(&self) -> bool {
        let mut held_at = self.held_at.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = self.fails.swap(false, Ordering::Relaxed);
        if failed {
            *held_at = Some(Instant::now());
        }
        failed
    }

    fn failed_within(&self, time: Duration) -> bool {
        let held_at = self.held_at.lock().unwrap_or_else(PoisonError::into_inner);
        self.fails.load(Ordering::Relaxed) || held_at.is_some_and(|at| at.elapsed() < time)
    }
}

/// How everyone else talks to the driver. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct DriverHandle {
    commands: mpsc::Sender<Command>,
    heartbeats: mpsc::Sender<Heartbeat>,
    store_health: Arc<StoreHealth>,
    /// Whether no more jobs are accepted.
    closed: Arc<AtomicBool>,
    blobs: Blobs,
}

impl DriverHandle {
    /// Accepts no more jobs from now on; all else goes on.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Whether a commit is held because the store fails, or one was within `time`: jobs may need blobs that the
    /// store does not name yet.
    pub(crate) fn store_failed_within(&self, time: Duration) -> bool {
        self.store_health.failed_within(time)
    }

    /// Answers when the job is durable: the job, and whether an earlier call had made it.
    pub(crate) async fn submit(&self, job: NewJob) -> Result<(JobRecord, bool), SubmitError> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(NoAnswer::ShuttingDown.into());
        }
        if self.store_health.fails.load(Ordering::Relaxed) {
            return Err(SubmitError::StoreFailing);
        }
        let answer = self.ask(|reply| Command::Submit(job, reply)).await;
        answer?
    }

    /// Answers when the job, if it was open, is durably cancelled.
    pub(crate) async fn cancel(&self, job: JobId) -> Result<(), NoAnswer> {
        self.unless_held(self.ask(|reply| Command::Cancel(job, reply))).await
    }

    /// Answers when the node is known durably.
    pub(crate) async fn register(
        &self,
        registration: Registration,
    ) -> Result<Welcome, MembershipError> {
        let answer = self.ask(|reply| Command::Register(Box::new(registration), reply)).await;
        answer?
    }

    /// Answers with those of the node's batches that it is to abandon; also while a commit is held. Of those below
    /// `first_batch` it will render none but these. `draining`: the node is about to leave, and gets nothing new.
    pub(crate) async fn heartbeat(
        &self,
        node: NodeName,
        incarnation: Incarnation,
        batches: Vec<BatchId>,
        first_batch: BatchId,
        draining: bool,
    ) -> Result<Vec<BatchId>, MembershipError> {
        let (reply, answer) = oneshot::channel();
        let heartbeat = Heartbeat { node, incarnation, batches, first_batch, draining, reply };
        in_time(&self.heartbeats, heartbeat, answer).await?
    }

    /// Answers when failed frames of a job, those of `frames` or all of them, are durably open again: the job,
    /// and how many they are. A job that had failed goes on.
    pub(crate) async fn retry_frames(
        &self,
        job: JobId,
        frames: Option<FrameSet>,
    ) -> Result<(JobRecord, u64), RetryError> {
        self.unless_held(self.ask(|reply| Command::Retry(job, frames, reply))).await?
    }

    /// Takes in frames that a node finished in batches that are not its own any more. Answers, in their order,
    /// when those that were open are durably finished.
    pub(crate) async fn adopt(
        &self,
        node: NodeName,
        incarnation: Incarnation,
        frames: Vec<(JobId, Slice, Rendered)>,
    ) -> Result<Vec<Adoption>, AdoptError> {
        let orphans = self.checked(frames).await?;
        let answer = self.ask(|reply| Command::Adopt { node, incarnation, orphans, reply }).await;
        Ok(answer.map_err(MembershipError::from)??)
    }

    /// Looks whether the frames' outputs are stored; those that are stay so for an hour.
    async fn checked(
        &self,
        frames: Vec<(JobId, Slice, Rendered)>,
    ) -> Result<Vec<Orphan>, BlobError> {
        let promised = frames.iter().flat_map(|(_, _, rendered)| rendered.blobs());
        let broken = self.blobs.broken(promised.collect()).await?;
        let mut orphans = Vec::with_capacity(frames.len());
        for (job, slice, mut rendered) in frames {
            let is_stored = !rendered.blobs().any(|blob| broken.contains_key(&blob));
            // A frame without its small picture is a frame all the same.
            if let Some(preview) = &rendered.preview
                && !self.blobs.contains(preview.digest).await?
            {
                rendered.preview = None;
            }
            orphans.push(Orphan { job, slice, rendered, is_stored });
        }
        Ok(orphans)
    }

    /// Answers when the node's work is free for others.
    pub(crate) async fn unregister(
        &self,
        node: NodeName,
        incarnation: Incarnation,
    ) -> Result<(), NoAnswer> {
        self.ask(|reply| Command::Unregister { node, incarnation, reply }).await
    }

    /// Reports what a node said of a batch. Waits while the driver has much to do.
    pub(crate) async fn report(&self, batch: BatchId, news: Vec<BatchNews>) {
        // Fails only when the driver has stopped, and with it everyone who could care.
        let _ = self.commands.send(Command::Batch(batch, news)).await;
    }

    /// Waits for an answer while the store takes writes.
    async fn unless_held<T>(
        &self,
        answer: impl Future<Output = Result<T, NoAnswer>>,
    ) -> Result<T, NoAnswer> {
        tokio::pin!(answer);
        loop {
            match tokio::time::timeout(HELD_FOR, &mut answer).await {
                Ok(answer) => return answer,
                Err(_) if self.store_health.fails.load(Ordering::Relaxed) => {
                    return Err(NoAnswer::Held);
                }
                Err(_) => {}
            }
        }
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, NoAnswer> {
        let (reply, answer) = oneshot::channel();
        in_time(&self.commands, command(reply), answer).await
    }
}

/// Asks, and waits for the answer.
async fn in_time<Q, A>(
    to: &mpsc::Sender<Q>,
    question: Q,
    answer: oneshot::Receiver<A>,
) -> Result<A, NoAnswer> {
    let asking = async {
        to.send(question).await.ok()?;
        answer.await.ok()
    };
    match tokio::time::timeout(ANSWER_WITHIN, asking).await {
        Ok(answer) => answer.ok_or(NoAnswer::ShuttingDown),
        Err(_) => Err(NoAnswer::Late),
    }
}

/// The mailbox of a driver that is yet to be made: what serves it needs the handle first.
pub(crate) fn mailbox(blobs: Blobs) -> (DriverHandle, Mailbox) {
    let (command_sender, commands) = mpsc::channel(COMMANDS_MAX);
    let (heartbeat_sender, heartbeats) = mpsc::channel(HEARTBEATS_MAX);
    let store_health = Arc::new(StoreHealth::default());
    let handle = DriverHandle {
        commands: command_sender,
        heartbeats: heartbeat_sender,
        store_health: store_health.clone(),
        closed: Arc::default(),
        blobs,
    };
    (handle, Mailbox { commands, heartbeats, store_health })
}

/// Where the driver reads what it is asked.
pub(crate) struct Mailbox {
    pub(super) commands: mpsc::Receiver<Command>,
    /// Apart from the commands: they are answered while those wait for a commit.
    pub(super) heartbeats: mpsc::Receiver<Heartbeat>,
    pub(super) store_health: Arc<StoreHealth>,
}
