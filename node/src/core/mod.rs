//! What the node decides, and nothing else: which batches it accepts, starts and ends, whose node it is, how long it may
//! work, and which finished frames it keeps, offers and deletes.
//!
//! [`Core::handle`] takes an [`Event`] and returns [`Action`]s; [`Core::next_deadline`] says when to call it again if
//! nothing happens. The core reads no clock, waits for nothing and locks nothing, so the orchestrator's simulation plays
//! it with virtual time, and the node's one owning task plays it with real sockets and disks. Each call takes
//! microseconds; with a few hundred batches a scan of all of them is cheaper than an index that has to be kept right.
//!
//! What must hold is in [`Core::check_invariants`]. Above all: a batch whose time has run out reports nothing any more,
//! even if the lease is renewed in the same moment, because another node may have its slices; and a frame that was kept
//! is deleted only if the orchestrator has learned of it or has answered an offer of it.

mod action;
mod binding;
mod check;
mod event;
mod ids;
mod lease;
mod outbox;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

pub use self::{
    action::{Action, Ending, Refusal},
    event::{Call, Event, Grant, Needs, Registration, Request, Shortage},
    ids::{BatchId, BatchKey, JournalId, Slice, Time},
};
use self::{binding::Binding, lease::Lease, outbox::Outbox};

/// Batches that are kept, ended ones included. An orchestrator settles or abandons each within a heartbeat or two;
/// beyond this it has forgotten them, and the oldest go.
const KEPT_BATCHES_MAX: usize = 256;

/// Batches for each slot: one that renders, and one that waits so that the slot does not idle for a round trip.
const BATCHES_PER_SLOT: usize = 2;

/// The node's decisions.
#[derive(Debug)]
pub struct Core {
    slots: usize,
    allows_scripts: bool,
    /// Whether the node can encode movies; `None`: it does not know yet what this machine has.
    has_ffmpeg: Option<bool>,
    binding: Binding,
    lease: Lease,
    /// Whether the lease held when the last event came.
    is_leased: bool,
    batches: BTreeMap<BatchKey, Batch>,
    /// Accepted batches that have no slot yet, in the order in which they start.
    waiting: VecDeque<BatchKey>,
    outbox: Outbox,
    is_draining: bool,
    is_stopping: bool,
    /// The latest moment seen.
    now: Time,
    actions: Vec<Action>,
    revision: u64,
}

#[derive(Debug)]
struct Batch {
    /// Store of the orchestrator that asked for it.
    store_id: Arc<str>,
    phase: Phase,
    /// How long it goes on without an answer from the orchestrator, if that is longer than the lease.
    silence: Duration,
    /// Whether it has to end, and reports nothing any more.
    is_ending: bool,
    /// Whether nobody will ask for it any more.
    is_abandoned: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It has no slot yet.
    Waiting,
    /// It has a slot.
    Rendering,
    /// It needs no slot any more: its last frames are on their way to the store.
    Storing,
    Ended,
}

/// What others may know of the node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// Store of the orchestrator that it is registered with; empty: none yet.
    pub store_id: Arc<str>,
    /// Batches below it that are not held are never rendered.
    pub first_batch: Option<BatchId>,
    /// Batches of that store, ended ones included.
    pub held: Vec<BatchId>,
    /// Those of them that have not ended.
    pub live: Vec<BatchId>,
    /// Slots that a batch has.
    pub busy_slots: u32,
    /// Whether it may accept work.
    pub is_leased: bool,
    /// Whether it is about to leave.
    pub is_draining: bool,
    /// Journals of finished frames that are neither settled nor handed in.
    pub journals: usize,
}

impl Core {
    /// A node that is not registered. `found`: the store of each journal that an earlier incarnation left, in the order
    /// in which they are offered.
    pub fn new(slots: u32, allows_scripts: bool, found: Vec<Arc<str>>) -> Self {
        Self {
            slots: slots as usize,
            allows_scripts,
            has_ffmpeg: None,
            binding: Binding::default(),
            lease: Lease::default(),
            is_leased: false,
            batches: BTreeMap::new(),
            waiting: VecDeque::new(),
            outbox: Outbox::new(found),
            is_draining: false,
            is_stopping: false,
            now: Time::ZERO,
            actions: Vec::new(),
            revision: 0,
        }
    }

