//! Talks to nodes: one task per live batch calls RenderBatch (or AttachBatch, after a restart or a broken
//! link) and forwards what the node says to the driver. A stream that ends without its end event is broken,
//! not finished: the task attaches again, until the scheduler ends the batch.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    error::Error,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use framecrew_blobs::Digest;
use framecrew_proto::v1::{
    AttachBatchRequest, BatchEvent, CancelBatchRequest, RenderBatchRequest, RenderBatchResponse,
    Slice as WireSlice, render_node_client::RenderNodeClient,
};
use prost::Message as _;
use tokio::{sync::oneshot, time::Instant};
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, ConnectError, Response, Status, Streaming,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;
use tracing::{debug, info, warn};

use crate::{
    blobs::{Blobs, Broken},
    convert,
    domain::{
        BatchId, BlenderVersion, Epoch, Failure, FailureReason, Incarnation, JobId, JobSpec,
        NodeName, Rendered, Slice,
    },
    driver::{BatchNews, DriverHandle},
    neighbour,
    store::{Identity, NodeRecord},
};

/// How long a connection to a node may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A link that says nothing is asked this often whether it is alive, and given up after as long again: well
/// within a lease, so that a partition is noticed before it matters.
const KEEPALIVE: Duration = Duration::from_secs(4);
/// How long a node may take to answer a call; the streams themselves are not bounded by it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take to answer the first attach: what gets lost right after a restart is asked for again
/// soon enough that all batches are attached within ten seconds.
const FIRST_ATTACH_TIMEOUT: Duration = Duration::from_secs(3);
/// Bytes that the slowest link we serve carries in a second: what is large is given so much longer to arrive.
pub(crate) const LINK_BYTES_A_SECOND: u64 = 128 << 10;
/// Pause between two tries to reach a node, or up to half of it less, so that those of many batches do not
/// meet; doubles up to the maximum.
const RETRY_MIN: Duration = Duration::from_millis(100);
/// Longest such pause.
const RETRY_MAX: Duration = Duration::from_secs(2);
/// Refused attempts in a row to reach a node on this machine after which its process counts as ended. They take
/// about half a second. A process that its supervisor restarts is back by then, and answers itself.
const REFUSALS_CERTAIN: u32 = 3;
/// How often it is told that a batch is still out of reach; what breaks for less heals by itself.
const OUT_OF_REACH_TOLD_EVERY: Duration = Duration::from_secs(30);
/// Ended batches remembered for one node until its next batch tells it; a heartbeat tells it of the others.
const SETTLED_MAX: usize = 1_024;
/// A message of a node: 512 events with their outputs and log tails.
const MESSAGE_MAX: usize = 16 << 20;

/// A batch to be rendered, and where.
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

#[derive(Debug)]
struct Link {
    address: String,
    client: RenderNodeClient<Channel>,
    /// Where the node's process itself listens, if that is on this machine.
    neighbour: Option<SocketAddr>,
    settled: Vec<u64>,
    /// Dropped when the node has answered for the batch sent last: batches arrive in their order.
    answered: Option<oneshot::Receiver<Infallible>>,
}

/// A batch on its way: waits for the one before, and holds back the one after until it is dropped.
#[derive(Debug)]
struct Turn {
    before: Option<oneshot::Receiver<Infallible>>,
    _after: oneshot::Sender<Infallible>,
}

#[derive(Debug, Default)]
struct State {
    links: HashMap<NodeName, Link>,
    /// Live batches: cancelled when the scheduler has ended them.
    batches: HashMap<BatchId, CancellationToken>,
    /// Those whose every event was read: the node may forget them, and what else ends is to be handed in.
    read: HashSet<BatchId>,
}

impl State {
    /// The link to a node at an address; `None` for an address that is none.
    fn meet(&mut self, node: &NodeName, address: &str) -> Option<&mut Link> {
        if self.links.get(node).is_none_or(|link| link.address != address) {
            let endpoint = Endpoint::from_shared(address.to_owned()).ok()?;
            let channel = endpoint
                .connect_timeout(CONNECT_TIMEOUT)
                .http2_keep_alive_interval(KEEPALIVE)
                .keep_alive_timeout(KEEPALIVE)
                .keep_alive_while_idle(true)
                .tcp_nodelay(true)
                .connect_lazy();
            let client = RenderNodeClient::new(channel).max_decoding_message_size(MESSAGE_MAX);
            let link = Link {
                address: address.to_owned(),
                client,
                neighbour: None,
                settled: Vec::new(),
                answered: None,
            };
            self.links.insert(node.clone(), link);
        }
        self.links.get_mut(node)
    }
}

