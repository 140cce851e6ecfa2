//! Registers the node, keeps its lease, and fences it when the lease runs out.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use framecrew_proto::v1::{
    HeartbeatRequest, RegisterNodeRequest, UnregisterNodeRequest,
    orchestrator_client::OrchestratorClient,
};
use tokio::time::{self, Instant};
use tonic::{Code, Status, transport::Channel};
use tracing::{info, warn};

use crate::{node::Node, platform};

/// How long a call to the orchestrator may take: well below a lease, so that a lost one can be repeated.
const CALL_TIMEOUT: Duration = Duration::from_secs(4);

/// How long saying goodbye may hold up the end of the process.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);

/// First and longest pause between two tries to register. The longest is what a node may lose of an
/// orchestrator that has just come up.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(3);

/// How often a node repeats that it cannot register, if the reason is unchanged.
const REMIND_INTERVAL: Duration = Duration::from_secs(60);

/// How often the lease is looked at. The sum of this, the time to kill and the lease must stay below what the
/// orchestrator waits before it gives the work away (it adds a margin of seconds).
const LEASE_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Bounds on what an orchestrator may ask for, so that a wrong value cannot turn into a flood or a dead node.
const HEARTBEAT_MIN: Duration = Duration::from_millis(50);
const HEARTBEAT_MAX: Duration = Duration::from_secs(10);

/// Longest time between two heartbeats of a node that drains.
const DRAINING_HEARTBEAT: Duration = Duration::from_millis(500);

/// The node's time-limited right to work: until the moment its last successful heartbeat was *sent*, plus the
/// lease's length; for a batch whose job bears more silence, plus that. Measured by a clock that counts suspend, in
/// nanoseconds of uptime; 0: never had one.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    sent: AtomicU64,
    until: AtomicU64,
}

impl Lease {
    /// Whether the node may take on work now. Reads the clock, so a process that was stopped knows at once.
    pub(crate) fn holds(&self) -> bool {
        nanos(platform::uptime()) < self.until.load(Ordering::Acquire)
    }

    /// Whether it may go on with a batch that bears so much silence.
    pub(crate) fn holds_for(&self, silence: Duration) -> bool {
        let until = self.until.load(Ordering::Acquire);
        let sent = self.sent.load(Ordering::Acquire);
        let now = nanos(platform::uptime());
        now < until || (sent > 0 && now < sent.saturating_add(nanos(silence)))
    }

    pub(crate) fn renew(&self, sent: Duration, ttl: Duration) {
        self.until.fetch_max(nanos(sent + ttl), Ordering::AcqRel);
        self.sent.fetch_max(nanos(sent), Ordering::AcqRel);
    }

    pub(crate) fn end(&self) {
        self.sent.store(0, Ordering::Release);
        self.until.store(0, Ordering::Release);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Where the orchestrator reaches the node.
#[derive(Debug, Clone)]
pub(crate) struct Reach {
    /// A full address; empty: where the call comes from.
    pub(crate) address: String,
    /// Port, for an empty address.
    pub(crate) port: u16,
    /// The address at which the node reaches the orchestrator, for messages.
    pub(crate) orchestrator: String,
}

/// Why a node cannot be a member. Trying again does not help.
#[derive(Debug, thiserror::Error)]
pub enum Expelled {
    /// A newer life of this node is registered.
    #[error(
        "another process has taken over the name {name}: the orchestrator says: {said}; start this one with another --name"
    )]
    Superseded {
        /// The node.
        name: String,
        /// What the orchestrator said.
        said: String,
    },
    /// The orchestrator does not accept what the node says about itself.
    #[error("the orchestrator refuses this node: {said}")]
    Refused {
        /// What the orchestrator said.
        said: String,
    },
}

/// Keeps the node registered. Ends only when that has become impossible.
pub(crate) async fn keep(node: Arc<Node>, channel: Channel, reach: Reach) -> Expelled {
    let mut rpc = OrchestratorClient::new(channel);
    loop {
        let interval = match register(&node, &mut rpc, &reach).await {
            Ok(interval) => interval,
            Err(expelled) => return expelled,
        };
        tokio::select! {
            ended = heartbeats(&node, &mut rpc, interval) => if let Err(expelled) = ended {
                return expelled;
            },
            // Registered again at once, with what it has now.
            () = node.equipped.notified() => {}
            () = node.slots.news.notified(), if node.is_equipped() => {}
        }
    }
}

