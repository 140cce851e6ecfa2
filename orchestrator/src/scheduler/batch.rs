//! A live batch, and how a node comes to lose one.

use std::{collections::BTreeMap, time::Duration};

use crate::domain::{JobId, NodeName, Slice};

/// A batch that a node has, or may have.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) job: JobId,
    pub(super) node: NodeName,
    /// Slices that are not settled, and whether the node has begun them. Empty once the job is over.
    pub(super) open: BTreeMap<Slice, bool>,
    /// All its slices, in the order in which the node renders them.
    pub(super) order: Vec<Slice>,
    /// How long after the node was last heard the slices may be given away.
    pub(super) patience: Duration,
    /// Whether the node is to end it.
    pub(super) cancelled: bool,
}

impl Batch {
    /// How long after its node was last heard the batch may be given up: nothing is lost with an empty one.
    pub(super) fn patience(&self, lease: Duration) -> Duration {
        if self.open.is_empty() { lease } else { self.patience }
    }
}

/// How a node came to lose a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// The reason is unknown: the slices that it had begun are blamed.
    Died,
    /// It deregistered after its renderers had ended.
    SaidGoodbye,
    /// It was given up for another batch.
    Evicted,
}
