//! A live node: its lease, and whether it has room.

use std::{collections::BTreeSet, time::Duration};

use crate::domain::{BatchId, Incarnation, NodeDescription, Now};

/// First pause of a node whose tries fail for reasons around the renderer; doubles with each further one.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest such pause: a mended node is back to work within a minute.
const PAUSE_MAX: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Node {
    pub(super) incarnation: Incarnation,
    pub(super) description: NodeDescription,
    pub(super) lease_until: Now,
    pub(super) paused_until: Option<Now>,
    troubles_in_a_row: u32,
    /// Batches it was sent and has not ended: rendering or waiting on the node.
    pub(super) batches: BTreeSet<BatchId>,
    /// Whether its one batch must stay the only one.
    pub(super) alone: bool,
    /// Slices of those batches that are not settled.
    pub(super) unsettled: usize,
    pub(super) finished: u64,
}

impl Node {
    pub(super) fn new(
        incarnation: Incarnation,
        description: NodeDescription,
        lease_until: Now,
    ) -> Self {
        Self {
            incarnation,
            description,
            lease_until,
            paused_until: None,
            troubles_in_a_row: 0,
            batches: BTreeSet::new(),
            alone: false,
            unsettled: 0,
            finished: 0,
        }
    }

    pub(super) fn slots(&self) -> usize {
        self.description.slots as usize
    }

    fn may_be_sent_more(&self) -> bool {
        self.paused_until.is_none() && !self.alone
    }

    /// Whether a slot is free.
    pub(super) fn has_free_slot(&self) -> bool {
        self.may_be_sent_more() && self.batches.len() < self.slots()
    }

    /// Whether it may be sent a batch ahead of time, so that it does not run dry while the next one travels:
    /// its slots are on their last slices, or will be within a moment.
    pub(super) fn runs_dry_soon(&self, seconds_a_slice: f64) -> bool {
        // A dispatch takes milliseconds; this leaves room for a busy orchestrator.
        const AHEAD_SECONDS: f64 = 0.5;
        let slots = self.slots();
        self.may_be_sent_more()
            && self.batches.len() < 2 * slots
            && (self.unsettled <= slots
                || self.unsettled as f64 * seconds_a_slice / slots as f64 <= AHEAD_SECONDS)
    }

    /// Pauses it, longer each time until something goes well.
    pub(super) fn pause(&mut self, now: Now) -> Now {
        let pause = PAUSE_MIN.saturating_mul(1 << self.troubles_in_a_row.min(16)).min(PAUSE_MAX);
        self.troubles_in_a_row += 1;
        let until = now + pause;
        self.paused_until = Some(until);
        until
    }

    pub(super) fn did_well(&mut self) {
        self.troubles_in_a_row = 0;
    }
}
