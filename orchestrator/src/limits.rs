//! Numbers that more than one part of the orchestrator goes by.

/// Bytes a second that the slowest supported link carries. A large message gets that much longer to arrive.
pub(crate) const LINK_BYTES_A_SECOND: u64 = 128 << 10;
