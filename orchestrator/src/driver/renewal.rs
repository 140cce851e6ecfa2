//! Renewed leases that the scheduler has not heard of yet.

use std::collections::BTreeSet;

use crate::domain::{BatchId, Time};

/// The renewals of one node since the latest cycle began, merged.
#[derive(Default)]
pub(super) struct Renewal {
    /// The latest renewal.
    pub(super) at: Time,
    pub(super) draining: bool,
    /// Batches that the node has ended because an earlier answer listed them as abandoned.
    pub(super) ended: BTreeSet<BatchId>,
}
