//! The node as its service and its membership see it: the batches it knows, its slots, its right to work.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use framecrew_proto::{
    BatchName,
    v1::{NodeDescription, NodeStatus},
};
use futures::FutureExt as _;
use tokio::{
    sync::{Notify, watch},
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    batch::{self, Batch, Work},
    goodbye::Goodbye,
    membership::Lease,
    movie::Ffmpeg,
    outbox::Outbox,
    platform,
    project::Projects,
    renderer::Slots,
};

/// Free space below which no batch is accepted, in bytes: a few large frames must fit.
pub(crate) const FREE_BYTES_MIN: u64 = 256 << 20;

/// Batches that are kept, ended ones included. An orchestrator settles or abandons each within a heartbeat or
/// two; beyond this it has forgotten them, and the oldest go.
const KEPT_BATCHES_MAX: usize = 256;

/// How long a node that leaves waits for its last batches to be settled.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(3);

/// Batches called unknown that are refused from then on. More are never on their way to one node at once.
const DISOWNED_MAX: usize = 256;

/// A machine that renders.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) incarnation: u64,
    /// What it knows of itself from the beginning; the rest comes with [`Node::description`].
    fixed: NodeDescription,
    pub(crate) lease: Lease,
    pub(crate) slots: Slots,
    pub(crate) projects: Projects,
    pub(crate) outbox: Outbox,
    pub(crate) goodbye: Goodbye,
    /// Whether an orchestrator may know this life of it.
    pub(crate) announced: AtomicBool,
    /// What makes movies, where there is something; unset while the node is still looking what there is.
    ffmpeg: OnceLock<Option<Ffmpeg>>,
    /// Private folders of frames that are being rendered.
    pub(crate) work: PathBuf,
    /// Ends when the node shuts down.
    pub(crate) stopping: CancellationToken,
    /// Ends when the node is to finish what it has in hand, and then leave.
    pub(crate) draining: CancellationToken,
    free_bytes_min: u64,
    /// Locked while `batches` is, never the other way round.
    allegiance: Mutex<Allegiance>,
    /// Of the store at hand: those of a former one went with it.
    batches: Mutex<BTreeMap<u64, Arc<Batch>>>,
    /// Batches that were called unknown: whoever heard that has given them to others.
    disowned: Mutex<BTreeSet<u64>>,
    changed: watch::Sender<()>,
    /// Told when the description has changed since the node registered.
    pub(crate) equipped: Notify,
    running: TaskTracker,
}

/// Whom a node draws for, and what of that is over. Epochs and batch ids are compared within one store alone.
#[derive(Debug, Default)]
struct Allegiance {
    /// Store of the orchestrator that it is registered with; empty before the first time.
    store_id: String,
    /// The highest epoch seen.
    epoch: u64,
    /// Batches below it that are not held were over when the node registered.
    first_batch: u64,
}

impl Allegiance {
    /// Whether that is not the store of whoever names it. An older orchestrator names none; and whom a node
    /// that was never registered draws for is not known.
    fn is_to_another(&self, store_id: &str) -> bool {
        !self.store_id.is_empty() && !store_id.is_empty() && self.store_id != store_id
    }
}

/// What a node is made of.
pub(crate) struct Parts {
    pub(crate) name: String,
    pub(crate) incarnation: u64,
    pub(crate) description: NodeDescription,
    pub(crate) slots: Slots,
    pub(crate) projects: Projects,
    pub(crate) outbox: Outbox,
    pub(crate) goodbye: Goodbye,
    pub(crate) work: PathBuf,
    /// Usually `FREE_BYTES_MIN`.
    pub(crate) free_bytes_min: u64,
}

