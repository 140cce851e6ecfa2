//! Talks to nodes. One task for each live batch calls RenderBatch (or AttachBatch, after a restart or a broken link) and
//! forwards the node's events to the driver. A stream that ends without its end event is broken, not finished: the
//! task attaches again, until the scheduler ends the batch.
//!
//! One stream for each batch, rather than one for each node, costs a few kilobytes a batch. In return a batch that is read
//! slowly holds up no other, and a broken stream says exactly which batch needs attention.

mod errors;
mod follower;
mod links;
mod retry;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use framecrew_proto::v1::{
    CancelBatchRequest, RenderBatchRequest, Slice as WireSlice,
    render_node_client::RenderNodeClient,
};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tonic::{Code, transport::Channel};
use tracing::debug;

use self::{
    errors::is_of_another_node,
    follower::{Errand, Follower},
    links::{SendTicket, State},
    retry::{ANSWER_TIMEOUT, Retry, within},
};
use crate::{
    blobs::Blobs,
    convert,
    domain::{BatchId, BlenderVersion, Epoch, Incarnation, JobId, JobSpec, NodeName, Slice},
    mailbox::{BatchReport, DriverHandle},
    store::{Identity, NodeRecord},
};

/// Ended batches remembered for one node until its next batch carries them. Heartbeats cover the others.
const SETTLED_MAX: usize = 1_024;

/// A batch, and the node that is to render it.
#[derive(Debug)]
pub(crate) struct Assignment {
    pub(crate) batch: BatchId,
    pub(crate) job: JobId,
    pub(crate) node: NodeName,
    pub(crate) incarnation: Incarnation,
    pub(crate) address: String,
    pub(crate) spec: Arc<JobSpec>,
    pub(crate) file_version: BlenderVersion,
    pub(crate) slices: Vec<Slice>,
}

/// Carries out the driver's decisions about batches. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Dispatch {
    driver: DriverHandle,
    blobs: Blobs,
    epoch: Epoch,
    store_id: Arc<str>,
    state: Arc<Mutex<State>>,
    shutdown: CancellationToken,
}

impl Dispatch {
    pub(crate) fn new(
        driver: DriverHandle,
        blobs: Blobs,
        identity: &Identity,
        shutdown: CancellationToken,
    ) -> Self {
        let (epoch, store_id) = (identity.epoch, identity.store_id.clone());
        Self { driver, blobs, epoch, store_id, state: Arc::default(), shutdown }
    }

    /// Sends a batch and follows it.
    pub(crate) fn start(&self, assignment: Assignment) {
        let Assignment { batch, job, node, incarnation, address, spec, file_version, slices } =
            assignment;
        let Some((client, settled, ticket)) = self.link(&node, &address) else {
            return self.refuse(batch);
        };
        let request = RenderBatchRequest {
            batch_id: batch.0,
            epoch: u64::from(self.epoch.0),
            job_id: job.0,
            project: Some(convert::project_to_wire(&spec.project)),
            settings: Some(convert::settings_to_wire(&spec.settings)),
            slices: slices
                .iter()
                .map(|slice| WireSlice { frame: slice.frame, index: slice.index })
                .collect(),
            file_version: file_version.to_string(),
            settled_batch_ids: settled,
            strict: spec.strict,
            encoding: convert::encoding_to_wire(&spec),
            limits: Some(convert::limits_to_wire(spec.limits)),
            store_id: self.store_id.to_string(),
            node: node.to_string(),
            span: spec.frames.is_in_order().then(|| convert::range_to_wire(&spec.frames.span())),
        };
        self.spawn(batch, node, incarnation, client, Errand::Send(Box::new(request), ticket));
    }

    /// Follows a batch that an earlier incarnation sent, and whose log lines are stored up to the event `logged`.
    pub(crate) fn attach(&self, batch: BatchId, name: &NodeName, node: &NodeRecord, logged: u64) {
        match self.link(name, &node.address) {
            Some((client, ..)) => {
                let errand = Errand::Attach { logged };
                self.spawn(batch, name.clone(), node.incarnation, client, errand);
            }
            None => self.refuse(batch),
        }
    }

