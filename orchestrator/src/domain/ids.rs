//! Names and numbers of things.

use std::{fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

/// Time since the orchestrator started, by its monotonic clock. The scheduler uses no other clock.
pub type Time = Duration;

/// A job's number. Numbers start at 1, rise, and are never reused in one store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct JobId(pub u64);

/// A batch's number: the epoch in the upper 32 bits, a counter in the lower. Numbers rise strictly, also across restarts,
/// and are never reused: an event that names an ended batch is ignored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct BatchId(pub u64);

/// An incarnation of the orchestrator on its store. Each start has a higher number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Epoch(pub u32);

/// An incarnation of a node's process. Each start has a higher number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

/// A node's name. Cheap to clone.
pub type NodeName = Arc<str>;

/// Position in a job's stream of durable changes.
pub type Revision = u64;

/// A part of a frame's work. Today every frame has one, with index 0: the whole frame.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Slice {
    /// The frame's number.
    pub frame: i32,
    /// The slice's index among those of the frame.
    pub index: u32,
}

impl Slice {
    /// The slice that covers a whole frame.
    #[must_use]
    pub fn whole(frame: i32) -> Self {
        Self { frame, index: 0 }
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        framecrew_proto::BatchName(self.0).fmt(f)
    }
}

impl BatchId {
    /// The first batch of an epoch.
    #[must_use]
    pub fn first(epoch: Epoch) -> Self {
        Self(u64::from(epoch.0) << 32 | 1)
    }

    /// The batch after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_batch_id_of_a_later_epoch_is_higher() {
        let mut batch = BatchId::first(Epoch(1));
        for _ in 0..1000 {
            batch = batch.next();
        }
        assert!(BatchId::first(Epoch(2)) > batch);
    }
}