/// Ends each batch as soon as its time has run out. Runs beside everything else: nothing may delay it.
pub(crate) async fn fence(node: Arc<Node>) {
    let mut leased = false;
    loop {
        time::sleep(LEASE_CHECK_INTERVAL).await;
        let holds = node.lease.holds();
        if leased && !holds && !node.stopping.is_cancelled() {
            warn!("the lease has run out: going on only with what may wait longer");
        }
        // Again and again while there is none: batches differ in how long they wait.
        if !holds {
            node.fence();
        }
        if leased != holds {
            leased = holds;
            node.changed();
        }
    }
}

/// Says goodbye, so that the orchestrator need not wait for the lease to run out. The renderers must be dead.
pub(crate) async fn leave(node: &Node, channel: Channel) {
    let had_lease = node.lease.holds();
    node.lease.end();
    if !node.announced.load(Ordering::Relaxed) {
        // Nobody has ever heard of this life.
        return;
    }
    node.goodbye.owe(node.name.clone(), node.incarnation, node.store_id());
    if !had_lease {
        return;
    }
    let mut rpc = OrchestratorClient::new(channel);
    let mut why = "it did not answer".to_owned();
    // Trying on: it may be about to come back.
    let saying = async {
        while let Err(status) = say_goodbye(&mut rpc, &node.name, node.incarnation).await {
            why = reason(&status);
            time::sleep(jittered(RETRY_MIN)).await;
        }
    };
    if time::timeout(GOODBYE_TIMEOUT, saying).await.is_ok() {
        node.goodbye.said(node.incarnation);
        info!("left the cluster");
    } else {
        warn!(reason = why, "could not say goodbye; the next start does");
    }
}

/// Tells the orchestrator that a life of a node has ended well: nothing that it had begun was its death.
async fn say_goodbye(
    rpc: &mut OrchestratorClient<Channel>,
    name: &str,
    incarnation: u64,
) -> Result<(), Status> {
    let request = UnregisterNodeRequest { name: name.to_owned(), incarnation };
    match in_time(rpc.unregister_node(request)).await {
        // That life is not registered any more.
        Err(status) if matches!(status.code(), Code::NotFound | Code::Aborted) => Ok(()),
        answer => answer.map(drop),
    }
}

async fn register(
    node: &Node,
    rpc: &mut OrchestratorClient<Channel>,
    reach: &Reach,
) -> Result<Duration, Expelled> {
    let mut pause = RETRY_MIN;
    let mut said: Option<(Code, Instant)> = None;
    loop {
        let mut joining = async || {
            for owed in node.goodbye.owed() {
                say_goodbye(rpc, &owed.name, owed.incarnation).await?;
            }
            let sent = platform::uptime();
            let request = RegisterNodeRequest {
                name: node.name.clone(),
                incarnation: node.incarnation,
                address: reach.address.clone(),
                port: reach.port.into(),
                description: Some(node.description()),
                batch_ids: node.batch_ids(),
            };
            // Whatever becomes of the answer.
            node.announced.store(true, Ordering::Relaxed);
            Ok::<_, Status>((sent, in_time(rpc.register_node(request)).await?))
        };
        match joining().await {
            Ok((sent, answer)) => {
                let ttl = Duration::from_millis(answer.lease_ttl_ms);
                node.goodbye.heard_by(&answer.store_id);
                // First: who holds a lease knows whose frames it has.
                node.meet_store(answer.store_id, answer.epoch, answer.first_batch_id);
                node.renew_lease(sent, ttl);
                node.abandon(&answer.abandon_batch_ids);
                node.changed();
                info!(name = %node.name, epoch = answer.epoch, "registered");
                let interval = Duration::from_millis(answer.heartbeat_interval_ms);
                return Ok(interval.clamp(HEARTBEAT_MIN, HEARTBEAT_MAX));
            }
            Err(status) => match status.code() {
                Code::Aborted => return Err(superseded(node, &status)),
                Code::InvalidArgument => {
                    let said = status.message().to_owned();
                    return Err(Expelled::Refused { said });
                }
                code => {
                    // A node may wait for days.
                    let is_news = said
                        .is_none_or(|(what, at)| what != code || at.elapsed() >= REMIND_INTERVAL);
                    if is_news {
                        said = Some((code, Instant::now()));
                        warn!("{}; still trying", trouble(&status, &reach.orchestrator));
                    }
                }
            },
        }
        time::sleep(jittered(pause)).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// Renews the lease until the orchestrator does not know the node any more.
async fn heartbeats(
    node: &Node,
    rpc: &mut OrchestratorClient<Channel>,
    interval: Duration,
) -> Result<(), Expelled> {
    let mut well = true;
    let mut pause = interval;
    let mut drains = false;
    loop {
        tokio::select! {
            () = time::sleep(pause) => {}
            // Told at once.
            () = node.draining.cancelled(), if !drains => {}
        }
        drains = node.draining.is_cancelled();
        let sent = platform::uptime();
        let request = HeartbeatRequest {
            name: node.name.clone(),
            incarnation: node.incarnation,
            batch_ids: node.batch_ids(),
            draining: drains,
            store_id: node.store_id(),
            first_batch_id: node.first_batch(),
        };
        match in_time(rpc.heartbeat(request)).await {
            Ok(answer) => {
                node.meet_epoch(answer.epoch);
                node.renew_lease(sent, Duration::from_millis(answer.lease_ttl_ms));
                node.abandon(&answer.abandon_batch_ids);
                if !well {
                    info!("the orchestrator answers again");
                }
                well = true;
                // Whoever leaves waits for its last batches to be settled.
                pause = if drains { interval.min(DRAINING_HEARTBEAT) } else { interval };
            }
            Err(status) if status.code() == Code::NotFound => {
                info!(reason = status.message(), "registering again");
                return Ok(());
            }
            Err(status) if status.code() == Code::Aborted => {
                return Err(superseded(node, &status));
            }
            Err(status) => {
                if well {
                    warn!(reason = reason(&status), "a heartbeat failed; trying on");
                }
                well = false;
                pause = jittered(interval.min(RETRY_MAX) / 2);
            }
        }
    }
}

/// Gives up on a call that takes too long.
pub(crate) async fn in_time<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match time::timeout(CALL_TIMEOUT, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("it did not answer in time")),
    }
}

