//! The names of what the core decides about.

use std::{fmt, time::Duration};

use framecrew_proto::BatchName;

/// A moment: how long the machine has been up, by a clock that counts suspend. Only compared with others of the
/// same node.
pub type Time = Duration;

/// Number of a batch in the orchestrator's store. Two stores use the same numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub u64);

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        BatchName(self.0).fmt(f)
    }
}

/// A batch of one of the stores that this node was bound to. Never reused, so an event of a former store's batch
/// cannot be taken for one of the present store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchKey {
    /// Counts the stores that this incarnation was bound to before.
    pub binding: u32,
    /// Its number in that store.
    pub id: BatchId,
}

/// The file that lists the finished frames of one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JournalId {
    /// An earlier incarnation left it; numbered in the order in which they are offered.
    Found(usize),
    /// A batch of this incarnation writes it.
    Of(BatchKey),
}

/// A part of a frame that is rendered by itself; most frames have only one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slice {
    /// Frame number in the scene.
    pub frame: i32,
    /// Number of the slice in the frame, from 0.
    pub index: u32,
}
