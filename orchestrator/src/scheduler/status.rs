//! What people see of a live node.

use crate::domain::Time;

/// A live node as people see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeLoad {
    /// Slices it was given and has not settled.
    pub unsettled_slices: u32,
    /// Slices it has finished in this incarnation.
    pub finished_slices: u64,
    /// Whether it has batches.
    pub has_work: bool,
    /// Whether it gets work.
    pub standing: NodeStatus,
}

/// Whether a live node gets work, and what keeps it from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeStatus {
    /// It does.
    Ready,
    /// Tries failed on it for reasons around the renderer, or it refused a batch.
    Paused {
        /// When it is tried again.
        until: Time,
    },
    /// Every try of late failed on it by the renderer's fault.
    Quarantined {
        /// When it is tried again, with one slice.
        until: Time,
        /// Tries that failed in a row.
        tries: u32,
    },
    /// It is not heard of: its lease has ended.
    Silent {
        /// When it was last heard of.
        since: Time,
        /// When the next of its batches is given away, or it is given up.
        until: Time,
    },
    /// It is heard of, and cannot be reached.
    Unreachable,
    /// It is about to leave.
    Draining,
    /// It did not end a batch that it was told to end. It is not listened to until it is certain that it has
    /// stopped, and is lost then.
    Evicted {
        /// When the next of its batches is given away, or it is given up.
        until: Time,
    },
}
