//! The node's time-limited right to work.

use std::time::Duration;

use super::{Grant, Time};

/// Lasts from the moment the last answered call was *sent* for the lease's length; for a batch that bears more
/// silence, for that long from the same moment.
#[derive(Debug, Default)]
pub(super) struct Lease {
    /// `None`: there was none, or it was returned.
    sent: Option<Time>,
    until: Time,
}

impl Lease {
    /// Whether the node may accept work.
    pub(super) fn holds(&self, now: Time) -> bool {
        now < self.until
    }

    /// Whether the node may go on with a batch that bears so much silence.
    pub(super) fn holds_for(&self, silence: Duration, now: Time) -> bool {
        now < self.deadline(silence)
    }

    /// When a batch that bears so much silence has to end, unless an answer comes until then.
    pub(super) fn deadline(&self, silence: Duration) -> Time {
        self.sent.map_or(self.until, |sent| self.until.max(sent.saturating_add(silence)))
    }

    /// An answer that comes late does not shorten the lease.
    pub(super) fn renew(&mut self, grant: Grant) {
        self.until = self.until.max(grant.sent.saturating_add(grant.ttl));
        self.sent = self.sent.max(Some(grant.sent));
    }

    pub(super) fn give_up(&mut self) {
        *self = Self::default();
    }

    pub(super) fn until(&self) -> Time {
        self.until
    }
}
