//! The node as its services see it: what they send to its [owner](crate::owner), and what they may know of it.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use framecrew_proto::v1::{NodeDescription, NodeStatus, batch_event};
use futures::FutureExt as _;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use crate::{
    batch::{Batch, Work},
    core::{BatchId, Call, Event, JournalId, Needs, Refusal, Request, Shortage, View},
    goodbye::Goodbye,
    movie::Ffmpeg,
    outbox::Outbox,
    platform,
    project::Projects,
    renderer::Slots,
    uploads::Uploads,
};

/// Free space below which no batch is accepted, in bytes: a few large frames must fit.
pub(crate) const FREE_BYTES_MIN: u64 = 256 << 20;

/// Commands that wait for the owner: one from each batch that a node keeps, and as many calls.
const COMMANDS_MAX: usize = 512;

/// How long a node that leaves waits for its last batches to be settled.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(3);

/// A machine that renders. Its batches, its lease and its store belong to its owner: this sends commands there and
/// reads the latest view.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) incarnation: u64,
    /// What is known from the beginning; the rest comes with [`Node::description`].
    fixed: NodeDescription,
    pub(crate) slots: Slots,
    pub(crate) projects: Projects,
    pub(crate) outbox: Outbox,
    pub(crate) uploads: Uploads,
    pub(crate) goodbye: Goodbye,
    /// Whether an orchestrator may know this incarnation.
    pub(crate) announced: AtomicBool,
    /// Private folders of frames that are being rendered.
    pub(crate) work: PathBuf,
    /// Ends when the node shuts down.
    pub(crate) stopping: CancellationToken,
    free_bytes_min: u64,
    equipment: watch::Sender<Option<Equipment>>,
    commands: mpsc::Sender<Command>,
    view: watch::Sender<View>,
    /// Batches that render, and journals that are being deleted.
    pub(crate) running: TaskTracker,
}

/// The programs that this machine has.
#[derive(Debug, Clone)]
pub(crate) struct Equipment {
    /// Makes movies.
    pub(crate) ffmpeg: Option<Ffmpeg>,
}

/// What a node is made of.
pub(crate) struct Parts {
    pub(crate) name: String,
    pub(crate) incarnation: u64,
    pub(crate) description: NodeDescription,
    pub(crate) slots: Slots,
    pub(crate) projects: Projects,
    pub(crate) outbox: Outbox,
    pub(crate) uploads: Uploads,
    pub(crate) goodbye: Goodbye,
    pub(crate) work: PathBuf,
    /// Usually `FREE_BYTES_MIN`.
    pub(crate) free_bytes_min: u64,
}

/// An event for the owner, and the caller that waits for what the core decides.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) event: Event,
    pub(crate) caller: Caller,
}

/// Waits for the owner. If the owner ends first, the caller's channel closes.
#[derive(Debug)]
pub(crate) enum Caller {
    /// Nothing waits.
    None,
    /// Waits until the event is handled.
    Notified(oneshot::Sender<()>),
    /// Asks for a batch.
    Requester(Box<Work>, oneshot::Sender<Result<Arc<Batch>, Refusal>>),
    /// Asks for a batch that the node may know.
    Reader(oneshot::Sender<Result<Option<Arc<Batch>>, Refusal>>),
    /// Reports on a slice; the answer is whether its reader gets the event.
    Reporter(Box<batch_event::Event>, oneshot::Sender<bool>),
}

impl Node {
    /// A node, and what its owner receives.
    pub(crate) fn new(parts: Parts) -> (Self, mpsc::Receiver<Command>) {
        let (commands, received) = mpsc::channel(COMMANDS_MAX);
        let node = Self {
            name: parts.name,
            incarnation: parts.incarnation,
            fixed: parts.description,
            slots: parts.slots,
            projects: parts.projects,
            outbox: parts.outbox,
            uploads: parts.uploads,
            goodbye: parts.goodbye,
            announced: AtomicBool::new(false),
            work: parts.work,
            stopping: CancellationToken::new(),
            free_bytes_min: parts.free_bytes_min,
            equipment: watch::Sender::new(None),
            commands,
            view: watch::Sender::new(View::default()),
            running: TaskTracker::new(),
        };
        (node, received)
    }

    // What it is.

    /// What the node is and has, as far as it is known.
    pub(crate) fn description(&self) -> NodeDescription {
        let Some(equipment) = self.equipment.borrow().clone() else {
            // Not even Blenders that it could fetch are offered: the right one may be here.
            return self.fixed.clone();
        };
        NodeDescription {
            blenders: self.slots.blenders().into_iter().map(Into::into).collect(),
            ffmpeg: equipment.ffmpeg.map_or_else(String::new, |found| found.version().to_owned()),
            ..self.fixed.clone()
        }
    }

    /// What makes movies, if anything does.
    pub(crate) fn ffmpeg(&self) -> Option<Ffmpeg> {
        self.equipment.borrow().as_ref()?.ffmpeg.clone()
    }

    /// Takes note of the programs that this machine has.
    pub(crate) async fn equip(&self, ffmpeg: Option<Ffmpeg>) {
        let has_ffmpeg = ffmpeg.is_some();
        // The registration that follows includes the Blenders that have been found so far.
        let _ = self.slots.news.notified().now_or_never();
        // First: an orchestrator that reads the description may send a batch at once.
        self.settle(Event::Equipped { has_ffmpeg }).await;
        self.equipment.send_replace(Some(Equipment { ffmpeg }));
    }

    /// Notices when the node learns which programs this machine has.
    pub(crate) fn equipment(&self) -> watch::Receiver<Option<Equipment>> {
        self.equipment.subscribe()
    }

