//! The RPCs: parse, ask, answer.

pub(crate) mod blob_store;
pub(crate) mod connections;
pub(crate) mod faults;
mod jobs;
mod members;
pub(crate) mod orchestrator;
pub(crate) mod places;

use std::time::Duration;

/// Streams of one client: those of a farm's nodes and people behind one address.
const STREAMS_PER_CLIENT_MAX: usize = 1_024;
/// Streams in all. One that stalls holds a message and some 64 KiB.
const STREAMS_MAX: usize = 4_096;
/// How long a reader may stall: longer than a laptop takes to change its network.
const STALL: Duration = Duration::from_secs(60);

/// Bounds of the streams that clients hold open: watches, logs, uploads and downloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamLimits {
    /// Streams of one client at once; clients are told apart by their addresses. 1,024 unless told otherwise.
    pub per_client: usize,
    /// Streams of all of them; 4,096 unless told otherwise.
    pub total: usize,
    /// How long a reader may leave unread what was there for it, before its stream is dropped; a minute unless
    /// told otherwise, and up to a quarter longer.
    pub stall: Duration,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self { per_client: STREAMS_PER_CLIENT_MAX, total: STREAMS_MAX, stall: STALL }
    }
}
