//! Follows one batch on its node: sends or attaches to it, and forwards the node's events to the driver.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use framecrew_blobs::Digest;
use framecrew_proto::v1::{
    AttachBatchRequest, BatchEvent, RenderBatchRequest, RenderBatchResponse,
    render_node_client::RenderNodeClient,
};
use prost::Message as _;
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tonic::{Code, Response, Status, Streaming, transport::Channel};
use tracing::{debug, info, warn};

use super::{
    errors::{
        is_leaving, is_of_another_incarnation, is_of_another_node, is_of_the_link, never_connected,
        was_refused,
    },
    links::{SendTicket, State},
    retry::{ANSWER_TIMEOUT, Retry, within},
};
use crate::{
    blobs::{Blobs, Broken},
    convert,
    domain::{BatchId, Epoch, Failure, FailureReason, Incarnation, NodeName, Rendered, Slice},
    limits::LINK_BYTES_A_SECOND,
    mailbox::{BatchReport, DriverHandle},
    neighbour,
};

/// How long a node may take to answer the first attach. It is short so that a request that gets lost right after a
/// restart is repeated soon: all batches are attached within ten seconds.
const FIRST_ATTACH_TIMEOUT: Duration = Duration::from_secs(3);
/// Refused attempts in a row to reach a node on this machine after which its process counts as ended. They take
/// about half a second. A process that its supervisor restarts is back by then, and answers itself.
const REFUSALS_CERTAIN: u32 = 3;
/// How often a batch is reported as out of reach. Shorter breaks heal by themselves.
const OUT_OF_REACH_REPORTED_EVERY: Duration = Duration::from_secs(30);

/// What to do about a batch first.
pub(super) enum Errand {
    Send(Box<RenderBatchRequest>, SendTicket),
    /// `logged`: the driver has the log lines of the batch up to this event.
    Attach {
        logged: u64,
    },
}

/// Follows one batch.
pub(super) struct Follower {
    pub(super) driver: DriverHandle,
    pub(super) blobs: Blobs,
    pub(super) state: Arc<Mutex<State>>,
    pub(super) epoch: Epoch,
    pub(super) store_id: Arc<str>,
    pub(super) batch: BatchId,
    pub(super) node: NodeName,
    /// The incarnation of the node that the batch is meant for.
    pub(super) incarnation: Incarnation,
    pub(super) client: RenderNodeClient<Channel>,
    /// Where the node's process itself listens, if it runs on this machine.
    pub(super) neighbour: Option<SocketAddr>,
    /// Sequence of the last event that the driver has.
    pub(super) sequence: u64,
    /// An earlier incarnation of the orchestrator stored the log lines up to this event.
    pub(super) logged: u64,
}

/// A batch without a stream.
struct Lost {
    /// No call has succeeded since then.
    since: Instant,
    /// Whether the node is known to have accepted the batch.
    arrived: bool,
}

impl Follower {
    /// Follows the batch until its end event, or until the node certainly does not render it.
    pub(super) async fn follow(mut self, errand: Errand) {
        let lost = match errand {
            Errand::Send(request, ticket) => self.start(&request, ticket).await,
            Errand::Attach { .. } => Some(Lost { since: Instant::now(), arrived: false }),
        };
        if let Some(lost) = lost {
            self.attach(lost).await;
        }
    }

    /// Sends the batch and forwards its events. Returns `None` when it is over, or was certainly not accepted.
    async fn start(&mut self, request: &RenderBatchRequest, ticket: SendTicket) -> Option<Lost> {
        let sent = self.send(request, ticket).await;
        let since = Instant::now();
        match sent {
            Ok(response) => {
                let events = response.into_inner();
                if self.forward(events, |message| message.events).await.is_ok() {
                    return None;
                }
                Some(Lost { since: Instant::now(), arrived: true })
            }
            // An earlier attempt arrived after all.
            Err(status) if status.code() == Code::AlreadyExists => {
                Some(Lost { since, arrived: true })
            }
            Err(status) => match self.refusal(&status, request) {
                Some(reports) => {
                    self.driver.report(self.batch, reports).await;
                    None
                }
                None => Some(Lost { since, arrived: false }),
            },
        }
    }

    /// Reports for a batch that the node does not render; `None` if it may have arrived.
    fn refusal(&self, status: &Status, request: &RenderBatchRequest) -> Option<Vec<BatchReport>> {
        let (batch, node) = (self.batch, &self.node);
        if never_connected(status) {
            warn!(
                %batch, %node,
                "the node is registered but cannot be reached: is it started with a --listen \
                 or --advertise that other machines reach, and does no firewall stand between?"
            );
            return Some(not_sent());
        }
        // The node that the batch is meant for has another address now.
        if is_of_another_node(status, node) {
            warn!(%batch, %node, message = status.message(), "another node answers");
            return Some(not_sent());
        }
        // The link broke: attaching finds out whether the batch arrived.
        if is_of_the_link(status) {
            debug!(%batch, %node, %status, "batch may not have arrived");
            return None;
        }
        // Another attempt, on this or another node, would be refused for the same reason.
        if status.code() == Code::InvalidArgument {
            let failed = request.slices.iter().map(convert::slice).map(|slice| {
                let message = format!("node {node} refuses the job: {}", status.message());
                failed(slice, FailureReason::Permanent, message)
            });
            return Some(failed.chain([BatchReport::Ended]).collect());
        }
        warn!(%batch, %node, code = ?status.code(), message = status.message(), "batch refused");
        Some(vec![BatchReport::Refused(Some(status.message().to_owned()))])
    }

