//! Whether a node is trusted to render: one that fails everything gets no work for a while.
//!
//! The rule. A try that fails by the renderer's fault (error, invalid output, silence, memory) counts against
//! its node unless the job is known to be at fault: since anything of the job last finished, two nodes or more
//! have failed it, and they are half or more of those that could render it. What was held against nodes for
//! the sake of such a job is forgotten. A node on which tries of three different slices failed, and none
//! finished, is in quarantine: for a pause that grows each time it gets nothing. After it the node is on
//! probation: one slice at a time, and the first that finishes sets it free, the first that counts against it
//! sends it back. It gets no more even if no other node is at work now: who could render instead may be back
//! in a moment, and frames that one broken node had tried in vain would be given up by then. Only a node that
//! has nobody to be compared with, now or within the last minutes, is not blamed at all.

use std::{collections::BTreeSet, time::Duration};

use crate::domain::{JobId, Slice, Time};

/// Different slices that fail before a node is put into quarantine: two may be bad luck.
const SLICES_BORNE: usize = 3;
/// First quarantine; doubles with each further one.
const QUARANTINE_MIN: Duration = Duration::from_secs(10);
/// Longest quarantine: a mended node is back to work within five minutes.
const QUARANTINE_MAX: Duration = Duration::from_secs(5 * 60);

/// What is held against a node.
#[derive(Debug, Default)]
pub(super) struct Trust {
    /// Different slices that failed since one last finished, no more of them than it takes.
    failed: BTreeSet<(JobId, Slice)>,
    /// Tries that failed in a row.
    tries: u32,
    /// Quarantines in a row.
    quarantines: u32,
    until: Option<Time>,
    on_probation: bool,
}

impl Trust {
    /// When the quarantine ends, while the node is in one.
    pub(super) fn quarantined_until(&self) -> Option<Time> {
        self.until
    }

    /// Tries that failed in a row.
    pub(super) fn failed_tries(&self) -> u32 {
        self.tries
    }

    /// Whether the node gets no more than a slice at a time, if anything.
    pub(super) fn is_limited(&self) -> bool {
        self.until.is_some() || self.on_probation
    }

    /// A try that counts failed.
    pub(super) fn record_failure(&mut self, now: Time, job: JobId, slice: Slice) {
        self.tries = self.tries.saturating_add(1);
        if self.failed.len() < SLICES_BORNE {
            self.failed.insert((job, slice));
        }
        if self.until.is_none() && (self.on_probation || self.failed.len() >= SLICES_BORNE) {
            let pause = QUARANTINE_MIN.saturating_mul(1 << self.quarantines.min(16));
            self.until = Some(now + pause.min(QUARANTINE_MAX));
            self.quarantines += 1;
            self.on_probation = false;
        }
    }

    /// A slice finished: nothing is held against the node any more.
    pub(super) fn record_success(&mut self) {
        *self = Self::default();
    }

    /// Nobody else could show whose fault it was; returns whether that frees the node.
    pub(super) fn pardon(&mut self) -> bool {
        std::mem::take(self).is_limited()
    }

    /// It was the job's fault; returns whether that frees the node.
    pub(super) fn acquit(&mut self, job: JobId) -> bool {
        self.failed.retain(|(of, _)| *of != job);
        let frees = self.is_limited() && self.failed.is_empty();
        if self.failed.is_empty() {
            *self = Self::default();
        }
        frees
    }

    /// The quarantine's time is over.
    pub(super) fn begin_probation(&mut self) {
        self.until = None;
        self.on_probation = true;
    }
}
