//! The RPCs: parse the request, ask the driver, the feed or the store, convert the answer.

pub(crate) mod blob_store;
pub(crate) mod connections;
mod jobs;
mod lookup;
mod members;
pub(crate) mod orchestrator;
pub(crate) mod quotas;
mod status;
mod submit;
mod watches;

use std::time::Duration;

/// Streams of one client: those of a farm's nodes and people behind one address.
const STREAMS_PER_CLIENT_MAX: usize = 1_024;
/// Streams in all. One that stalls holds a message and some 64 KiB.
const STREAMS_MAX: usize = 4_096;
/// How long a reader may stall: longer than a laptop takes to change its network.
const STALL: Duration = Duration::from_secs(60);
/// Bytes of jobs or frames on a page or in a message, about: half of what grpcurl takes by default.
const PAGE_BYTES: usize = 2 << 20;

/// How long a request may take to arrive, on top of its transfer time at the slowest supported speed. A real client has
/// its request ready.
const REQUEST_WITHIN: Duration = Duration::from_secs(30);

/// Bounds on what clients may hold open: streams (watches, logs, uploads, downloads) and requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamLimits {
    /// Streams of one client at once; an address is a client. 1,024 by default.
    pub per_client: usize,
    /// Streams of all clients; 4,096 by default.
    pub total: usize,
    /// How long a reader may leave sent data unread before its stream is dropped; a minute by default, and up to a
    /// quarter longer.
    pub stall: Duration,
    /// How long a request that is not a stream may take to arrive; half a minute by default, and a second longer for
    /// each 128 KiB received.
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
