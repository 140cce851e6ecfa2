//! What must hold between any two events.

use super::{BATCHES_PER_SLOT, Core, JournalId, KEPT_BATCHES_MAX, Phase};

impl Core {
    /// Panics if the core's tables contradict each other. For tests and the simulation, after each event.
    pub fn check_invariants(&self) {
        let in_phase = |phase| self.batches.values().filter(move |batch| batch.phase == phase);
        let running = in_phase(Phase::Rendering).count();
        assert!(running <= self.slots, "{running} batches run in {} slots", self.slots);
        assert!(
            running == self.slots || self.waiting.is_empty(),
            "no batch waits for a slot that is free"
        );
        assert_eq!(
            in_phase(Phase::Waiting).count(),
            self.waiting.len(),
            "each batch that waits is in the queue once"
        );
        for key in &self.waiting {
            let batch = self.batches.get(key);
            assert!(
                batch.is_some_and(|batch| batch.phase == Phase::Waiting && !batch.is_ending),
                "{key:?} is in the queue and does not wait"
            );
        }
        for (key, batch) in &self.batches {
            let is_ended = batch.phase == Phase::Ended;
            assert!(
                key.binding == self.binding.number || (batch.is_abandoned && !is_ended),
                "{key:?} of a former store is not ending"
            );
            assert!(!(batch.is_abandoned && is_ended), "{key:?} has ended and nobody wants it");
            assert!(
                !batch.is_live() || self.lease.holds_for(batch.silence, self.now),
                "{key:?} outlives its time"
            );
            assert!(!(self.is_stopping && batch.is_live()), "{key:?} goes on as the node stops");
        }
        assert!(!self.is_draining || self.waiting.is_empty(), "a batch waits as the node drains");
        assert_eq!(self.is_leased, self.lease.holds(self.now), "the lease is as it was seen last");
        let kept_max = KEPT_BATCHES_MAX + BATCHES_PER_SLOT * self.slots;
        assert!(self.batches.len() <= kept_max, "{} batches are kept", self.batches.len());
        self.outbox.check_invariants(|journal| match journal {
            JournalId::Found(_) => false,
            JournalId::Of(batch) => self.batches.contains_key(&batch),
        });
    }
}
