//! The one task that owns the node's [`Core`]: it takes commands in their order, lets the core decide, and does what the
//! core wants done.
//!
//! Nothing here waits for a disk, a socket or a renderer, because a lease that expires must be noticed within
//! [`LEASE_CHECK_INTERVAL`] whatever else happens. A lock around the tables was the alternative: it needs an order among
//! the locks, and a decision that spans two tables can then be seen half done.

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use framecrew_proto::v1::BatchEnd;
use futures::FutureExt as _;
use tokio::{sync::mpsc, time};
use tracing::{error, info, warn};

use crate::{
    batch::{Batch, Work},
    core::{Action, BatchKey, Core, Ending, Event, JournalId},
    node::{Caller, Command, Node},
    platform, work,
};

/// Longest time until the lease is looked at. The sum of this, the time to kill a renderer, and the lease must stay below
/// what the orchestrator waits before it gives the work away (it adds a margin of seconds). A timer alone would not do:
/// it stands still while the machine is suspended.
const LEASE_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Owns the node's core, and the events of the batches that it knows.
pub(crate) struct Owner {
    node: Arc<Node>,
    core: Core,
    commands: mpsc::Receiver<Command>,
    /// Journals whose frames are to be offered. The core has one offered at a time.
    offers: mpsc::Sender<JournalId>,
    batches: HashMap<BatchKey, Held>,
    /// Revision of the view that was published last.
    published: u64,
    was_leased: bool,
}

struct Held {
    batch: Arc<Batch>,
    /// What it asks for, until it starts.
    work: Option<Work>,
}

impl Owner {
    /// The owner, and the journals that it wants offered.
    pub(crate) fn new(
        node: Arc<Node>,
        commands: mpsc::Receiver<Command>,
    ) -> (Self, mpsc::Receiver<JournalId>) {
        let (offers, offered) = mpsc::channel(1);
        let core = Core::new(node.slot_count(), node.allows_scripts(), node.outbox.found());
        let batches = HashMap::new();
        let owner = Self { node, core, commands, offers, batches, published: 0, was_leased: false };
        (owner, offered)
    }

    /// Runs for as long as the node does.
    pub(crate) async fn run(mut self) {
        loop {
            let deadline = self.core.next_deadline();
            let command = tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => command,
                    None => return,
                },
                () = until(deadline) => Command { event: Event::TimePassed, caller: Caller::None },
            };
            self.handle(command);
        }
    }

    fn handle(&mut self, command: Command) {
        let Command { event, caller } = command;
        let actions = self.core.handle(platform::uptime(), event);
        // First: a caller that has its answer finds it in the view.
        self.publish();
        let mut caller = caller;
        for action in actions {
            caller = self.perform(action, caller);
        }
        match caller {
            Caller::Notified(reply) => drop(reply.send(())),
            Caller::Reporter(_, reply) => drop(reply.send(false)),
            Caller::None | Caller::Requester(..) | Caller::Reader(_) => {}
        }
    }

    /// Returns the caller unless it has its answer.
    fn perform(&mut self, action: Action, caller: Caller) -> Caller {
        match (action, caller) {
            (Action::Accept { batch }, Caller::Requester(work, reply)) => {
                let job = work.origin.job_id;
                info!(batch = %batch.id, job, slices = work.slices.len(), "batch accepted");
                let accepted = Arc::new(Batch::new(batch));
                let held = Held { batch: accepted.clone(), work: Some(*work) };
                self.batches.insert(batch, held);
                let _ = reply.send(Ok(accepted));
                Caller::None
            }
            (Action::Refuse(refusal), Caller::Requester(_, reply)) => {
                let _ = reply.send(Err(refusal));
                Caller::None
            }
            (Action::Refuse(refusal), Caller::Reader(reply)) => {
                let _ = reply.send(Err(refusal));
                Caller::None
            }
            (Action::Attach { batch } | Action::Cancel { batch }, Caller::Reader(reply)) => {
                let _ = reply.send(Ok(self.batches.get(&batch).map(|held| held.batch.clone())));
                Caller::None
            }
            (Action::Unknown { .. }, Caller::Reader(reply)) => {
                let _ = reply.send(Ok(None));
                Caller::None
            }
            (Action::Publish { batch }, Caller::Reporter(event, reply)) => {
                if let Some(held) = self.batches.get(&batch) {
                    held.batch.push(*event);
                }
                let _ = reply.send(true);
                Caller::None
            }
            (action, caller) => {
                self.perform_alone(action);
                caller
            }
        }
    }

    /// Does what no caller waits for.
    fn perform_alone(&mut self, action: Action) {
        match action {
            Action::Start { batch } => self.start(batch),
            Action::Kill { batch, reason } => {
                if let Some(held) = self.batches.get(&batch) {
                    held.batch.kill();
                }
                // Afterwards: a log that stalls must not keep a renderer alive.
                log_ending(batch, reason);
            }
            Action::Conclude { batch, is_complete } => {
                let end = if is_complete { BatchEnd::Complete } else { BatchEnd::Cancelled };
                info!(batch = %batch.id, end = end.as_str_name(), "batch ended");
                if let Some(held) = self.batches.get_mut(&batch) {
                    held.work = None;
                    held.batch.end(end);
                }
            }
            Action::Forget { batch } => drop(self.batches.remove(&batch)),
            Action::Offer { journal } => {
                // Never full: the core has one journal offered at a time.
                if self.offers.try_send(journal).is_err() {
                    warn!(?journal, "finished frames are not offered: the node is stopping");
                }
            }
            Action::Delete { journal } => {
                let node = self.node.clone();
                self.node.running.spawn_blocking(move || node.delete(journal));
            }
            Action::ForgetUploads => self.node.uploads.forget(),
            Action::KillIdle => self.node.slots.kill_idle(),
            // Answers whose caller has gone.
            Action::Accept { .. }
            | Action::Refuse(_)
            | Action::Attach { .. }
            | Action::Cancel { .. }
            | Action::Unknown { .. }
            | Action::Publish { .. } => {}
        }
    }

    fn start(&mut self, batch: BatchKey) {
        let Some(held) = self.batches.get_mut(&batch) else { return };
        if let Some(work) = held.work.take() {
            let (node, batch) = (self.node.clone(), held.batch.clone());
            self.node.running.spawn(async move {
                let running = work::run(node.clone(), batch.clone(), work);
                if AssertUnwindSafe(running).catch_unwind().await.is_err() {
                    // Only a bug ends it so. Its slot must not be lost with it.
                    error!(batch = %batch.key().id, "internal error while rendering a batch");
                    node.outbox.close(JournalId::Of(batch.key()));
                    let over = Event::BatchOver { batch: batch.key(), is_complete: false };
                    node.tell(over).await;
                }
            });
        }
    }

    fn publish(&mut self) {
        if self.published == self.core.revision() {
            return;
        }
        self.published = self.core.revision();
        let view = self.core.view();
        let is_lost = std::mem::replace(&mut self.was_leased, view.is_leased) && !view.is_leased;
        if is_lost && !self.node.stopping.is_cancelled() {
            warn!("lease expired; continuing only jobs with a longer --node-silence");
        }
        self.node.publish(view);
    }
}