    /// Decides what follows from an event.
    pub fn handle(&mut self, now: Time, event: Event) -> Vec<Action> {
        self.now = self.now.max(now);
        // First: a process that was suspended must end what has lost its time before an answer renews the lease.
        self.expire();
        match event {
            Event::BatchRequested(request) => self.request(request),
            Event::BatchAttached(call) => self.attach(call),
            Event::BatchCancelled(call) => self.cancel(call),
            Event::SliceStarting { batch } => self.start_slice(batch),
            Event::SliceKept { batch, slice } => self.keep(batch, slice),
            Event::SliceOver { batch, finished } => self.report(batch, finished),
            Event::SlotFreed { batch } => self.free_slot(batch),
            Event::BatchOver { batch, is_complete } => self.batch_over(batch, is_complete),
            Event::Registered(registration) => self.register(&registration),
            Event::LeaseRenewed { grant, epoch, abandon } => {
                // A lease is one of a store: work that was accepted before would belong to none.
                if self.binding.is_bound() {
                    self.raise_epoch(epoch);
                    self.renew(grant, &abandon);
                }
            }
            Event::LeaseReturned => {
                self.lease.give_up();
                self.expire();
            }
            Event::OfferOver { journal, is_handed_in } => {
                if self.outbox.offer_over(journal, is_handed_in) {
                    self.act(Action::Delete { journal });
                    self.revise();
                }
            }
            Event::Equipped { has_ffmpeg } => self.has_ffmpeg = Some(has_ffmpeg),
            Event::Draining => self.drain(),
            Event::Stopping => self.stop(),
            Event::TimePassed => {}
        }
        self.fill_slots();
        self.offer();
        std::mem::take(&mut self.actions)
    }

    /// When something is to be decided even if nothing happens.
    pub fn next_deadline(&self) -> Option<Time> {
        let live = self.batches.values().filter(|batch| batch.is_live());
        let batches = live.map(|batch| self.lease.deadline(batch.silence));
        batches.chain(self.is_leased.then_some(self.lease.until())).min()
    }

    /// Rises whenever the view may have changed.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What others may know of the node.
    pub fn view(&self) -> View {
        let held = || self.batches.iter().filter(|(key, _)| key.binding == self.binding.number);
        View {
            store_id: self.binding.store_id.clone(),
            first_batch: self.binding.first_batch,
            held: held().map(|(key, _)| key.id).collect(),
            live: held()
                .filter(|(_, batch)| batch.phase != Phase::Ended)
                .map(|(key, _)| key.id)
                .collect(),
            busy_slots: u32::try_from(self.running()).unwrap_or(u32::MAX),
            is_leased: self.is_leased,
            is_draining: self.is_draining,
            journals: self.outbox.len(),
        }
    }

    // Calls of the orchestrator.

    fn request(&mut self, request: Request) {
        let key = self.key(request.call.batch);
        match self.admit(&request) {
            Ok(()) => {
                self.make_room();
                let batch = Batch {
                    store_id: self.binding.store_id.clone(),
                    phase: Phase::Waiting,
                    silence: request.silence,
                    is_ending: false,
                    is_abandoned: false,
                };
                self.batches.insert(key, batch);
                self.waiting.push_back(key);
                self.act(Action::Accept { batch: key });
                self.revise();
            }
            Err(refusal) => {
                if refusal.is_final() {
                    // The orchestrator gives it to another node, so an earlier call that comes late must not start it.
                    self.binding.close(key.id);
                }
                self.act(Action::Refuse(refusal));
            }
        }
    }

    /// Forgets what is settled, then says why the batch cannot be accepted, if it cannot.
    fn admit(&mut self, request: &Request) -> Result<(), Refusal> {
        let Request { call, settled, needs, shortage, .. } = request;
        self.check_epoch(call)?;
        for id in settled {
            self.settle(self.key(*id));
        }
        if self.batches.contains_key(&self.key(call.batch)) {
            return Err(Refusal::Known(call.batch));
        }
        if self.binding.is_over(call.batch) {
            return Err(Refusal::StaleBatch(call.batch));
        }
        if self.is_stopping {
            return Err(Refusal::ShuttingDown);
        }
        if self.is_draining {
            return Err(Refusal::Draining);
        }
        if !self.is_leased {
            return Err(Refusal::NoLease);
        }
        // Without this, a caller would read that its frames cannot be rendered here.
        let has_ffmpeg = self.has_ffmpeg.ok_or(Refusal::Unequipped)?;
        if needs.scripts && !self.allows_scripts {
            return Err(Refusal::Scripts);
        }
        if needs.ffmpeg && !has_ffmpeg {
            return Err(Refusal::NoFfmpeg);
        }
        let live = self.batches.iter().filter(|(key, batch)| {
            key.binding == self.binding.number && batch.phase != Phase::Ended
        });
        if live.count() >= BATCHES_PER_SLOT * self.slots {
            return Err(Refusal::SlotsFull);
        }
        if let Some((free_bytes, needed_bytes)) = shortage.disk {
            return Err(Refusal::DiskLow { free_bytes, needed_bytes });
        }
        match shortage.outbox {
            Some(bytes) => Err(Refusal::OutboxFull { bytes }),
            None => Ok(()),
        }
    }

