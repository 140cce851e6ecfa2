//! Quota: how many of a thing there may be at once, for one client and in all. Whoever has one holds a
//! [`Permit`], and gives it back by dropping it, however that comes about.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use futures::Stream;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Status};

use super::status::exhausted;

/// A client: its IPv4 address, or its IPv6 network, whose addresses belong to one machine or household.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Client(IpAddr);

impl Client {
    /// Bits of an IPv6 address that identify the network.
    const NETWORK: u128 = !0 << 64;

    pub(crate) fn at(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & Self::NETWORK).into(),
            address => address,
        })
    }
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    /// Clients without a permit have no entry.
    by_client: HashMap<Client, usize>,
}

/// A bounded number of permits. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Quota {
    taken: Arc<Mutex<Taken>>,
    per_client: usize,
    total: usize,
}

/// Why there is no permit, with the bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QuotaExceeded {
    /// The client has as many permits as one client may have.
    OfClient(usize),
    /// All permits are taken.
    Total(usize),
}

impl Quota {
    pub(crate) fn new(per_client: usize, total: usize) -> Self {
        Self { taken: Arc::default(), per_client, total }
    }

    pub(crate) fn take(&self, client: Client) -> Result<Permit, QuotaExceeded> {
        let mut taken = lock(&self.taken);
        if taken.by_client.get(&client).is_some_and(|has| *has >= self.per_client) {
            return Err(QuotaExceeded::OfClient(self.per_client));
        }
        if taken.total >= self.total {
            return Err(QuotaExceeded::Total(self.total));
        }
        taken.total += 1;
        *taken.by_client.entry(client).or_default() += 1;
        Ok(Permit { taken: self.taken.clone(), client })
    }

    #[cfg(test)]
    pub(crate) fn taken(&self) -> usize {
        lock(&self.taken).total
    }
}

/// One of a quota's permits. Dropping it frees it.
#[derive(Debug)]
pub(crate) struct Permit {
    taken: Arc<Mutex<Taken>>,
    client: Client,
}

impl Permit {
    pub(crate) fn client(&self) -> Client {
        self.client
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        taken.total -= 1;
        if let Some(has) = taken.by_client.get_mut(&self.client) {
            *has -= 1;
            if *has == 0 {
                taken.by_client.remove(&self.client);
            }
        }
    }
}

/// No holder of this lock panics, so a poisoned one is still whole.
fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Machines that are known to have nodes: those of the largest farm.
const NODE_MACHINES_MAX: usize = 4_096;

/// The permits of uploads, given out in the order of requests. Some are reserved for machines that have nodes, so that
/// others cannot take all of them. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct UploadPermits {
    all: Arc<Semaphore>,
    /// For machines without nodes.
    others: Arc<Semaphore>,
    of_nodes: Arc<Mutex<HashSet<Client>>>,
}

/// One of all permits, and one of those that are not reserved for nodes.
pub(crate) type UploadPermit = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

impl UploadPermits {
    pub(crate) fn new(total: usize, kept_for_nodes: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(total)),
            others: Arc::new(Semaphore::new(total - kept_for_nodes)),
            of_nodes: Arc::default(),
        }
    }

    /// Notes the address of a node. It is kept after the node is gone, because the node may come back any moment. When
    /// there are too many, all are forgotten; the next heartbeats note the live ones again.
    pub(crate) fn note_node(&self, client: Client) {
        let mut of_nodes = self.of_nodes();
        if of_nodes.len() >= NODE_MACHINES_MAX {
            of_nodes.clear();
        }
        of_nodes.insert(client);
    }

    pub(crate) async fn take(&self, client: Client) -> Result<UploadPermit, AcquireError> {
        let is_of_node = self.of_nodes().contains(&client);
        let other = match is_of_node {
            true => None,
            false => Some(self.others.clone().acquire_owned().await?),
        };
        Ok((self.all.clone().acquire_owned().await?, other))
    }

    fn of_nodes(&self) -> MutexGuard<'_, HashSet<Client>> {
        self.of_nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream that holds a permit until it is dropped.
#[derive(Debug)]
pub(crate) struct Permitted<S> {
    stream: S,
    _permit: Permit,
}

impl<S> Permitted<S> {
    pub(crate) fn new(stream: S, permit: Permit) -> Self {
        Self { stream, _permit: permit }
    }
}

impl<S: Stream + Unpin> Stream for Permitted<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        Pin::new(&mut self.stream).poll_next(context)
    }
}

/// Takes a permit for one more stream of the caller.
pub(crate) fn admit<T>(quota: &Quota, request: &Request<T>) -> Result<Permit, Status> {
    // A call from within this process has no address.
    let unknown = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    let peer = request.remote_addr().unwrap_or(unknown);
    quota.take(Client::at(peer.ip())).map_err(|reason| {
        let message = match reason {
            QuotaExceeded::OfClient(max) => {
                format!("{max} streams are open from {}: end some, then try again", peer.ip())
            }
            QuotaExceeded::Total(max) => format!("{max} streams are open here in all; try again"),
        };
        exhausted("STREAMS", &message)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures::{FutureExt as _, StreamExt as _, stream};

    use super::*;

    fn client(address: &str) -> Client {
        Client::at(address.parse().unwrap())
    }

    #[tokio::test]
    async fn a_client_without_nodes_cannot_take_permits_reserved_for_nodes() {
        let permits = UploadPermits::new(2, 1);
        permits.note_node(client("10.0.0.9"));
        let first = permits.take(client("10.0.0.1")).await.unwrap();
        let mut second = std::pin::pin!(permits.take(client("10.0.0.2")));
        assert!(second.as_mut().now_or_never().is_none());
        let _node = permits.take(client("10.0.0.9")).now_or_never().unwrap().unwrap();
        assert!(permits.take(client("10.0.0.9")).now_or_never().is_none(), "all are taken");
        drop(first);
        let _second = second.await.unwrap();
    }

    #[test]
    fn a_client_has_its_share_and_no_more_and_all_together_have_theirs() {
        let quota = Quota::new(2, 3);
        let first = quota.take(client("10.0.0.1")).unwrap();
        let _second = quota.take(client("::ffff:10.0.0.1")).unwrap();
        assert_eq!(quota.take(client("10.0.0.1")).unwrap_err(), QuotaExceeded::OfClient(2));
        let third = quota.take(client("10.0.0.2")).unwrap();
        assert_eq!(quota.take(client("10.0.0.3")).unwrap_err(), QuotaExceeded::Total(3));
        drop((first, third));
        let _fourth = quota.take(client("10.0.0.1")).unwrap();
        assert_eq!(quota.taken(), 2);
        assert_eq!(lock(&quota.taken).by_client.len(), 1, "a client without permits has no entry");
    }

    #[test]
    fn addresses_of_one_network_are_one_client() {
        assert_eq!(client("2001:db8::1"), client("2001:db8::ffff:2"));
        assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::1"));
    }

    #[tokio::test]
    async fn a_stream_has_its_permit_until_it_is_dropped() {
        let quota = Quota::new(1, 1);
        let permit = quota.take(client("10.0.0.1")).unwrap();
        let mut stream = Permitted::new(stream::iter([1, 2]), permit);
        assert_eq!(stream.by_ref().collect::<Vec<_>>().await, [1, 2]);
        assert_eq!(quota.taken(), 1, "the stream is still there");
        drop(stream);
        assert_eq!(quota.taken(), 0);
    }
}