/// Without its owner nothing ends a batch in time, so nothing may go on.
impl Drop for Owner {
    fn drop(&mut self) {
        for held in self.batches.values() {
            held.batch.kill();
        }
    }
}

fn log_ending(batch: BatchKey, reason: Ending) {
    let batch = batch.id;
    match reason {
        Ending::Silence => {
            warn!(%batch, "ending a batch: the orchestrator has not answered for too long");
        }
        Ending::OtherStore => warn!(
            %batch,
            "the orchestrator uses a different store now; abandoning a batch of the previous store"
        ),
        Ending::Cancelled => info!(%batch, "cancelling a batch"),
        Ending::Abandoned => {
            info!(%batch, "abandoning a batch that the orchestrator does not need")
        }
        Ending::Draining | Ending::Stopping => info!(%batch, "ending a batch: the node stops"),
    }
}

/// Ends at a deadline, or earlier, after [`LEASE_CHECK_INTERVAL`]: never if there is none.
async fn until(deadline: Option<Duration>) {
    match deadline {
        Some(at) => {
            let left = at.saturating_sub(platform::uptime());
            time::sleep(left.min(LEASE_CHECK_INTERVAL)).await;
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use framecrew_blobs::BlobClient;
    use framecrew_proto::v1::{NodeDescription, Slice, batch_event};
    use futures::StreamExt as _;
    use tonic::transport::Endpoint;

    use super::*;
    use crate::{
        batch::Limits,
        confine::Workplace,
        core::{BatchId, Grant, Refusal, Registration},
        goodbye::Goodbye,
        node::Parts,
        outbox::{OUTBOX_BYTES, Origin, Outbox},
        project::{Project, Projects},
        renderer::{InjectedFaults, RendererChoice, Settings, Slots},
        uploads::Uploads,
    };

    /// A node of one slot and its folder. It is registered, has a lease of an hour and no ffmpeg; its orchestrator and
    /// its store are nowhere. A frame takes it a second.
    pub(crate) async fn node(free_bytes_min: u64) -> (Arc<Node>, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let nowhere = Endpoint::from_static("http://127.0.0.1:9").connect_lazy();
        let blobs = BlobClient::new(nowhere);
        let choice = RendererChoice::Synthetic(Duration::from_secs(1));
        let workplace = Workplace {
            work: folder.path().to_owned(),
            layouts: folder.path().to_owned(),
            confined: false,
        };
        let (node, commands) = Node::new(Parts {
            name: "node".into(),
            incarnation: 1,
            description: NodeDescription { slots: 1, ..NodeDescription::default() },
            slots: Slots::new(choice, InjectedFaults::default(), None, 1, workplace),
            projects: Projects::new(folder.path().to_owned(), blobs.clone(), u64::MAX),
            outbox: Outbox::open(folder.path().join("outbox"), 1, OUTBOX_BYTES).unwrap(),
            uploads: Uploads::new(blobs),
            goodbye: Goodbye::read(folder.path()).unwrap(),
            work: folder.path().to_owned(),
            free_bytes_min,
        });
        let node = Arc::new(node);
        let (owner, _) = Owner::new(node.clone(), commands);
        tokio::spawn(owner.run());
        node.equip(None).await;
        let registration = Registration {
            grant: grant(Duration::from_secs(3_600)),
            store_id: "store".into(),
            epoch: 1,
            first_batch: BatchId(0),
            abandon: Vec::new(),
        };
        node.settle(Event::Registered(registration)).await;
        (node, folder)
    }

    fn grant(ttl: Duration) -> Grant {
        Grant { sent: platform::uptime(), ttl }
    }

    fn work(batch_id: u64) -> Work {
        Work {
            origin: Origin { store_id: "store".into(), job_id: 1, batch_id },
            limits: Limits::default(),
            project: Project { blend: "a.blend".parse().unwrap(), files: BTreeMap::new() },
            settings: Settings::default(),
            color_config: None,
            addons: Vec::new(),
            slices: vec![Slice { frame: 1, index: 0 }],
            file_version: None,
            strict: false,
            encoding: None,
            span: None,
        }
    }

    /// How the batch ended, and how many slices it reported as finished.
    async fn outcome(batch: &Arc<Batch>) -> (BatchEnd, usize) {
        let messages: Vec<_> = batch.attach(0).collect().await;
        let events = messages.into_iter().flat_map(Result::unwrap).filter_map(|event| event.event);
        let (mut end, mut finished) = (BatchEnd::Unspecified, 0);
        for event in events {
            match event {
                batch_event::Event::Ended(ended) => end = ended.end(),
                batch_event::Event::Finished(_) => finished += 1,
                _ => {}
            }
        }
        (end, finished)
    }

    #[tokio::test]
    async fn a_node_whose_disk_is_full_takes_no_work() {
        let (full, _folder) = node(u64::MAX).await;
        let refused = full.accept(work(1), 1, &[]).await.err();
        assert!(matches!(refused, Some(Refusal::DiskLow { .. })), "{refused:?}");
    }

    #[tokio::test]
    async fn a_node_that_stops_has_ended_its_batches_and_takes_no_others() {
        let (node, _folder) = node(0).await;
        let batch = node.accept(work(1), 1, &[]).await.unwrap();
        node.stop().await;
        assert_eq!(outcome(&batch).await, (BatchEnd::Cancelled, 0));
        let refused = node.accept(work(2), 1, &[]).await.err();
        assert_eq!(refused, Some(Refusal::ShuttingDown));
    }

    #[tokio::test]
    async fn a_lease_that_expires_ends_its_batches_though_nothing_else_happens() {
        let (node, _folder) = node(0).await;
        node.settle(Event::LeaseReturned).await;
        let renewed = Event::LeaseRenewed {
            grant: grant(Duration::from_millis(200)),
            epoch: 1,
            abandon: Vec::new(),
        };
        node.settle(renewed).await;
        let batch = node.accept(work(1), 1, &[]).await.unwrap();
        assert_eq!(outcome(&batch).await, (BatchEnd::Cancelled, 0));
        assert!(!node.status().leased);
        node.stop().await;
    }

    #[tokio::test]
    async fn a_node_that_drains_returns_when_what_it_renders_has_ended() {
        let (node, _folder) = node(0).await;
        let running = node.accept(work(1), 1, &[]).await.unwrap();
        let waiting = node.accept(work(2), 1, &[]).await.unwrap();
        assert_eq!(node.status().busy_slots, 1);
        let draining = tokio::spawn({
            let node = node.clone();
            async move { node.drain(Duration::from_secs(3_600)).await }
        });
        assert_eq!(outcome(&waiting).await, (BatchEnd::Cancelled, 0));
        assert!(node.status().draining);
        assert_eq!(node.accept(work(3), 1, &[]).await.err(), Some(Refusal::Draining));
        assert!(!draining.is_finished() && !running.killed().is_cancelled());
        node.stop().await;
        draining.await.unwrap();
    }
}