    fn attach(&mut self, call: Call) {
        match self.check_epoch(&call) {
            // A batch of that number would be another one than the caller means.
            Err(Refusal::OtherStore) => self.act(Action::Unknown { batch: call.batch }),
            Err(refusal) => self.act(Action::Refuse(refusal)),
            Ok(()) => {
                if let Some(batch) = self.lookup(call.batch) {
                    self.act(Action::Attach { batch });
                }
            }
        }
    }

    fn cancel(&mut self, call: Call) {
        if self.binding.is_another(&call.store_id) {
            return self.act(Action::Unknown { batch: call.batch });
        }
        let Some(batch) = self.lookup(call.batch) else { return };
        self.act(Action::Cancel { batch });
        if self.batches[&batch].phase == Phase::Ended {
            self.forget(batch);
        } else {
            self.end(batch, Ending::Cancelled);
        }
    }

    /// A batch that the node knows. The caller gives one that it does not know to other nodes.
    fn lookup(&mut self, id: BatchId) -> Option<BatchKey> {
        let key = self.key(id);
        if self.batches.contains_key(&key) {
            return Some(key);
        }
        self.binding.close(id);
        self.act(Action::Unknown { batch: id });
        None
    }

    fn check_epoch(&mut self, call: &Call) -> Result<(), Refusal> {
        if self.binding.check_epoch(&call.store_id, call.epoch)? {
            self.act(Action::ForgetUploads);
        }
        Ok(())
    }

    // Membership.

    fn register(&mut self, registration: &Registration) {
        let bound = self.binding.bind(registration);
        if bound.is_another_store || bound.is_newer_epoch {
            self.act(Action::ForgetUploads);
        }
        if bound.is_another_store {
            for batch in self.all_batches() {
                self.abandon(batch, Ending::OtherStore);
            }
        }
        self.renew(registration.grant, &registration.abandon);
    }

    fn raise_epoch(&mut self, epoch: u64) {
        if self.binding.raise_epoch(epoch) {
            self.act(Action::ForgetUploads);
        }
    }

    fn renew(&mut self, grant: Grant, abandon: &[BatchId]) {
        self.lease.renew(grant);
        self.is_leased = self.lease.holds(self.now);
        for id in abandon {
            self.abandon(self.key(*id), Ending::Abandoned);
        }
        self.revise();
    }

    /// Ends each batch whose time has run out.
    fn expire(&mut self) {
        if self.lease.holds(self.now) {
            return;
        }
        let is_over =
            |batch: &Batch| batch.is_live() && !self.lease.holds_for(batch.silence, self.now);
        let over: Vec<_> =
            self.batches.iter().filter(|(_, batch)| is_over(batch)).map(|(key, _)| *key).collect();
        for batch in over {
            self.end(batch, Ending::Silence);
        }
        if std::mem::take(&mut self.is_leased) {
            self.act(Action::KillIdle);
            self.revise();
        }
    }

    fn drain(&mut self) {
        self.is_draining = true;
        self.revise();
        for batch in self.waiting.clone() {
            self.end(batch, Ending::Draining);
        }
    }

    fn stop(&mut self) {
        self.is_stopping = true;
        for batch in self.all_batches() {
            self.end(batch, Ending::Stopping);
        }
    }

    // Reports of a batch.

    fn start_slice(&mut self, batch: BatchKey) {
        if !self.is_draining && self.may_report(batch) {
            self.act(Action::Publish { batch });
        }
    }

    fn keep(&mut self, batch: BatchKey, slice: Slice) {
        if let Some(from) = self.batches.get(&batch)
            && self.outbox.keep(JournalId::Of(batch), &from.store_id, slice)
        {
            self.revise();
        }
    }

    fn report(&mut self, batch: BatchKey, finished: Option<Slice>) {
        if self.may_report(batch) {
            if let Some(slice) = finished {
                self.outbox.report(JournalId::Of(batch), slice);
            }
            self.act(Action::Publish { batch });
        }
    }

    fn free_slot(&mut self, batch: BatchKey) {
        if let Some(freed) = self.batches.get_mut(&batch)
            && freed.phase == Phase::Rendering
        {
            freed.phase = Phase::Storing;
            self.revise();
            self.kill_idle_without_lease();
        }
    }

    fn batch_over(&mut self, batch: BatchKey, is_complete: bool) {
        let is_complete = is_complete && self.may_report(batch);
        self.conclude(batch, is_complete);
        self.kill_idle_without_lease();
    }

    /// After a batch has put its Blender back.
    fn kill_idle_without_lease(&mut self) {
        if !self.is_leased {
            self.act(Action::KillIdle);
        }
    }