    pub(crate) fn slot_count(&self) -> u32 {
        self.fixed.slots
    }

    pub(crate) fn allows_scripts(&self) -> bool {
        self.fixed.allows_scripts
    }

    // What the orchestrator asks.

    /// Accepts a batch, which starts as soon as a slot is free. Batches in `settled` are forgotten first.
    pub(crate) async fn accept(
        &self,
        work: Work,
        epoch: u64,
        settled: &[u64],
    ) -> Result<Arc<Batch>, Refusal> {
        let kept = self.outbox.kept();
        let request = Request {
            call: Call {
                batch: BatchId(work.origin.batch_id),
                store_id: work.origin.store_id.clone(),
                epoch,
            },
            settled: settled.iter().copied().map(BatchId).collect(),
            silence: work.limits.node_silence,
            needs: Needs {
                scripts: work.settings.run_scripts || !work.addons.is_empty(),
                ffmpeg: work.encoding.is_some(),
            },
            shortage: Shortage {
                disk: self.low_disk().map(|free| (free, self.free_bytes_min)),
                outbox: kept.is_nearly_full.then_some(kept.bytes),
            },
        };
        let event = Event::BatchRequested(request);
        self.call(event, |reply| Caller::Requester(Box::new(work), reply))
            .await
            .unwrap_or(Err(Refusal::ShuttingDown))
    }

    /// A batch that the node knows. One that it does not know will never be accepted: the caller gives it to others.
    pub(crate) async fn attach(&self, call: Call) -> Result<Option<Arc<Batch>>, Refusal> {
        self.call(Event::BatchAttached(call), Caller::Reader)
            .await
            .unwrap_or(Err(Refusal::ShuttingDown))
    }

    /// Ends a batch and returns when its renderer is dead. Returns false if the node does not know it.
    pub(crate) async fn cancel(&self, call: Call) -> Result<bool, Refusal> {
        let called = self.call(Event::BatchCancelled(call), Caller::Reader).await;
        let batch = called.unwrap_or(Err(Refusal::ShuttingDown))?;
        match batch {
            Some(batch) => {
                batch.ended().await;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    // What its batches and its membership report.

    /// Reports on a slice. Returns whether the reader gets `event`; otherwise the batch has to end.
    pub(crate) async fn report(&self, about: Event, event: batch_event::Event) -> bool {
        self.call(about, |reply| Caller::Reporter(Box::new(event), reply)).await.unwrap_or(false)
    }

    /// Lets the owner know of something.
    pub(crate) async fn tell(&self, event: Event) {
        let _ = self.commands.send(Command { event, caller: Caller::None }).await;
    }

    /// Room for a message to the owner, so that what is done next and the message about it are one step.
    pub(crate) async fn reserve(&self) -> Option<mpsc::Permit<'_, Command>> {
        self.commands.reserve().await.ok()
    }

    /// Lets the owner know of something, and returns when the view is as new as that.
    pub(crate) async fn settle(&self, event: Event) {
        let _ = self.call(event, Caller::Notified).await;
    }

    /// `None`: the owner has ended.
    async fn call<T>(
        &self,
        event: Event,
        caller: impl FnOnce(oneshot::Sender<T>) -> Caller,
    ) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command { event, caller: caller(reply) }).await.ok()?;
        answer.await.ok()
    }

    // How it ends.

    /// Accepts nothing more, hands back what has not begun, and returns when everything else has ended and is settled,
    /// at the latest after `patience`.
    pub(crate) async fn drain(&self, patience: Duration) {
        self.settle(Event::Draining).await;
        let drained = async {
            let mut view = self.watch();
            if view.wait_for(|view| view.live.is_empty()).await.is_err() {
                return;
            }
            // The last events are on their way.
            let settled = view.wait_for(|view| view.held.is_empty() && view.journals == 0);
            let _ = time::timeout(SETTLE_TIMEOUT, settled).await;
        };
        if time::timeout(patience, drained).await.is_err() {
            warn!("drain timeout reached; returning unfinished frames to the queue");
        }
    }

    /// Accepts nothing more and returns when every renderer is dead.
    pub(crate) async fn stop(&self) {
        self.stopping.cancel();
        self.settle(Event::Stopping).await;
        self.slots.kill_idle();
        self.running.close();
        self.running.wait().await;
        // A batch that ended meanwhile has put its Blender back.
        self.slots.kill_idle();
    }

    // What others may know.

    /// What the owner published last.
    pub(crate) fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// Notices when the view or the outbox has changed.
    pub(crate) fn watch(&self) -> watch::Receiver<View> {
        self.view.subscribe()
    }

    /// Publishes a view: the owner alone does.
    pub(crate) fn publish(&self, view: View) {
        self.view.send_replace(view);
    }

    /// Deletes a journal that nobody needs any more. Blocks.
    pub(crate) fn delete(&self, journal: JournalId) {
        self.outbox.delete(journal);
        // The status has changed though the view has not.
        self.view.send_modify(|_| {});
    }

    /// The bytes that are free on a disk that is nearly full.
    pub(crate) fn low_disk(&self) -> Option<u64> {
        platform::free_bytes(&self.work).filter(|free| *free < self.free_bytes_min)
    }

    /// What the node is doing now.
    pub(crate) fn status(&self) -> NodeStatus {
        let view = self.view();
        let kept = self.outbox.kept();
        NodeStatus {
            live_batch_ids: view.live.iter().map(|batch| batch.0).collect(),
            busy_slots: view.busy_slots,
            leased: view.is_leased,
            kept_frames: kept.frames,
            kept_bytes: kept.bytes,
            kept_bytes_max: kept.bytes_max,
            draining: view.is_draining,
        }
    }
}
