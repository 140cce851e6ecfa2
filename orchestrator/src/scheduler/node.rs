//! A live node: when it was last heard of, and whether it has room.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{batch::Loss, trust::Trust};
use crate::domain::{BatchId, Incarnation, JobId, NodeDescription, Time};

/// First pause of a node whose tries fail for reasons around the renderer; doubles with each further one.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest such pause: a mended node is back to work within a minute.
const PAUSE_MAX: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Node {
    pub(super) incarnation: Incarnation,
    pub(super) description: NodeDescription,
    pub(super) heard: Time,
    /// Whether its lease has ended. It has batches then whose jobs bear more, or it would be lost.
    pub(super) silent: bool,
    /// Whether batches do not get through to it although it is heard of: it gets nothing until it has registered
    /// again, perhaps from another address.
    pub(super) unreachable: bool,
    /// Whether it is not listened to any more, until it is certain that it has stopped.
    pub(super) evicted: bool,
    pub(super) draining: bool,
    pub(super) paused_until: Option<Time>,
    troubles_in_a_row: u32,
    pub(super) trust: Trust,
    /// Batches it was sent and has not ended: rendering or waiting on the node.
    pub(super) batches: BTreeSet<BatchId>,
    /// Those of them that it was told to end, and when that must have happened.
    pub(super) cancels: BTreeMap<BatchId, Time>,
    /// Whether its one batch must stay the only one.
    pub(super) alone: bool,
    /// Whose slice it gets nothing more for, as that must be alone: from one look at the node to the next.
    pub(super) empties_for: Option<JobId>,
    /// Slices of those batches that are not settled.
    pub(super) unsettled: usize,
    pub(super) finished: u64,
    /// When the scheduler looks at it next, at the latest.
    pub(super) alarm: Time,
}

impl Node {
    pub(super) fn new(incarnation: Incarnation, description: NodeDescription, heard: Time) -> Self {
        Self {
            incarnation,
            description,
            heard,
            silent: false,
            unreachable: false,
            evicted: false,
            draining: false,
            paused_until: None,
            troubles_in_a_row: 0,
            trust: Trust::default(),
            batches: BTreeSet::new(),
            cancels: BTreeMap::new(),
            alone: false,
            empties_for: None,
            unsettled: 0,
            finished: 0,
            alarm: Time::MAX,
        }
    }

    pub(super) fn slots(&self) -> usize {
        self.description.slots as usize
    }

    fn may_be_sent_more(&self) -> bool {
        self.is_available() && !self.alone && (!self.trust.is_limited() || self.batches.is_empty())
    }

    /// Whether it is about to be empty for a slice of this job, and nothing keeps it from taking it then.
    pub(super) fn is_to_be_empty_for(&self, job: JobId) -> bool {
        self.empties_for == Some(job) && self.may_be_sent_more()
    }

    /// Whether it counts as one that could render what others cannot.
    pub(super) fn is_available(&self) -> bool {
        !self.silent
            && !self.unreachable
            && !self.evicted
            && !self.draining
            && self.paused_until.is_none()
            && self.trust.quarantined_until().is_none()
    }

    /// Whether a word of it renews its lease. Without that it must register again, so that calls which are still
    /// on their way to it are void.
    pub(super) fn is_listened_to(&self) -> bool {
        !self.silent && !self.unreachable && !self.evicted
    }

    /// What became of its batches, now that it is gone.
    pub(super) fn end(&self) -> Loss {
        if self.evicted { Loss::Evicted } else { Loss::Died }
    }

    /// Whether a slot is free.
    pub(super) fn has_free_slot(&self) -> bool {
        self.may_be_sent_more() && self.batches.len() < self.slots()
    }

    /// Whether it may be sent a batch ahead of time.
    pub(super) fn takes_ahead(&self) -> bool {
        self.may_be_sent_more() && self.batches.len() < 2 * self.slots()
    }

    /// Whether it should be sent one, so that it does not run dry while that travels: its slots are on their last
    /// slices, or will be within a moment.
    pub(super) fn runs_dry_soon(&self, seconds_a_slice: f64) -> bool {
        // A dispatch takes milliseconds; this leaves room for a busy orchestrator.
        const AHEAD_SECONDS: f64 = 0.5;
        let slots = self.slots();
        self.takes_ahead()
            && (self.unsettled <= slots
                || self.unsettled as f64 * seconds_a_slice / slots as f64 <= AHEAD_SECONDS)
    }

    /// Pauses it, longer each time until something goes well.
    pub(super) fn pause(&mut self, now: Time) {
        let pause = PAUSE_MIN.saturating_mul(1 << self.troubles_in_a_row.min(16)).min(PAUSE_MAX);
        self.troubles_in_a_row += 1;
        self.paused_until = Some(now + pause);
    }

    /// Pauses it for as long as that goes: what it is given now would be out of reach too.
    pub(super) fn pause_out_of_reach(&mut self, now: Time) {
        self.paused_until = Some(now + PAUSE_MAX);
    }

    pub(super) fn did_well(&mut self) {
        self.troubles_in_a_row = 0;
        self.trust.record_success();
    }
}