/// Why a batch is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("epoch {given} is older than {seen}, which this node has seen")]
    StaleEpoch { given: u64, seen: u64 },
    #[error("the node is not registered with this orchestrator's store")]
    OtherStore,
    #[error(
        "this is node {me}, not {meant}; that one has to register again, with the address that it has now"
    )]
    OtherNode { meant: String, me: String },
    #[error("batch {} is over", BatchName(*.0))]
    StaleBatch(u64),
    #[error("batch {} is known; attach to it instead", BatchName(*.0))]
    Known(u64),
    #[error("the node is shutting down")]
    ShuttingDown,
    #[error("the node is about to leave: it finishes what it has begun")]
    Draining,
    #[error("the node's lease has run out")]
    NoLease,
    #[error("the node is still looking for what it draws with")]
    Unequipped,
    #[error("every slot has a batch waiting")]
    SlotsFull,
    #[error(
        "{free_bytes} bytes are free on the node's disk, and it takes on work with {needed_bytes}"
    )]
    DiskLow { free_bytes: u64, needed_bytes: u64 },
    #[error("{bytes} bytes of finished frames wait on the node to be handed in")]
    OutboxFull { bytes: u64 },
    #[error(
        "the job runs Python of its own, and this node does not allow that; start the node with --allow-scripts"
    )]
    Scripts,
    #[error("the batch makes a movie, and this node has no ffmpeg that can")]
    NoFfmpeg,
}

