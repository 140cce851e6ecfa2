//! Places: how many of a thing there may be at once, for one client and in all. Whoever has one holds a
//! [`Place`], and gives it back by dropping it, however that comes about.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv6Addr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use futures::Stream;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// Who takes places: an address; of IPv6 the network, whose addresses are all of one machine or household.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Client(IpAddr);

impl Client {
    /// Bits of an IPv6 address that tell networks apart.
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
    /// Only clients that have a place.
    by_client: HashMap<Client, usize>,
}

/// A bounded number of places. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    taken: Arc<Mutex<Taken>>,
    per_client: usize,
    total: usize,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// The client has as many as one may have.
    OfClient(usize),
    /// All of them are taken.
    Total(usize),
}

impl Places {
    pub(crate) fn new(per_client: usize, total: usize) -> Self {
        Self { taken: Arc::default(), per_client, total }
    }

    pub(crate) fn take(&self, client: Client) -> Result<Place, NoPlace> {
        let mut taken = lock(&self.taken);
        if taken.by_client.get(&client).is_some_and(|has| *has >= self.per_client) {
            return Err(NoPlace::OfClient(self.per_client));
        }
        if taken.total >= self.total {
            return Err(NoPlace::Total(self.total));
        }
        taken.total += 1;
        *taken.by_client.entry(client).or_default() += 1;
        Ok(Place { taken: self.taken.clone(), client })
    }

    #[cfg(test)]
    pub(crate) fn taken(&self) -> usize {
        lock(&self.taken).total
    }
}

/// One of the places; free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    taken: Arc<Mutex<Taken>>,
    client: Client,
}

impl Place {
    pub(crate) fn client(&self) -> Client {
        self.client
    }
}

impl Drop for Place {
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

/// Machines with nodes that are told apart from others; those of the largest farm.
const NODE_MACHINES_MAX: usize = 4_096;

/// Turns at something: who finds none waits, behind those who came before. Some are kept for the machines that have
/// nodes, so that others cannot have all of them. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Turns {
    all: Arc<Semaphore>,
    /// For the rest of the machines.
    others: Arc<Semaphore>,
    of_nodes: Arc<Mutex<HashSet<Client>>>,
}

/// One of all turns, and one of those that are not kept for nodes.
pub(crate) type Turn = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

impl Turns {
    pub(crate) fn new(total: usize, kept_for_nodes: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(total)),
            others: Arc::new(Semaphore::new(total - kept_for_nodes)),
            of_nodes: Arc::default(),
        }
    }

    /// Notes where a node is. It stays noted: a node that is gone may be back any moment. When there are too many
    /// all are forgotten, and those that are there are noted again with their next heartbeats.
    pub(crate) fn note_node(&self, client: Client) {
        let mut of_nodes = self.of_nodes();
        if of_nodes.len() >= NODE_MACHINES_MAX {
            of_nodes.clear();
        }
        of_nodes.insert(client);
    }

    pub(crate) async fn take(&self, client: Client) -> Result<Turn, AcquireError> {
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

/// A stream that has a place as long as it is there.
#[derive(Debug)]
pub(crate) struct Placed<S> {
    stream: S,
    _place: Place,
}

impl<S> Placed<S> {
    pub(crate) fn new(stream: S, place: Place) -> Self {
        Self { stream, _place: place }
    }
}

impl<S: Stream + Unpin> Stream for Placed<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        Pin::new(&mut self.stream).poll_next(context)
    }
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
    async fn who_has_no_node_cannot_take_the_turns_that_are_kept_for_nodes() {
        let turns = Turns::new(2, 1);
        turns.note_node(client("10.0.0.9"));
        let first = turns.take(client("10.0.0.1")).await.unwrap();
        let mut second = std::pin::pin!(turns.take(client("10.0.0.2")));
        assert!(second.as_mut().now_or_never().is_none());
        let _node = turns.take(client("10.0.0.9")).now_or_never().unwrap().unwrap();
        assert!(turns.take(client("10.0.0.9")).now_or_never().is_none(), "all are taken");
        drop(first);
        let _second = second.await.unwrap();
    }

    #[test]
    fn a_client_has_its_share_and_no_more_and_all_together_have_theirs() {
        let places = Places::new(2, 3);
        let first = places.take(client("10.0.0.1")).unwrap();
        let _second = places.take(client("::ffff:10.0.0.1")).unwrap();
        assert_eq!(places.take(client("10.0.0.1")).unwrap_err(), NoPlace::OfClient(2));
        let third = places.take(client("10.0.0.2")).unwrap();
        assert_eq!(places.take(client("10.0.0.3")).unwrap_err(), NoPlace::Total(3));
        drop((first, third));
        let _fourth = places.take(client("10.0.0.1")).unwrap();
        assert_eq!(places.taken(), 2);
        assert_eq!(lock(&places.taken).by_client.len(), 1, "whoever has none is forgotten");
    }

    #[test]
    fn addresses_of_one_network_are_one_client() {
        assert_eq!(client("2001:db8::1"), client("2001:db8::ffff:2"));
        assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::1"));
    }

    #[tokio::test]
    async fn a_stream_has_its_place_until_it_is_dropped() {
        let places = Places::new(1, 1);
        let place = places.take(client("10.0.0.1")).unwrap();
        let mut stream = Placed::new(stream::iter([1, 2]), place);
        assert_eq!(stream.by_ref().collect::<Vec<_>>().await, [1, 2]);
        assert_eq!(places.taken(), 1, "it is still there");
        drop(stream);
        assert_eq!(places.taken(), 0);
    }
}
