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

/// How long the request of a call may take, beside the time that its bytes take on the slowest link: whoever asks
/// something has it at hand.
const REQUEST_WITHIN: Duration = Duration::from_secs(30);

/// Bounds of what clients hold open: streams, which are watches, logs, uploads and downloads, and requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamLimits {
    /// Streams of one client at once; clients are told apart by their addresses. 1,024 unless told otherwise.
    pub per_client: usize,
    /// Streams of all of them; 4,096 unless told otherwise.
    pub total: usize,
    /// How long a reader may leave unread what was there for it, before its stream is dropped; a minute unless
    /// told otherwise, and up to a quarter longer.
    pub stall: Duration,
    /// How long the request of a call may take that is not itself a stream; half a minute unless told otherwise,
    /// and for each 128 KiB that have come of it a second longer.
    pub request: Duration,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self {
            per_client: STREAMS_PER_CLIENT_MAX,
            total: STREAMS_MAX,
            stall: STALL,
            request: REQUEST_WITHIN,
        }
    }
}
