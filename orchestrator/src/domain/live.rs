//! What is happening now. None of it is durable.

use super::{
    ids::{Incarnation, NodeName, Slice},
    node::NodeDescription,
};

/// A slice that a node is rendering.
#[derive(Debug, Clone)]
pub(crate) struct ActiveSlice {
    pub(crate) slice: Slice,
    pub(crate) node: NodeName,
    pub(crate) started_at_ms: i64,
    pub(crate) progress: Progress,
}

/// The progress of a slice, as reported by the renderer.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Progress {
    pub(crate) samples_done: u32,
    pub(crate) samples_total: u32,
    pub(crate) fraction: Option<f64>,
    pub(crate) remaining_seconds: Option<f64>,
    pub(crate) memory_bytes: u64,
}

/// A node as people see it.
#[derive(Debug, Clone)]
pub(crate) struct NodeView {
    pub(crate) name: NodeName,
    pub(crate) incarnation: Incarnation,
    pub(crate) address: String,
    pub(crate) description: NodeDescription,
    pub(crate) state: NodeState,
    pub(crate) unsettled_slices: u32,
    pub(crate) finished_slices: u64,
    pub(crate) seen_at_ms: i64,
    /// When the node was found to be gone; 0 while it is live.
    pub(crate) gone_at_ms: i64,
    /// Why the node gets no work; empty if it may get some.
    pub(crate) state_reason: String,
    /// Until when the state lasts; 0 if unknown.
    pub(crate) state_until_ms: i64,
}

/// The state of a node as people see it. `Lost` and `Left` nodes are gone; all others are live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodeState {
    Idle,
    Rendering,
    Paused,
    Lost,
    Left,
    Quarantined,
    Silent,
    Draining,
}

impl NodeView {
    /// A node without work.
    pub(crate) fn new(
        name: NodeName,
        incarnation: Incarnation,
        address: String,
        description: NodeDescription,
        state: NodeState,
        seen_at_ms: i64,
    ) -> Self {
        Self {
            name,
            incarnation,
            address,
            description,
            state,
            unsettled_slices: 0,
            finished_slices: 0,
            seen_at_ms,
            gone_at_ms: 0,
            state_reason: String::new(),
            state_until_ms: 0,
        }
    }
}

impl NodeState {
    pub(crate) fn is_live(self) -> bool {
        !matches!(self, Self::Lost | Self::Left)
    }
}
