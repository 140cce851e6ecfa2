//! The work of one cycle: what to write, and what to do once it is durable.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use framecrew_blobs::Digest;
use tokio::sync::oneshot;

use crate::{
    dispatch::Assignment,
    domain::{ActiveSlice, BatchId, Frame, JobId, NodeName, NodeView, Slice},
    store::{Group, JobRecord},
};

/// A step that must wait until the group is durable. Effects run in order.
pub(super) enum Effect {
    Start(Assignment),
    Refuse(BatchId),
    Forget(NodeName),
    CancelBatch(BatchId, NodeName),
    EndBatch(BatchId, NodeName),
    Reply(Box<dyn FnOnce() + Send>),
}

/// What watchers of a job have not seen yet.
#[derive(Default)]
pub(super) struct Pending {
    pub(super) frames: Vec<Arc<Frame>>,
    pub(super) previews: Vec<(Digest, Bytes)>,
    pub(super) active: BTreeMap<Slice, ActiveSlice>,
}

/// Everything that one cycle decided.
#[derive(Default)]
pub(super) struct Cycle {
    pub(super) group: Group,
    pub(super) effects: Vec<Effect>,
    /// Jobs that follow from finished ones. They begin once they are durable.
    pub(super) followups: Vec<JobRecord>,
    /// Jobs that were over and are open again, as they were before.
    pub(super) reopened: Vec<JobRecord>,
    pub(super) jobs: BTreeMap<JobId, Pending>,
    pub(super) nodes: BTreeSet<NodeName>,
    pub(super) gone: Vec<NodeView>,
}

impl Cycle {
    /// Sends an answer once this cycle is durable.
    pub(super) fn reply<T: Send + 'static>(&mut self, reply: oneshot::Sender<T>, answer: T) {
        // If the caller has gone, its request is carried out all the same.
        self.effects.push(Effect::Reply(Box::new(move || drop(reply.send(answer)))));
    }
}
