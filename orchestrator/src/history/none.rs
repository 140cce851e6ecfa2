//! Without the feature `history`, nothing is recorded.

use crate::{
    domain::{Incarnation, NodeName},
    scheduler::Action,
    store::{Identity, JobRecord},
};

/// Has the methods of the real history, and does nothing.
#[derive(Debug, Default)]
pub(crate) struct History;

impl History {
    pub(crate) fn opened(&mut self, _: &Identity, _: u64) {}

    pub(crate) fn submitted(&mut self, _: &JobRecord) {}

    pub(crate) fn registering(&mut self, _: &NodeName, _: Incarnation, _: u32) {}

    pub(crate) fn registered(&mut self) {}

    pub(crate) fn acted(&mut self, _: &Action) {}

    pub(crate) fn announce(&mut self, _: bool) {}

    pub(crate) fn durable(&mut self) {}
}