impl Node {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            name: parts.name,
            incarnation: parts.incarnation,
            fixed: parts.description,
            lease: Lease::default(),
            slots: parts.slots,
            projects: parts.projects,
            outbox: parts.outbox,
            goodbye: parts.goodbye,
            announced: AtomicBool::new(false),
            ffmpeg: OnceLock::new(),
            work: parts.work,
            free_bytes_min: parts.free_bytes_min,
            stopping: CancellationToken::new(),
            draining: CancellationToken::new(),
            allegiance: Mutex::default(),
            batches: Mutex::default(),
            disowned: Mutex::default(),
            changed: watch::Sender::new(()),
            equipped: Notify::new(),
            running: TaskTracker::new(),
        }
    }

    /// What it is and has, as far as it knows by now.
    pub(crate) fn description(&self) -> NodeDescription {
        // Nor are Blenders offered that it could fetch: the right one may be here.
        NodeDescription {
            blenders: if self.is_equipped() { self.slots.blenders() } else { Vec::new() },
            ffmpeg: self.ffmpeg().map_or_else(String::new, |found| found.version().to_owned()),
            ..self.fixed.clone()
        }
    }

    pub(crate) fn ffmpeg(&self) -> Option<&Ffmpeg> {
        self.ffmpeg.get()?.as_ref()
    }

    /// Takes in what was found on this machine.
    pub(crate) fn equip(&self, ffmpeg: Option<Ffmpeg>) {
        let _ = self.ffmpeg.set(ffmpeg);
        // The registration already includes what has been found out so far.
        let _ = self.slots.news.notified().now_or_never();
        self.equipped.notify_one();
    }

    /// Whether it is known what this machine draws with.
    pub(crate) fn is_equipped(&self) -> bool {
        self.ffmpeg.get().is_some()
    }

    /// Takes a batch on, forgetting first what is settled, and starts it as soon as a slot is free.
    pub(crate) fn accept(
        self: &Arc<Self>,
        work: Work,
        epoch: u64,
        settled: &[u64],
    ) -> Result<Arc<Batch>, Refusal> {
        let low_disk = self.low_disk();
        let batch = {
            // Held until the batch is among them: no other store comes in between.
            let mut batches = self.batches();
            self.check_epoch(&work.origin.store_id, epoch)?;
            for id in settled {
                if batches.get(id).is_some_and(|batch| batch.is_ended()) {
                    batches.remove(id);
                    self.outbox.settle(*id);
                }
            }
            if batches.contains_key(&work.origin.batch_id) {
                return Err(Refusal::Known(work.origin.batch_id));
            }
            if work.origin.batch_id < self.allegiance().first_batch
                || self.disowned().contains(&work.origin.batch_id)
            {
                return Err(Refusal::StaleBatch(work.origin.batch_id));
            }
            if self.stopping.is_cancelled() {
                return Err(Refusal::ShuttingDown);
            }
            if self.draining.is_cancelled() {
                return Err(Refusal::Draining);
            }
            if !self.lease.holds() {
                return Err(Refusal::NoLease);
            }
            // It offers nothing yet; whoever asks all the same must not hear that its frames cannot be drawn.
            if !self.is_equipped() {
                return Err(Refusal::Unequipped);
            }
            // The machine's owner decides this, so the node does not rely on the orchestrator's check.
            let settings = &work.settings;
            let is_scripted = settings.run_scripts || !settings.addons.is_empty();
            if is_scripted && !self.fixed.allows_scripts {
                return Err(Refusal::Scripts);
            }
            if work.encoding.is_some() && self.ffmpeg().is_none() {
                return Err(Refusal::NoFfmpeg);
            }
            // One that renders and one that waits for each slot.
            let live = batches.values().filter(|batch| !batch.is_ended()).count();
            if live >= 2 * self.fixed.slots as usize {
                return Err(Refusal::SlotsFull);
            }
            if let Some(free_bytes) = low_disk {
                let needed_bytes = self.free_bytes_min;
                return Err(Refusal::DiskLow { free_bytes, needed_bytes });
            }
            let kept = self.outbox.kept();
            if kept.is_nearly_full {
                return Err(Refusal::OutboxFull { bytes: kept.bytes });
            }
            if batches.len() >= KEPT_BATCHES_MAX
                && let Some(oldest) = batches.iter().find(|(_, batch)| batch.is_ended())
            {
                let oldest = *oldest.0;
                batches.remove(&oldest);
                self.outbox.abandon(oldest);
            }
            let batch = Arc::new(Batch::new(work.origin.batch_id, work.limits.node_silence));
            batches.insert(work.origin.batch_id, batch.clone());
            batch
        };
        info!(
            batch = %BatchName(work.origin.batch_id),
            job = work.origin.job_id,
            slices = work.slices.len(),
            "batch accepted"
        );
        self.changed();
        self.running.spawn(batch::run(self.clone(), batch.clone(), work));
        Ok(batch)
    }

    /// A batch that is known. One that is not will never be accepted: the caller gives it to others.
    pub(crate) fn batch(&self, id: u64) -> Option<Arc<Batch>> {
        let batches = self.batches();
        let batch = batches.get(&id).cloned();
        if batch.is_none() {
            let mut disowned = self.disowned();
            disowned.insert(id);
            if disowned.len() > DISOWNED_MAX {
                disowned.pop_first();
            }
        }
        batch
    }

    /// Every batch that is known, ended ones included.
    pub(crate) fn batch_ids(&self) -> Vec<u64> {
        self.batches().keys().copied().collect()
    }

    /// Ends a batch and returns when its renderer is dead; forgets one that had ended. False: not known.
    pub(crate) async fn cancel(&self, id: u64) -> bool {
        let Some(batch) = self.batch(id) else {
            return false;
        };
        if batch.is_ended() {
            self.batches().remove(&id);
            self.outbox.abandon(id);
        } else {
            info!(batch = %BatchName(id), "cancelling batch");
            batch.cancel();
            batch.ended().await;
        }
        true
    }

    /// Cancels and forgets batches that the orchestrator has no use for; each is known until its renderer is dead.
    /// What they have finished is offered.
    pub(crate) fn abandon(&self, ids: &[u64]) {
        if ids.is_empty() {
            return;
        }
        for id in ids {
            let Some(batch) = self.batches().get(id).cloned() else { continue };
            if batch.abandon() {
                self.forget(&batch);
            } else {
                info!(batch = %BatchName(*id), "abandoning batch");
            }
        }
        self.changed();
    }

    /// Forgets a batch that has ended and that nobody will ask for. What it has finished is offered.
    pub(crate) fn forget(&self, batch: &Arc<Batch>) {
        let id = batch.id();
        let mut batches = self.batches();
        // Another store's batches have the same numbers.
        if batches.get(&id).is_some_and(|known| Arc::ptr_eq(known, batch)) {
            batches.remove(&id);
        }
        drop(batches);
        self.outbox.abandon(id);
    }

    fn let_go(&self, batches: BTreeMap<u64, Arc<Batch>>) {
        for (id, batch) in batches {
            // One that has not ended offers what it has when it has.
            if batch.abandon() {
                self.outbox.abandon(id);
            } else {
                info!(batch = %BatchName(id), "abandoning batch");
            }
        }
        self.changed();
    }

    /// Ends every batch whose time has run out, and without a lease every idle renderer. The batches stay known.
    pub(crate) fn fence(&self) {
        for (id, batch) in self.batches().iter() {
            if !self.lease.holds_for(batch.silence()) && batch.cancel() {
                warn!(
                    batch = %BatchName(*id),
                    "ending a batch: nothing was heard of the orchestrator for too long"
                );
            }
        }
        if !self.lease.holds() {
            self.slots.kill_idle();
        }
    }

    /// Renews the lease as of the moment at which the answered call was sent. What has lost its time before, while
    /// this process was stopped, does not get it back: others may have that work.
    pub(crate) fn renew_lease(&self, sent: Duration, ttl: Duration) {
        self.fence();
        self.lease.renew(sent, ttl);
    }

    /// Whether a batch may still tell of what it has done.
    pub(crate) fn may_publish(&self, batch: &Batch) -> bool {
        !batch.is_cancelled() && self.lease.holds_for(batch.silence())
    }

    /// Takes no batches any more, hands back what has not begun, and returns when everything else has ended and is
    /// settled, or is not within `patience`.
    pub(crate) async fn drain(&self, patience: Duration) {
        self.draining.cancel();
        self.changed();
        let drained = async {
            let mut changed = self.watch();
            while self.batches().values().any(|batch| !batch.is_ended()) {
                if changed.changed().await.is_err() {
                    return;
                }
            }
            // The last events are on their way.
            let is_settled = || self.batches().is_empty() && self.outbox.kept().frames == 0;
            let settled = async { while !is_settled() && changed.changed().await.is_ok() {} };
            let _ = time::timeout(SETTLE_TIMEOUT, settled).await;
        };
        if time::timeout(patience, drained).await.is_err() {
            warn!("what is being drawn takes too long: handing it back");
        }
    }

    /// Stops taking work and returns when every renderer is dead.
    pub(crate) async fn stop(&self) {
        self.stopping.cancel();
        for batch in self.batches().values() {
            batch.cancel();
        }
        self.slots.kill_idle();
        self.running.close();
        self.running.wait().await;
        // A batch that ended meanwhile has put its renderer back.
        self.slots.kill_idle();
    }

    /// Refuses another store, which is nobody to this node, and an epoch older than the highest one seen.
    pub(crate) fn check_epoch(&self, store_id: &str, given: u64) -> Result<(), Refusal> {
        let mut allegiance = self.allegiance();
        // Before it is registered it has nothing that could be drawn twice, and whoever asks may be a former
        // orchestrator that still looks for its batches: its epoch is not this node's.
        if allegiance.store_id.is_empty() {
            return Ok(());
        }
        if allegiance.is_to_another(store_id) {
            return Err(Refusal::OtherStore);
        }
        self.raise_epoch(&mut allegiance, given);
        match allegiance.epoch {
            seen if given < seen => Err(Refusal::StaleEpoch { given, seen }),
            _ => Ok(()),
        }
    }

    /// Whether the node is registered with another store than this one.
    pub(crate) fn is_of_another_store(&self, store_id: &str) -> bool {
        self.allegiance().is_to_another(store_id)
    }

    /// Remembers an epoch of the store at hand.
    pub(crate) fn meet_epoch(&self, epoch: u64) {
        self.raise_epoch(&mut self.allegiance(), epoch);
    }

    fn raise_epoch(&self, allegiance: &mut Allegiance, epoch: u64) {
        if allegiance.epoch < epoch {
            allegiance.epoch = epoch;
            // The blob store may be another as well.
            self.outbox.forget_stored();
        }
    }

    /// Remembers whose frames it draws from now on. Batches below `first_batch` that are not held are over.
    ///
    /// With another store than before nothing holds that a former one said, however high its epochs were: all its
    /// batches are abandoned. A store that people go back to has lower ones than the copy that they tried.
    pub(crate) fn meet_store(&self, store_id: String, epoch: u64, first_batch: u64) {
        let former = {
            let mut batches = self.batches();
            let mut allegiance = self.allegiance();
            if allegiance.store_id.is_empty() || allegiance.store_id == store_id {
                allegiance.store_id = store_id;
                self.raise_epoch(&mut allegiance, epoch);
                allegiance.first_batch = allegiance.first_batch.max(first_batch);
                return;
            }
            *allegiance = Allegiance { store_id, epoch, first_batch };
            self.outbox.forget_stored();
            self.disowned().clear();
            std::mem::take(&mut *batches)
        };
        warn!(
            batches = former.len(),
            "the orchestrator has another store: its former one's batches go"
        );
        self.let_go(former);
    }

    /// Batches below are never rendered, other than those that it holds.
    pub(crate) fn first_batch(&self) -> u64 {
        self.allegiance().first_batch
    }

    /// Store of the orchestrator that it is registered with.
    pub(crate) fn store_id(&self) -> String {
        self.allegiance().store_id.clone()
    }

    /// Waits until the node has a lease and gives the store that its orchestrator has.
    pub(crate) async fn registered(&self) -> String {
        let mut changed = self.watch();
        while !self.lease.holds() {
            // The sender lives as long as this.
            let _ = changed.changed().await;
        }
        self.store_id()
    }

    /// The bytes that are free on a disk that is nearly full.
    pub(crate) fn low_disk(&self) -> Option<u64> {
        platform::free_bytes(&self.work).filter(|free| *free < self.free_bytes_min)
    }

    /// What the node is doing now.
    pub(crate) fn status(&self) -> NodeStatus {
        let batches = self.batches();
        let live = batches.iter().filter(|(_, batch)| !batch.is_ended());
        let kept = self.outbox.kept();
        NodeStatus {
            live_batch_ids: live.map(|(id, _)| *id).collect(),
            busy_slots: self.slots.busy(),
            leased: self.lease.holds(),
            kept_frames: kept.frames,
            kept_bytes: kept.bytes,
            kept_bytes_max: kept.bytes_max,
            draining: self.draining.is_cancelled(),
        }
    }

    /// Tells whoever watches the node that its status may have changed.
    pub(crate) fn changed(&self) {
        self.changed.send_replace(());
    }

    pub(crate) fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn allegiance(&self) -> MutexGuard<'_, Allegiance> {
        // Every change under the lock is complete by itself.
        self.allegiance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locked while `batches` is, never the other way round.
    fn disowned(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.disowned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn batches(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Batch>>> {
        // Every change under the lock is complete by itself.
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use framecrew_blobs::BlobClient;
    use framecrew_proto::v1::{BatchEnd, MovieFormat, RenderSettings, Slice, batch_event::Event};
    use futures::StreamExt as _;
    use tonic::transport::Endpoint;

    use super::*;
    use crate::{
        batch::Limits,
        confine::Workplace,
        movie::Encoding,
        outbox::{OUTBOX_BYTES, Origin},
        project::Project,
        renderer::{InjectedFaults, RendererChoice},
    };

    /// A node of one slot, whose orchestrator and store are nowhere, and its folder.
    pub(crate) fn node(free_bytes_min: u64) -> (Arc<Node>, tempfile::TempDir) {
        node_with(free_bytes_min, OUTBOX_BYTES)
    }

    fn node_with(free_bytes_min: u64, outbox_bytes: u64) -> (Arc<Node>, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let nowhere = Endpoint::from_static("http://127.0.0.1:9").connect_lazy();
        let blobs = BlobClient::new(nowhere);
        let choice = RendererChoice::Synthetic(Duration::from_secs(1));
        let workplace = Workplace {
            work: folder.path().to_owned(),
            layouts: folder.path().to_owned(),
            confined: false,
        };
        let node = Node::new(Parts {
            name: "node".into(),
            incarnation: 1,
            description: NodeDescription { slots: 1, ..NodeDescription::default() },
            slots: Slots::new(choice, InjectedFaults::default(), None, 1, workplace),
            projects: Projects::new(folder.path().to_owned(), blobs.clone(), u64::MAX),
            outbox: Outbox::open(folder.path().join("outbox"), blobs, 1, outbox_bytes).unwrap(),
            goodbye: Goodbye::read(folder.path()).unwrap(),
            work: folder.path().to_owned(),
            free_bytes_min,
        });
        node.meet_store("store".into(), 0, 0);
        node.equip(None);
        (Arc::new(node), folder)
    }

    fn work(batch_id: u64) -> Work {
        Work {
            origin: Origin { store_id: "store".into(), job_id: 1, batch_id },
            limits: Limits::default(),
            project: Project { blend: "a.blend".parse().unwrap(), files: BTreeMap::new() },
            settings: RenderSettings::default(),
            color_config: None,
            addons: Vec::new(),
            slices: vec![Slice { frame: 1, index: 0 }],
            file_version: None,
            strict: false,
            encoding: None,
            span: None,
        }
    }

    #[tokio::test]
    async fn a_node_takes_no_work_without_a_lease_a_disk_or_a_future() {
        let (full, _folder) = node(u64::MAX);
        assert_eq!(full.accept(work(1), 1, &[]).err(), Some(Refusal::NoLease));
        full.lease.renew(platform::uptime(), Duration::from_secs(60));
        let refused = full.accept(work(1), 1, &[]).err();
        assert!(matches!(refused, Some(Refusal::DiskLow { .. })), "{refused:?}");

        let (node, _folder) = node(0);
        node.lease.renew(platform::uptime(), Duration::from_secs(60));
        let batch = node.accept(work(1), 1, &[]).unwrap();
        node.stop().await;
        assert!(batch.is_ended());
        assert_eq!(node.accept(work(2), 1, &[]).err(), Some(Refusal::ShuttingDown));
    }

    #[tokio::test]
    async fn a_batch_that_was_called_unknown_or_is_over_comes_too_late() {
        let (node, _folder) = node(0);
        node.lease.renew(platform::uptime(), Duration::from_secs(60));
        assert!(node.batch(7).is_none());
        assert_eq!(node.accept(work(7), 1, &[]).err(), Some(Refusal::StaleBatch(7)));
        node.meet_store("store".into(), 1, 9);
        assert_eq!(node.accept(work(8), 1, &[]).err(), Some(Refusal::StaleBatch(8)));
        assert!(node.accept(work(9), 1, &[]).is_ok());
        node.stop().await;
    }

    #[tokio::test]
    async fn an_epoch_once_seen_makes_older_ones_stale() {
        let (node, _folder) = node(0);
        node.meet_epoch(5);
        assert_eq!(node.check_epoch("store", 5), Ok(()));
        let stale = Refusal::StaleEpoch { given: 4, seen: 5 };
        assert_eq!(node.check_epoch("store", 4), Err(stale));
        // Registering again does not take it back.
        node.meet_store("store".into(), 4, 0);
        assert!(node.check_epoch("store", 4).is_err());
    }

    #[tokio::test]
    async fn whoever_asks_a_node_before_it_is_registered_fences_nobody() {
        let (node, _folder) = node(0);
        *node.allegiance() = Allegiance::default();
        assert_eq!(node.check_epoch("a former one", 900), Ok(()));
        assert_eq!(node.accept(work(7), 900, &[]).err(), Some(Refusal::NoLease));
        node.meet_store("store".into(), 5, 0);
        assert_eq!(node.check_epoch("store", 5), Ok(()));
        assert_eq!(node.check_epoch("", 5), Ok(()), "an older orchestrator names no store");
        assert!(node.check_epoch("", 4).is_err());
    }

    #[tokio::test]
    async fn with_another_store_a_former_ones_batches_end_and_its_higher_epochs_fence_nobody() {
        let (node, _folder) = node(0);
        node.lease.renew(platform::uptime(), Duration::from_secs(3_600));
        node.meet_store("store".into(), 900, 100);
        let former = node.accept(work(101), 900, &[]).unwrap();
        assert!(node.batch(7).is_none(), "disowned");
        node.meet_store("another".into(), 5, 6);
        assert_eq!(told(&former).await.0, BatchEnd::Cancelled);
        assert!(node.batch_ids().is_empty());
        // What the former one still says changes nothing.
        assert_eq!(node.accept(work(102), 901, &[]).err(), Some(Refusal::OtherStore));
        let ours = |batch_id| {
            let mut ours = work(batch_id);
            ours.origin.store_id = "another".into();
            ours
        };
        assert!(node.accept(ours(7), 5, &[]).is_ok());
        assert_eq!(node.accept(ours(5), 5, &[]).err(), Some(Refusal::StaleBatch(5)));
        node.stop().await;
    }

    /// How the batch ended, and how many slices it told of as finished.
    async fn told(batch: &Arc<Batch>) -> (BatchEnd, usize) {
        let messages: Vec<_> = batch.attach(0).collect().await;
        let events = messages.into_iter().flat_map(Result::unwrap).filter_map(|event| event.event);
        let (mut end, mut finished) = (BatchEnd::Unspecified, 0);
        for event in events {
            match event {
                Event::Ended(ended) => end = ended.end(),
                Event::Finished(_) => finished += 1,
                _ => {}
            }
        }
        (end, finished)
    }

    #[tokio::test]
    async fn a_node_that_slept_through_its_lease_does_not_get_its_batches_back() {
        let (node, _folder) = node(0);
        node.lease.renew(platform::uptime(), Duration::from_millis(200));
        let batch = node.accept(work(1), 1, &[]).unwrap();
        let mut patient = work(2);
        patient.limits.node_silence = Duration::from_secs(3_600);
        let patient = node.accept(patient, 1, &[]).unwrap();
        while node.lease.holds() {
            time::sleep(Duration::from_millis(10)).await;
        }
        node.renew_lease(platform::uptime(), Duration::from_secs(3_600));
        assert!(node.lease.holds());
        assert_eq!(told(&batch).await.0, BatchEnd::Cancelled);
        assert!(!patient.is_cancelled(), "its job waits longer");
        node.stop().await;
    }

    #[tokio::test]
    async fn a_node_that_leaves_finishes_what_it_draws_and_hands_back_the_rest() {
        let (node, _folder) = node(0);
        node.lease.renew(platform::uptime(), Duration::from_secs(3_600));
        let running = node.accept(work(1), 1, &[]).unwrap();
        let waiting = node.accept(work(2), 1, &[]).unwrap();
        while node.slots.busy() == 0 {
            time::sleep(Duration::from_millis(10)).await;
        }
        node.draining.cancel();
        assert_eq!(told(&waiting).await, (BatchEnd::Cancelled, 0));
        assert_eq!(node.accept(work(3), 1, &[]).err(), Some(Refusal::Draining));
        assert!(node.status().draining);
        assert!(!running.is_ended());
        node.stop().await;
    }

    #[tokio::test]
    async fn a_batch_that_is_abandoned_is_held_until_its_renderer_is_dead() {
        let (node, _folder) = node(0);
        node.lease.renew(platform::uptime(), Duration::from_secs(3_600));
        let batch = node.accept(work(1), 1, &[]).unwrap();
        while node.slots.busy() == 0 {
            time::sleep(Duration::from_millis(10)).await;
        }
        node.abandon(&[1]);
        assert_eq!(node.batch_ids(), [1]);
        assert_eq!(told(&batch).await.0, BatchEnd::Cancelled);
        assert!(node.batch_ids().is_empty());
        node.stop().await;
    }

    #[tokio::test]
    async fn a_node_without_ffmpeg_refuses_a_movie() {
        let (node, _folder) = node(0);
        node.lease.renew(platform::uptime(), Duration::from_secs(60));
        let encoding = Encoding {
            format: MovieFormat::Mp4,
            name: "movie".into(),
            images: Vec::new(),
            span: None,
        };
        let movie = Work { encoding: Some(encoding), ..work(1) };
        assert_eq!(node.accept(movie, 1, &[]).err(), Some(Refusal::NoFfmpeg));
        assert!(node.batch_ids().is_empty());
    }

    #[tokio::test]
    async fn a_node_whose_outbox_is_full_takes_no_work() {
        let (node, _folder) = node_with(0, 0);
        node.lease.renew(platform::uptime(), Duration::from_secs(60));
        let refused = node.accept(work(1), 1, &[]).err();
        assert_eq!(refused, Some(Refusal::OutboxFull { bytes: 0 }));
    }
}