    /// Attaches to the batch, again whenever its stream breaks, until it is over.
    async fn attach(&mut self, mut lost: Lost) {
        let (batch, node) = (self.batch, self.node.clone());
        let mut retry = Retry::default();
        let mut reported = Duration::ZERO;
        let mut limit = FIRST_ATTACH_TIMEOUT;
        // Attempts in a row that the node's machine refused.
        let mut refused = 0;
        loop {
            let request = AttachBatchRequest {
                batch_id: batch.0,
                after_sequence: self.sequence,
                epoch: u64::from(self.epoch.0),
                store_id: self.store_id.to_string(),
            };
            let limit = std::mem::replace(&mut limit, ANSWER_TIMEOUT);
            self.take_link();
            match within(limit, self.client.attach_batch(request)).await {
                Ok(response) => {
                    info!(%batch, %node, "attached to the batch");
                    let before = self.sequence;
                    let events = response.into_inner();
                    match self.forward(events, |message| message.events).await {
                        Ok(()) => return,
                        Err(status) => debug!(%batch, %node, ?status, "stream broke"),
                    }
                    (lost.since, reported) = (Instant::now(), Duration::ZERO);
                    if self.sequence > before {
                        retry = Retry::default();
                    }
                }
                Err(status) => {
                    if let Some(report) = self.verdict(&status, lost.arrived, &mut refused).await {
                        return self.driver.report(batch, vec![report]).await;
                    }
                }
            }
            let lasts = lost.since.elapsed();
            if lasts >= reported + OUT_OF_REACH_REPORTED_EVERY {
                warn!(%batch, %node, seconds = lasts.as_secs(), "the batch is out of reach");
                reported = lasts;
                self.driver.report(batch, vec![BatchReport::Unreachable(lasts)]).await;
            }
            retry.pause().await;
        }
    }

    /// The report that ends the batch, if a failed attach proves that the node does not render it.
    async fn verdict(
        &self,
        status: &Status,
        arrived: bool,
        refused: &mut u32,
    ) -> Option<BatchReport> {
        let (batch, node) = (self.batch, &self.node);
        // Another node has taken over the address: nothing is known of the one that is meant.
        if is_of_another_node(status, node) {
            debug!(%batch, %node, %status, "another node answers");
            return None;
        }
        if status.code() == Code::NotFound {
            warn!(%batch, %node, "the node does not know the batch");
            // A batch that never arrived did not crash the node. If another incarnation answers, the one that had
            // the batch cannot say whether it arrived.
            let has_ended = is_of_another_incarnation(status, self.incarnation);
            let had_it = arrived || self.sequence > 0 || has_ended;
            return Some(if had_it { BatchReport::Unknown } else { BatchReport::Refused(None) });
        }
        debug!(%batch, %node, %status, "cannot attach");
        *refused = if self.is_refused(status).await { *refused + 1 } else { 0 };
        if *refused < REFUSALS_CERTAIN {
            return None;
        }
        warn!(
            %batch, %node,
            "the node's process has ended: nothing listens at its port on this machine"
        );
        Some(BatchReport::Unknown)
    }