    // From a slot to the end.

    /// Whether what a batch has done may become known: another node may have the slices of one that has to end.
    fn may_report(&self, batch: BatchKey) -> bool {
        self.batches.get(&batch).is_some_and(|batch| batch.has_begun() && !batch.is_ending)
    }

    fn fill_slots(&mut self) {
        while self.running() < self.slots
            && let Some(batch) = self.waiting.pop_front()
        {
            if let Some(started) = self.batches.get_mut(&batch) {
                started.phase = Phase::Rendering;
                self.act(Action::Start { batch });
                self.revise();
            }
        }
    }

    fn running(&self) -> usize {
        self.batches.values().filter(|batch| batch.phase == Phase::Rendering).count()
    }

    /// Ends a batch, at once if nothing renders for it.
    fn end(&mut self, batch: BatchKey, reason: Ending) {
        match self.batches.get_mut(&batch) {
            Some(ending) if ending.has_begun() && !ending.is_ending => {
                ending.is_ending = true;
                self.act(Action::Kill { batch, reason });
            }
            Some(Batch { phase: Phase::Waiting, .. }) => {
                self.waiting.retain(|waiting| *waiting != batch);
                self.conclude(batch, false);
            }
            _ => {}
        }
    }

    /// Nothing renders for a batch any more.
    fn conclude(&mut self, batch: BatchKey, is_complete: bool) {
        let Some(ended) = self.batches.get_mut(&batch).filter(|it| it.phase != Phase::Ended) else {
            return;
        };
        ended.phase = Phase::Ended;
        let is_abandoned = ended.is_abandoned;
        self.act(Action::Conclude { batch, is_complete });
        if is_abandoned {
            self.forget(batch);
        }
        self.revise();
    }

    /// Ends and forgets a batch that nobody will ask for. It is known until its renderer is dead.
    fn abandon(&mut self, batch: BatchKey, reason: Ending) {
        let Some(abandoned) = self.batches.get_mut(&batch) else { return };
        abandoned.is_abandoned = true;
        if abandoned.phase == Phase::Ended {
            self.forget(batch);
        } else {
            self.end(batch, reason);
        }
    }

    /// Forgets a batch that has ended and is not settled. Its frames are offered.
    fn forget(&mut self, batch: BatchKey) {
        self.remove(batch);
        self.outbox.orphan(JournalId::Of(batch));
        self.revise();
    }

    /// Forgets a batch that has ended and whose events are durable at the orchestrator.
    fn settle(&mut self, batch: BatchKey) {
        if self.batches.get(&batch).is_none_or(|batch| batch.phase != Phase::Ended) {
            return;
        }
        self.remove(batch);
        let journal = JournalId::Of(batch);
        if self.outbox.settle(journal) {
            self.act(Action::Delete { journal });
        }
        self.revise();
    }

    fn remove(&mut self, batch: BatchKey) {
        self.batches.remove(&batch);
        if batch.binding == self.binding.number {
            // A call that was repeated may still come.
            self.binding.close(batch.id);
        }
        self.act(Action::Forget { batch });
    }

    /// Forgets the oldest batch that has ended when there are too many.
    fn make_room(&mut self) {
        let is_old = |(key, batch): &(&BatchKey, &Batch)| {
            key.binding == self.binding.number && batch.phase == Phase::Ended
        };
        if self.batches.len() >= KEPT_BATCHES_MAX
            && let Some((oldest, _)) = self.batches.iter().find(is_old)
        {
            self.forget(*oldest);
        }
    }

    /// Offers the next orphan.
    fn offer(&mut self) {
        if !self.is_leased {
            return;
        }
        while let Some(next) = self.outbox.next_offer(&self.binding.store_id) {
            self.act(match next {
                Ok(journal) => Action::Offer { journal },
                Err(journal) => Action::Delete { journal },
            });
            self.revise();
        }
    }

    fn key(&self, id: BatchId) -> BatchKey {
        BatchKey { binding: self.binding.number, id }
    }

    fn all_batches(&self) -> Vec<BatchKey> {
        self.batches.keys().copied().collect()
    }

    fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn revise(&mut self) {
        self.revision += 1;
    }
}

impl Batch {
    fn has_begun(&self) -> bool {
        matches!(self.phase, Phase::Rendering | Phase::Storing)
    }

    /// Whether it may still report something.
    fn is_live(&self) -> bool {
        self.phase != Phase::Ended && !self.is_ending
    }
}

impl Refusal {
    /// Whether the orchestrator gives the batch to another node, as no call for it succeeds here.
    fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Scripts
                | Self::NoFfmpeg
                | Self::SlotsFull
                | Self::DiskLow { .. }
                | Self::OutboxFull { .. }
        )
    }
}
