//! Registers the node and renews its lease.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use framecrew_proto::v1::{
    HeartbeatRequest, RegisterNodeRequest, UnregisterNodeRequest,
    orchestrator_client::OrchestratorClient,
};
use tokio::time::{self, Instant};
use tonic::{Code, Status, transport::Channel};
use tracing::{info, warn};

use crate::{
    backoff::jittered,
    core::{BatchId, Event, Grant, Registration, View},
    node::Node,
    platform,
};

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

/// Bounds on what an orchestrator may ask for, so that a wrong value cannot turn into a flood or a dead node.
const HEARTBEAT_MIN: Duration = Duration::from_millis(50);
const HEARTBEAT_MAX: Duration = Duration::from_secs(10);

/// Longest time between two heartbeats of a node that drains.
const DRAINING_HEARTBEAT: Duration = Duration::from_millis(500);

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
    let mut equipment = node.equipment();
    loop {
        let is_equipped = equipment.borrow_and_update().is_some();
        let interval = match register(&node, &mut rpc, &reach).await {
            Ok(interval) => interval,
            Err(expelled) => return expelled,
        };
        tokio::select! {
            ended = heartbeats(&node, &mut rpc, interval) => if let Err(expelled) = ended {
                return expelled;
            },
            // Registered again at once, with what it has now.
            Ok(()) = equipment.changed() => {}
            () = node.slots.news.notified(), if is_equipped => {}
        }
    }
}

/// Says goodbye, so that the orchestrator need not wait for the lease to run out. The renderers must be dead.
pub(crate) async fn leave(node: &Node, channel: Channel) {
    let view = node.view();
    node.settle(Event::LeaseReturned).await;
    if !node.announced.load(Ordering::Relaxed) {
        // Nobody has ever heard of this life.
        return;
    }
    node.goodbye.owe(node.name.clone(), node.incarnation, view.store_id.to_string());
    if !view.is_leased {
        return;
    }
    let mut rpc = OrchestratorClient::new(channel);
    let mut why = "it did not answer".to_owned();
    // It may be about to come back.
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
        warn!(reason = why, "could not deregister; will do so at the next start");
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
                batch_ids: held(&node.view()),
            };
            // Whatever becomes of the answer.
            node.announced.store(true, Ordering::Relaxed);
            Ok::<_, Status>((sent, in_time(rpc.register_node(request)).await?))
        };
        match joining().await {
            Ok((sent, answer)) => {
                node.goodbye.heard_by(&answer.store_id);
                let registration = Registration {
                    grant: Grant { sent, ttl: Duration::from_millis(answer.lease_ttl_ms) },
                    store_id: answer.store_id,
                    epoch: answer.epoch,
                    first_batch: BatchId(answer.first_batch_id),
                    abandon: answer.abandon_batch_ids.into_iter().map(BatchId).collect(),
                };
                node.settle(Event::Registered(registration)).await;
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
                        warn!("{}; still retrying", trouble(&status, &reach.orchestrator));
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
    let mut changes = node.watch();
    let mut drains = false;
    loop {
        tokio::select! {
            () = time::sleep(pause) => {}
            // The orchestrator must send nothing more to a node that drains.
            Ok(_) = changes.wait_for(|view| view.is_draining), if !drains => {}
        }
        let view = node.view();
        drains = view.is_draining;
        let sent = platform::uptime();
        let request = HeartbeatRequest {
            name: node.name.clone(),
            incarnation: node.incarnation,
            batch_ids: held(&view),
            draining: drains,
            store_id: view.store_id.to_string(),
            first_batch_id: view.first_batch.map_or(0, |batch| batch.0),
        };
        match in_time(rpc.heartbeat(request)).await {
            Ok(answer) => {
                let renewed = Event::LeaseRenewed {
                    grant: Grant { sent, ttl: Duration::from_millis(answer.lease_ttl_ms) },
                    epoch: answer.epoch,
                    abandon: answer.abandon_batch_ids.into_iter().map(BatchId).collect(),
                };
                node.settle(renewed).await;
                if !well {
                    info!("the orchestrator answers again");
                }
                well = true;
                // A node that leaves waits for its last batches to be settled.
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
                    warn!(reason = reason(&status), "a heartbeat failed; still retrying");
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

fn held(view: &View) -> Vec<u64> {
    view.held.iter().map(|batch| batch.0).collect()
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
}