fn superseded(node: &Node, status: &Status) -> Expelled {
    Expelled::Superseded { name: node.name.clone(), said: status.message().to_owned() }
}

/// Describes why a node cannot register.
fn trouble(status: &Status, orchestrator: &str) -> String {
    let reason = reason(status);
    if std::error::Error::source(status).is_some() {
        format!("nothing answers at {orchestrator} ({reason})")
    } else {
        format!("the orchestrator at {orchestrator} does not register this node yet: {reason}")
    }
}

/// The deepest cause is what a person can act on: "connection refused", not "transport error".
fn reason(status: &Status) -> String {
    let mut cause = std::error::Error::source(status);
    let mut text = status.message().to_owned();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    text
}

/// Between half of `pause` and all of it, so that a crew that lost its orchestrator does not return in step.
pub(crate) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_url_at_which_nothing_answers_is_named_with_the_reason() {
        // Bound and then closed, so that nothing listens there.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        drop(listener);
        let channel = Channel::from_shared(url.clone()).expect("a URL").connect_lazy();
        let mut rpc = OrchestratorClient::new(channel);
        let status =
            rpc.register_node(RegisterNodeRequest::default()).await.expect_err("nothing is there");
        let told = trouble(&status, &url);
        assert!(
            told.starts_with(&format!("nothing answers at {url} (Connection refused")),
            "{told}"
        );
        let told = trouble(&Status::resource_exhausted("too many nodes"), &url);
        assert!(told.contains(&url) && told.ends_with(": too many nodes"), "{told}");
    }

    #[test]
    fn a_lease_counts_from_when_the_heartbeat_was_sent() {
        let lease = Lease::default();
        assert!(!lease.holds(), "none yet");
        let now = platform::uptime();
        lease.renew(now, Duration::from_secs(60));
        assert!(lease.holds());
        lease.end();
        let long_ago = now.saturating_sub(Duration::from_millis(5));
        lease.renew(long_ago, Duration::from_millis(5));
        assert!(!lease.holds());
    }

    #[test]
    fn a_batch_that_bears_more_silence_outlasts_the_lease() {
        let lease = Lease::default();
        let minute = Duration::from_secs(60);
        assert!(!lease.holds_for(minute), "there was none yet");
        let sent = platform::uptime().saturating_sub(Duration::from_millis(500));
        lease.renew(sent, Duration::from_millis(500));
        assert!(!lease.holds() && !lease.holds_for(Duration::ZERO));
        assert!(lease.holds_for(minute));
        assert!(!lease.holds_for(Duration::from_millis(500)), "counted from the same moment");
        lease.renew(platform::uptime(), minute);
        assert!(lease.holds_for(Duration::ZERO), "less silence than the lease does not shorten it");
        lease.end();
        assert!(!lease.holds_for(minute));
    }

    #[test]
    fn a_late_answer_does_not_shorten_a_lease() {
        let lease = Lease::default();
        let now = platform::uptime();
        lease.renew(now, Duration::from_secs(60));
        lease.renew(now, Duration::ZERO);
        assert!(lease.holds());
    }
}