    /// Takes the current link to the node, which may have a new address.
    fn take_link(&mut self) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = state.links.get(&self.node) {
            self.client = link.client.clone();
            self.neighbour = link.neighbour;
        }
    }

    /// Whether a call failed because nothing listens any more where the node's process listened on this machine.
    async fn is_refused(&self, status: &Status) -> bool {
        match self.neighbour {
            Some(at) if was_refused(status) => neighbour::refuses(at).await,
            _ => false,
        }
    }

    /// Sends the batch once the earlier ones for this node are answered. Asks a node that has no lease again: its
    /// first batch may overtake the answer to its registration.
    async fn send(
        &mut self,
        request: &RenderBatchRequest,
        ticket: SendTicket,
    ) -> Result<Response<Streaming<RenderBatchResponse>>, Status> {
        if let Some(before) = ticket.before {
            // Nothing is ever sent: it resolves when the earlier batch is answered and its sender dropped.
            let _ = before.await;
        }
        let transfer_seconds = request.encoded_len() as u64 / LINK_BYTES_A_SECOND;
        let limit = ANSWER_TIMEOUT + Duration::from_secs(transfer_seconds);
        let mut retry = Retry::default();
        loop {
            match within(limit, self.client.render_batch(request.clone())).await {
                Err(status)
                    if status.code() == Code::Unavailable
                        && !is_of_the_link(&status)
                        && !is_leaving(&status) =>
                {
                    debug!(batch = %self.batch, node = %self.node, message = status.message(), "not yet");
                    retry.pause().await;
                }
                answer => return answer,
            }
        }
    }

    /// Forwards a stream to the driver. Returns an error if it stops before its end event.
    async fn forward<M>(
        &mut self,
        mut stream: Streaming<M>,
        events: impl Fn(M) -> Vec<BatchEvent>,
    ) -> Result<(), Option<Status>> {
        loop {
            let message = match stream.next().await {
                Some(Ok(message)) => message,
                Some(Err(status)) => return Err(Some(status)),
                None => return Err(None),
            };
            let mut reports = Vec::new();
            let mut has_ended = false;
            for event in events(message) {
                // The driver knows replayed events. A gap in the sequence is skipped progress.
                if event.sequence <= self.sequence {
                    continue;
                }
                self.sequence = event.sequence;
                match convert::batch_report(event) {
                    Ok(Some(BatchReport::Log { sequence, .. })) if sequence <= self.logged => {}
                    Ok(Some(report)) => {
                        has_ended = matches!(report, BatchReport::Ended);
                        reports.push(report);
                    }
                    Ok(None) => {}
                    Err(error) => {
                        warn!(batch = %self.batch, node = %self.node, %error, "event ignored");
                    }
                }
            }
            if has_ended {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                if state.batches.contains_key(&self.batch) {
                    state.read.insert(self.batch);
                }
            }
            if !reports.is_empty() {
                self.driver.report(self.batch, self.verified(reports).await).await;
            }
            if has_ended {
                return Ok(());
            }
        }
    }

    /// Checks that the outputs of finished frames are stored: a frame is not finished before. Fast frames arrive in
    /// hundreds, so one look at the disk covers all of them and their previews.
    async fn verified(&self, mut reports: Vec<BatchReport>) -> Vec<BatchReport> {
        let finished = reports.iter().filter_map(|report| match report {
            BatchReport::Finished(_, rendered) => Some(rendered),
            _ => None,
        });
        let promised: HashSet<_> =
            finished.flat_map(|rendered| rendered.blobs().chain(preview_blob(rendered))).collect();
        if promised.is_empty() {
            return reports;
        }
        let broken = self.blobs.broken(promised).await;
        for report in &mut reports {
            let BatchReport::Finished(slice, rendered) = report else { continue };
            match &broken {
                Ok(broken) => match first_broken(rendered, broken) {
                    Some(failure) => *report = BatchReport::Failed(*slice, failure),
                    None => self.check_preview(rendered, broken),
                },
                Err(error) => {
                    let message = format!("the outputs cannot be checked: {error}");
                    *report = failed(*slice, FailureReason::Infrastructure, message);
                }
            }
        }
        reports
    }

    /// Drops a preview that is not stored. The frame is complete without it.
    fn check_preview(&self, rendered: &mut Rendered, broken: &HashMap<(Digest, u64), Broken>) {
        if preview_blob(rendered).is_some_and(|blob| broken.contains_key(&blob)) {
            debug!(batch = %self.batch, node = %self.node, "a preview is not in the blob store");
            rendered.preview = None;
        }
    }
}

/// The blob of a frame's preview, with its size in bytes.
fn preview_blob(rendered: &Rendered) -> Option<(Digest, u64)> {
    rendered.preview.as_ref().map(|preview| (preview.digest, preview.size_bytes))
}

/// Why a frame is not finished, if one of its outputs is not stored as described.
fn first_broken(rendered: &Rendered, broken: &HashMap<(Digest, u64), Broken>) -> Option<Failure> {
    debug_assert!(!rendered.outputs.is_empty(), "convert refuses a frame without outputs");
    let mut stored = rendered.outputs.iter().zip(rendered.blobs());
    let (output, what) = stored.find_map(|(output, blob)| Some((output, broken.get(&blob)?)))?;
    let reason = match what {
        // The node described it wrongly. Another node may do better.
        Broken::Size { .. } => FailureReason::InvalidOutput,
        Broken::Missing | Broken::Damaged | Broken::Unreadable(_) => FailureReason::Infrastructure,
    };
    let message = format!("output {} {what}", output.name);
    Some(Failure { reason, message, log_tail: Vec::new() })
}

/// Reports for a batch that was not sent because its node is not at its address.
fn not_sent() -> Vec<BatchReport> {
    let why = "it could not be reached at its address".to_owned();
    vec![BatchReport::Unreachable(Duration::ZERO), BatchReport::Refused(Some(why))]
}

fn failed(slice: Slice, reason: FailureReason, message: String) -> BatchReport {
    BatchReport::Failed(slice, Failure { reason, message, log_tail: Vec::new() })
}