    /// Asks a node to end a batch, until the node confirms or the scheduler gives the batch up.
    pub(crate) fn cancel(&self, batch: BatchId, node: &NodeName) {
        let (client, ended) = {
            let state = self.lock();
            let (Some(link), Some(ended)) = (state.links.get(node), state.batches.get(&batch))
            else {
                return;
            };
            (link.client.clone(), ended.clone())
        };
        let (this, node) = (self.clone(), node.clone());
        tokio::spawn(async move {
            let mut retry = Retry::default();
            let cancel = async {
                loop {
                    let store_id = this.store_id.to_string();
                    let request = CancelBatchRequest { batch_id: batch.0, store_id };
                    let mut client = client.clone();
                    match within(ANSWER_TIMEOUT, client.cancel_batch(request)).await {
                        Ok(_) => return,
                        Err(status)
                            if status.code() == Code::NotFound
                                && !is_of_another_node(&status, &node) =>
                        {
                            return;
                        }
                        Err(status) => debug!(%batch, %status, "cancel not confirmed"),
                    }
                    retry.pause().await;
                }
            };
            tokio::select! {
                () = cancel => this.driver.report(batch, vec![BatchReport::Ended]).await,
                () = ended.cancelled() => {}
            }
        });
    }

    /// Stops following a batch that the scheduler has ended, and lets the node forget it.
    pub(crate) fn end(&self, batch: BatchId, node: &NodeName) {
        let mut state = self.lock();
        if let Some(token) = state.batches.remove(&batch) {
            token.cancel();
        }
        if state.read.remove(&batch)
            && let Some(link) = state.links.get_mut(node)
            && link.settled.len() < SETTLED_MAX
        {
            link.settled.push(batch.0);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No holder panics, so a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client for a node, the settled batches to send it, and a ticket for its next batch; `None` if the address
    /// is invalid.
    fn link(
        &self,
        node: &NodeName,
        address: &str,
    ) -> Option<(RenderNodeClient<Channel>, Vec<u64>, SendTicket)> {
        let mut state = self.lock();
        let link = state.link(node, address)?;
        let (after, answered) = oneshot::channel();
        let ticket = SendTicket { before: link.answered.replace(answered), _after: after };
        Some((link.client.clone(), std::mem::take(&mut link.settled), ticket))
    }

    /// Records the address of a registered node, and where its process itself listens, if it runs on this machine.
    pub(crate) fn set_address(
        &self,
        node: &NodeName,
        address: &str,
        neighbour: Option<SocketAddr>,
    ) {
        if let Some(link) = self.lock().link(node, address) {
            link.neighbour = neighbour;
        }
    }

    /// Where the node's process itself listens, if it runs on this machine.
    pub(crate) fn neighbour(&self, node: &NodeName) -> Option<SocketAddr> {
        self.lock().links.get(node)?.neighbour
    }

    /// Drops the link to a node that is gone. It may never come back under its name.
    pub(crate) fn forget(&self, node: &NodeName) {
        self.lock().links.remove(node);
    }

    /// Reports that a batch was not sent.
    pub(crate) fn refuse(&self, batch: BatchId) {
        let driver = self.driver.clone();
        tokio::spawn(async move { driver.report(batch, vec![BatchReport::Refused(None)]).await });
    }

    fn spawn(
        &self,
        batch: BatchId,
        node: NodeName,
        incarnation: Incarnation,
        client: RenderNodeClient<Channel>,
        errand: Errand,
    ) {
        let ended = self.shutdown.child_token();
        self.lock().batches.insert(batch, ended.clone());
        let follower = Follower {
            driver: self.driver.clone(),
            blobs: self.blobs.clone(),
            state: self.state.clone(),
            epoch: self.epoch,
            store_id: self.store_id.clone(),
            batch,
            node,
            incarnation,
            client,
            neighbour: None,
            sequence: 0,
            logged: match errand {
                Errand::Attach { logged } => logged,
                Errand::Send(..) => 0,
            },
        };
        tokio::spawn(async move {
            tokio::select! {
                () = follower.follow(errand) => {}
                () = ended.cancelled() => {}
            }
        });
    }
}