/// What is to be done about a batch first.
enum Errand {
    Send(Box<RenderBatchRequest>, Turn),
    Attach { logged: u64 },
}

/// The driver's arm to the nodes. Cheap to clone.
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
        let Some((client, settled, turn)) = self.link(&node, &address) else {
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
        self.spawn(batch, node, incarnation, client, Errand::Send(Box::new(request), turn));
    }

    /// Follows a batch that a former life sent.
    /// Its log lines up to the event `logged` are kept already.
    pub(crate) fn attach(&self, batch: BatchId, name: &NodeName, node: &NodeRecord, logged: u64) {
        match self.link(name, &node.address) {
            Some((client, ..)) => {
                let errand = Errand::Attach { logged };
                self.spawn(batch, name.clone(), node.incarnation, client, errand);
            }
            None => self.refuse(batch),
        }
    }

    /// Tells a node to end a batch, until it says that it has or the scheduler gives the batch up.
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
                () = cancel => this.driver.report(batch, vec![BatchNews::Ended]).await,
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

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // No holder panics, so a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client for a node, the settled batches to tell it of, and the next turn to send it one; `None` for
    /// an address that is none.
    fn link(
        &self,
        node: &NodeName,
        address: &str,
    ) -> Option<(RenderNodeClient<Channel>, Vec<u64>, Turn)> {
        let mut state = self.lock();
        let link = state.meet(node, address)?;
        let (after, answered) = oneshot::channel();
        let turn = Turn { before: link.answered.replace(answered), _after: after };
        Some((link.client.clone(), std::mem::take(&mut link.settled), turn))
    }

    /// Records the address of a registered node, and where its process itself listens, if that is on this machine.
    pub(crate) fn meet(&self, node: &NodeName, address: &str, neighbour: Option<SocketAddr>) {
        if let Some(link) = self.lock().meet(node, address) {
            link.neighbour = neighbour;
        }
    }

    /// Where the node's process itself listens, if that is on this machine.
    pub(crate) fn neighbour(&self, node: &NodeName) -> Option<SocketAddr> {
        self.lock().links.get(node)?.neighbour
    }

    /// Lets go of a node that is gone; it may never come back under its name.
    pub(crate) fn forget(&self, node: &NodeName) {
        self.lock().links.remove(node);
    }

    /// Reports that a batch was not sent.
    pub(crate) fn refuse(&self, batch: BatchId) {
        let driver = self.driver.clone();
        tokio::spawn(async move { driver.report(batch, vec![BatchNews::Refused(None)]).await });
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

/// Follows one batch.
struct Follower {
    driver: DriverHandle,
    blobs: Blobs,
    state: Arc<Mutex<State>>,
    epoch: Epoch,
    store_id: Arc<str>,
    batch: BatchId,
    node: NodeName,
    /// The life of the node that the batch is meant for.
    incarnation: Incarnation,
    client: RenderNodeClient<Channel>,
    /// Where the node's process itself listens, if that is on this machine.
    neighbour: Option<SocketAddr>,
    /// Sequence of the last event that the driver has.
    sequence: u64,
    /// Log lines up to this event are kept from a former life.
    logged: u64,
}

impl Follower {
    async fn follow(mut self, errand: Errand) {
        let (batch, node) = (self.batch, self.node.clone());
        let mut retry = Retry::default();
        // Since when no call has got through.
        let mut lost = Instant::now();
        let mut told = Duration::ZERO;
        // Whether the node has taken it on in this life of ours.
        let mut arrived = false;
        if let Errand::Send(request, turn) = errand {
            let slices: Vec<_> = request.slices.iter().map(convert::slice).collect();
            let sent = self.send(&request, turn).await;
            // It may have waited for its turn for long.
            lost = Instant::now();
            match sent {
                Ok(response) => {
                    arrived = true;
                    let events = response.into_inner();
                    if self.forward(events, |message| message.events).await.is_ok() {
                        return;
                    }
                    lost = Instant::now();
                }
                // An earlier try got through after all.
                Err(status) if status.code() == Code::AlreadyExists => arrived = true,
                // Nothing was sent, so nothing can be rendering.
                Err(status) if never_connected(&status) => {
                    warn!(
                        %batch, %node,
                        "the node is registered but cannot be reached: is it started with a --listen \
                         or --advertise that other machines reach, and does no firewall stand between?"
                    );
                    return self.driver.report(batch, not_sent()).await;
                }
                // Ours has another address by now.
                Err(status) if is_of_another_node(&status, &node) => {
                    warn!(%batch, %node, message = status.message(), "another node answers");
                    return self.driver.report(batch, not_sent()).await;
                }
                // The link broke: whether the batch arrived is found out by attaching to it.
                Err(status) if is_of_the_link(&status) => {
                    debug!(%batch, %node, %status, "batch may not have arrived");
                }
                // No other try, and no other node, would find less fault with it.
                Err(status) if status.code() == Code::InvalidArgument => {
                    let failed = slices.into_iter().map(|slice| {
                        let message = format!("node {node} refuses the job: {}", status.message());
                        failed(slice, FailureReason::Permanent, message)
                    });
                    let report = failed.chain([BatchNews::Ended]).collect();
                    return self.driver.report(batch, report).await;
                }
                Err(status) => {
                    warn!(%batch, %node, code = ?status.code(), message = status.message(), "batch refused");
                    let why = Some(status.message().to_owned());
                    return self.driver.report(batch, vec![BatchNews::Refused(why)]).await;
                }
            }
        }
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
                    (lost, told) = (Instant::now(), Duration::ZERO);
                    if self.sequence > before {
                        retry = Retry::default();
                    }
                }
                // It has the address that ours had: nothing is known of ours.
                Err(status) if is_of_another_node(&status, &node) => {
                    debug!(%batch, %node, %status, "another node answers");
                }
                Err(status) if status.code() == Code::NotFound => {
                    warn!(%batch, %node, "the node does not know the batch");
                    // What never reached a node was not its death; one that is dead cannot tell.
                    let is_dead = is_of_another_life(&status, self.incarnation);
                    let had_it = arrived || self.sequence > 0 || is_dead;
                    let news = if had_it { BatchNews::Unknown } else { BatchNews::Refused(None) };
                    return self.driver.report(batch, vec![news]).await;
                }
                Err(status) => {
                    debug!(%batch, %node, %status, "cannot attach");
                    refused = if self.is_refused(&status).await { refused + 1 } else { 0 };
                    if refused >= REFUSALS_CERTAIN {
                        warn!(%batch, %node, "the node's process has ended: nothing listens at its port on this machine");
                        return self.driver.report(batch, vec![BatchNews::Unknown]).await;
                    }
                }
            }
            let lasts = lost.elapsed();
            if lasts >= told + OUT_OF_REACH_TOLD_EVERY {
                warn!(%batch, %node, seconds = lasts.as_secs(), "the batch is out of reach");
                told = lasts;
                self.driver.report(batch, vec![BatchNews::Unreachable(lasts)]).await;
            }
            retry.pause().await;
        }
    }

    /// Goes where the node is reached now: it may have another address since.
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

    /// Sends the batch when its turn has come. A node that has no lease (yet) is asked again: its first batch
    /// may overtake the answer to its registration.
    async fn send(
        &mut self,
        request: &RenderBatchRequest,
        turn: Turn,
    ) -> Result<Response<Streaming<RenderBatchResponse>>, Status> {
        if let Some(before) = turn.before {
            // Nothing is ever sent: it resolves when the one before has been answered.
            let _ = before.await;
        }
        let on_its_way = request.encoded_len() as u64 / LINK_BYTES_A_SECOND;
        let limit = ANSWER_TIMEOUT + Duration::from_secs(on_its_way);
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

    /// Forwards a stream to the driver. An error when it stops before its end event.
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
            let mut report = Vec::new();
            let mut has_ended = false;
            for event in events(message) {
                // Replayed ones are known; what was skipped in between is progress.
                if event.sequence <= self.sequence {
                    continue;
                }
                self.sequence = event.sequence;
                match convert::batch_news(event) {
                    Ok(Some(BatchNews::Log { sequence, .. })) if sequence <= self.logged => {}
                    Ok(Some(news)) => {
                        has_ended = matches!(news, BatchNews::Ended);
                        report.push(news);
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
            if !report.is_empty() {
                self.driver.report(self.batch, self.verified(report).await).await;
            }
            if has_ended {
                return Ok(());
            }
        }
    }

    /// A frame is finished only when its outputs are in the store: the node's word is not enough. Frames that
    /// take no time come by the hundred, and one look at the disk does for all of them and their previews.
    async fn verified(&self, mut report: Vec<BatchNews>) -> Vec<BatchNews> {
        let finished = report.iter().filter_map(|news| match news {
            BatchNews::Finished(_, rendered) => Some(rendered),
            _ => None,
        });
        let promised: HashSet<_> =
            finished.flat_map(|rendered| rendered.blobs().chain(preview_blob(rendered))).collect();
        if promised.is_empty() {
            return report;
        }
        let broken = self.blobs.broken(promised).await;
        for news in &mut report {
            let BatchNews::Finished(slice, rendered) = news else { continue };
            match &broken {
                Ok(broken) => match first_broken(rendered, broken) {
                    Some(failure) => *news = BatchNews::Failed(*slice, failure),
                    None => self.check_preview(rendered, broken),
                },
                Err(error) => {
                    let message = format!("the outputs cannot be checked: {error}");
                    *news = failed(*slice, FailureReason::Infrastructure, message);
                }
            }
        }
        report
    }

    /// A frame is none the worse for a small picture that is not stored.
    fn check_preview(&self, rendered: &mut Rendered, broken: &HashMap<(Digest, u64), Broken>) {
        if preview_blob(rendered).is_some_and(|blob| broken.contains_key(&blob)) {
            debug!(batch = %self.batch, node = %self.node, "a preview is not in the blob store");
            rendered.preview = None;
        }
    }
}

/// The blob that holds a frame's small picture, with its size in bytes.
fn preview_blob(rendered: &Rendered) -> Option<(Digest, u64)> {
    rendered.preview.as_ref().map(|preview| (preview.digest, preview.size_bytes))
}

/// Why a frame does not count, if one of its outputs is not stored as promised.
fn first_broken(rendered: &Rendered, broken: &HashMap<(Digest, u64), Broken>) -> Option<Failure> {
    debug_assert!(!rendered.outputs.is_empty(), "the edge refuses a frame without outputs");
    let mut stored = rendered.outputs.iter().zip(rendered.blobs());
    let (output, what) = stored.find_map(|(output, blob)| Some((output, broken.get(&blob)?)))?;
    let reason = match what {
        // Of its own making: another node may do better.
        Broken::Size { .. } => FailureReason::InvalidOutput,
        Broken::Missing | Broken::Damaged | Broken::Unreadable(_) => FailureReason::Infrastructure,
    };
    let message = format!("output {} {what}", output.name);
    Some(Failure { reason, message, log_tail: Vec::new() })
}

/// A batch was not sent, as its node is not where it was.
fn not_sent() -> Vec<BatchNews> {
    let why = "it could not be reached at its address".to_owned();
    vec![BatchNews::Unreachable(Duration::ZERO), BatchNews::Refused(Some(why))]
}

fn failed(slice: Slice, reason: FailureReason, message: String) -> BatchNews {
    BatchNews::Failed(slice, Failure { reason, message, log_tail: Vec::new() })
}

/// Whether the call never left, for want of a connection.
fn never_connected(status: &Status) -> bool {
    let mut source = Error::source(status);
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// Whether the connection for a call was refused.
fn was_refused(status: &Status) -> bool {
    let mut source = Error::source(status);
    while let Some(error) = source {
        let error_kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if error_kind == Some(std::io::ErrorKind::ConnectionRefused) {
            return true;
        }
        source = error.source();
    }
    false
}

/// Whether the node will take nothing any more in this life.
fn is_leaving(status: &Status) -> bool {
    status.get_details_error_info().is_some_and(|info| info.reason == "LEAVING")
}

/// Whether it is another node that says so. Nodes that do not tell their name are believed.
fn is_of_another_node(status: &Status, meant: &NodeName) -> bool {
    tells_other(status, "node", meant)
}

/// Whether it is another life of the node that says so. Nodes that do not tell their life are believed.
fn is_of_another_life(status: &Status, meant: Incarnation) -> bool {
    tells_other(status, "incarnation", &meant.0.to_string())
}

/// Whether a status tells of something, and that it is not what was meant.
fn tells_other(status: &Status, what: &str, meant: &str) -> bool {
    let told = status.get_details_error_info();
    told.and_then(|info| info.metadata.get(what).cloned()).is_some_and(|told| told != *meant)
}

/// Whether the link said so, and not the node.
fn is_of_the_link(status: &Status) -> bool {
    Error::source(status).is_some()
        || matches!(status.code(), Code::Unknown | Code::DeadlineExceeded | Code::Cancelled)
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    tokio::time::timeout(limit, call)
        .await
        .unwrap_or_else(|_| Err(Status::deadline_exceeded("the node did not answer")))
}

struct Retry(Duration);

impl Default for Retry {
    fn default() -> Self {
        Self(RETRY_MIN)
    }
}

impl Retry {
    async fn pause(&mut self) {
        tokio::time::sleep(self.0.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        self.0 = (self.0 * 2).min(RETRY_MAX);
    }
}
