//! What everyone may say to the driver. The service and dispatch hold a [`DriverHandle`]; the driver serves the
//! [`Mailbox`]. So neither needs the driver's module, and the driver needs neither's.

mod errors;
mod messages;

use std::{
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

pub(crate) use self::{
    errors::{AdoptError, MembershipError, NoAnswer, RetryError, SubmitError},
    messages::{
        Adoption, BatchReport, Command, Heartbeat, NewJob, Orphan, Registration, RetryReply,
        SubmitReply, Welcome,
    },
};
use crate::{
    blobs::{BlobError, Blobs},
    domain::{BatchId, FrameSet, Incarnation, JobId, NodeName, Rendered, Slice},
    store::JobRecord,
};

/// Commands that wait for the driver: two updates a second from 500 nodes for a second. Senders wait beyond it.
const COMMANDS_MAX: usize = 1_024;
/// Heartbeats that wait while the driver decides: one from each of 500 nodes, and some repeats.
const HEARTBEATS_MAX: usize = 1_024;
/// How long a caller waits for the driver, so that nobody hangs while the store fails.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long a caller waits while the store takes no writes. A person waits for it.
const HELD_FOR: Duration = Duration::from_secs(5);

/// Whether the store takes writes.
#[derive(Debug, Default)]
pub(crate) struct StoreHealth {
    fails: AtomicBool,
    /// When a commit was last held.
    held_at: Mutex<Option<Instant>>,
}

impl StoreHealth {
    pub(crate) fn failed(&self) {
        self.fails.store(true, Ordering::Relaxed);
    }

    /// Notes that a commit succeeded. Returns whether earlier ones had failed.
    pub(crate) fn recovered(&self) -> bool {
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

/// Sends requests to the driver. Cheap to clone.
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
    /// Refuses jobs from now on; everything else continues.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Whether a commit is held because the store fails, or was within `time`. Then jobs may need blobs that the
    /// store does not list yet.
    pub(crate) fn store_failed_within(&self, time: Duration) -> bool {
        self.store_health.failed_within(time)
    }

    /// Returns once the job is durable: the job, and whether an earlier call had made it.
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

    /// Returns once the job, if it was open, is durably cancelled.
    pub(crate) async fn cancel(&self, job: JobId) -> Result<(), NoAnswer> {
        self.unless_held(self.ask(|reply| Command::Cancel(job, reply))).await
    }

    /// Returns once the node is durably registered.
    pub(crate) async fn register(
        &self,
        registration: Registration,
    ) -> Result<Welcome, MembershipError> {
        let answer = self.ask(|reply| Command::Register(Box::new(registration), reply)).await;
        answer?
    }

    /// Returns the batches that the node is to abandon, out of `batches`; answers also while a commit is held. The
    /// node will render no batch below `first_batch` except `batches`. `draining`: the node is about to leave, and
    /// gets nothing new.
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

    /// Returns once the job's failed frames, or those among `frames`, are durably open again: the job, and their
    /// number. A failed job becomes open again.
    pub(crate) async fn retry_frames(
        &self,
        job: JobId,
        frames: Option<FrameSet>,
    ) -> Result<(JobRecord, u64), RetryError> {
        self.unless_held(self.ask(|reply| Command::Retry(job, frames, reply))).await?
    }

    /// Adopts frames that a node finished in batches that it no longer holds. Returns once those that were open are
    /// durably finished; the answers are in the order of `frames`.
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

    /// Checks that the frames' outputs are stored. Those that are stay stored for an hour.
    async fn checked(
        &self,
        frames: Vec<(JobId, Slice, Rendered)>,
    ) -> Result<Vec<Orphan>, BlobError> {
        let promised = frames.iter().flat_map(|(_, _, rendered)| rendered.blobs());
        let broken = self.blobs.broken(promised.collect()).await?;
        let mut orphans = Vec::with_capacity(frames.len());
        for (job, slice, mut rendered) in frames {
            let is_stored = !rendered.blobs().any(|blob| broken.contains_key(&blob));
            // A frame is complete without its preview.
            if let Some(preview) = &rendered.preview
                && !self.blobs.contains(preview.digest).await?
            {
                rendered.preview = None;
            }
            orphans.push(Orphan { job, slice, rendered, is_stored });
        }
        Ok(orphans)
    }

    /// Returns once the node's work is free for others.
    pub(crate) async fn unregister(
        &self,
        node: NodeName,
        incarnation: Incarnation,
    ) -> Result<(), NoAnswer> {
        self.ask(|reply| Command::Unregister { node, incarnation, reply }).await
    }

    /// Reports on a batch. Waits while the driver is busy.
    pub(crate) async fn report(&self, batch: BatchId, reports: Vec<BatchReport>) {
        // Fails only after the driver has stopped: then nothing needs the report.
        let _ = self.commands.send(Command::Batch(batch, reports)).await;
    }

    /// Waits for an answer, but gives up early while the store takes no writes.
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

/// Sends a question and waits for its answer, for [`ANSWER_WITHIN`] at most.
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

/// Creates the mailbox before its driver exists: dispatch, which the driver owns, needs the handle.
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

/// The driver's end.
pub(crate) struct Mailbox {
    pub(crate) commands: mpsc::Receiver<Command>,
    /// Separate from the commands: the driver answers heartbeats while commands wait for a commit.
    pub(crate) heartbeats: mpsc::Receiver<Heartbeat>,
    pub(crate) store_health: Arc<StoreHealth>,
}
