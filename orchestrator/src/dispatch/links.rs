//! Links: one connection to each node.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    net::SocketAddr,
    time::Duration,
};

use framecrew_proto::v1::render_node_client::RenderNodeClient;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::domain::{BatchId, NodeName};

/// How long a connection to a node may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Interval of keepalive pings on an idle link, and how long their answer may take: well within a lease, so that a
/// partition is noticed before it matters.
const KEEPALIVE: Duration = Duration::from_secs(4);
/// A message of a node: 512 events with their outputs and log tails.
const MESSAGE_MAX: usize = 16 << 20;

/// The connection to a node.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) address: String,
    pub(super) client: RenderNodeClient<Channel>,
    /// Where the node's process itself listens, if it runs on this machine.
    pub(super) neighbour: Option<SocketAddr>,
    /// Ended batches that the node may forget. Its next batch carries them.
    pub(super) settled: Vec<u64>,
    /// Closes when the node has answered for the latest batch, so that batches arrive in order.
    pub(super) answered: Option<oneshot::Receiver<Infallible>>,
}

/// A batch's place in the sending order of its node. It waits for the earlier batch, and the later one waits until
/// this ticket is dropped.
#[derive(Debug)]
pub(super) struct SendTicket {
    pub(super) before: Option<oneshot::Receiver<Infallible>>,
    pub(super) _after: oneshot::Sender<Infallible>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) links: HashMap<NodeName, Link>,
    /// Live batches. A token is cancelled when the scheduler ends its batch.
    pub(super) batches: HashMap<BatchId, CancellationToken>,
    /// Batches read to their end event. Only these are reported as settled; the node hands in the frames of all others
    /// itself.
    pub(super) read: HashSet<BatchId>,
}

impl State {
    /// The link to a node at an address; `None` if the address is invalid.
    pub(super) fn link(&mut self, node: &NodeName, address: &str) -> Option<&mut Link> {
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
