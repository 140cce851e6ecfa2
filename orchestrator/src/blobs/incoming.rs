//! Blobs on their way in: each upload has a thread that hashes and writes, and one thread makes what they
//! commit durable, many blobs at a time, before it gives them their names.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, mpsc as std_mpsc},
    thread,
};

use bytes::Bytes;
use framecrew_blobs::Digest;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::{catalog::Catalog, error::BlobError, staged::Staged};

/// Orders that wait for an upload's thread while it writes. A chunk has 1 MiB at most.
const ORDERS_MAX: usize = 2;

/// Blobs that are made durable together; as many more may wait meanwhile. With it a project of thousands of files waits
/// for the disk a few times only.
const GROUP_MAX: usize = 256;

/// Committed blobs that one upload has not yet seen durable.
const PENDING_MAX: usize = 4 * GROUP_MAX;

/// The result of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stored {
    /// Blobs committed.
    pub(crate) blobs: u64,
    /// Committed blobs that were there before.
    pub(crate) existed: u64,
}

enum Order {
    Begin { digest: Digest, size_bytes: u64 },
    Write(Bytes),
    Commit,
}

/// One upload: blobs, one after the other. Dropping it discards the blob that is not committed; committed ones stay.
#[derive(Debug)]
pub(crate) struct Incoming {
    orders: mpsc::Sender<Order>,
    writing: JoinHandle<Result<Stored, BlobError>>,
}

impl Incoming {
    pub(super) fn new(catalog: Arc<Catalog>, durable: Durable) -> Self {
        let (orders, receiver) = mpsc::channel(ORDERS_MAX);
        let writing = tokio::task::spawn_blocking(move || write(&catalog, &durable, receiver));
        Self { orders, writing }
    }

    /// Begins a blob; the one before is committed. After an error of this or a later call, [`Incoming::finish`] returns
    /// the reason.
    pub(crate) async fn begin(&self, digest: Digest, size_bytes: u64) -> Result<(), Ended> {
        self.order(Order::Begin { digest, size_bytes }).await
    }

    /// Appends bytes.
    pub(crate) async fn write(&self, data: Bytes) -> Result<(), Ended> {
        self.order(Order::Write(data)).await
    }

    /// Ends a blob: its bytes are checked against the digest, and stored.
    pub(crate) async fn commit(&self) -> Result<(), Ended> {
        self.order(Order::Commit).await
    }

    async fn order(&self, order: Order) -> Result<(), Ended> {
        self.orders.send(order).await.map_err(|_| Ended)
    }

    /// Returns when each committed blob is durable under its name. One that is not committed is removed.
    pub(crate) async fn finish(self) -> Result<Stored, BlobError> {
        drop(self.orders);
        self.writing.await.unwrap_or_else(|panic| Err(io::Error::other(panic).into()))
    }
}

/// The upload has failed.
#[derive(Debug)]
pub(crate) struct Ended;

/// A blob that is being written.
struct Open {
    /// `None` when the blob is there already: its bytes are ignored.
    staged: Option<Staged>,
    hasher: blake3::Hasher,
}

fn write(
    catalog: &Catalog,
    durable: &Durable,
    mut orders: mpsc::Receiver<Order>,
) -> Result<Stored, BlobError> {
    let mut stored = Stored::default();
    let mut pending = VecDeque::new();
    let mut open: Option<Open> = None;
    while let Some(order) = orders.blocking_recv() {
        match order {
            Order::Begin { digest, size_bytes } => {
                let staged = if catalog.is_there(digest, size_bytes)? {
                    None
                } else {
                    catalog.check_room(size_bytes)?;
                    Some(catalog.stage(digest)?)
                };
                open = Some(Open { staged, hasher: blake3::Hasher::new() });
            }
            Order::Write(data) => {
                if let Some(Open { staged: Some(staged), hasher }) = &mut open {
                    // Again: others write too.
                    catalog.check_room(data.len() as u64)?;
                    hasher.update(&data);
                    staged.write(&data)?;
                }
            }
            Order::Commit => {
                let Some(Open { staged, hasher }) = open.take() else { continue };
                stored.blobs += 1;
                let Some(mut staged) = staged else {
                    stored.existed += 1;
                    continue;
                };
                let actual = Digest::from(hasher.finalize());
                if actual != staged.digest() {
                    return Err(BlobError::WrongDigest { actual, declared: staged.digest() });
                }
                staged.close();
                if pending.len() >= PENDING_MAX
                    && let Some(oldest) = pending.pop_front()
                {
                    wait(oldest)?;
                }
                pending.push_back(durable.submit(staged));
            }
        }
    }
    drop(open);
    pending.into_iter().try_for_each(wait)?;
    Ok(stored)
}

type Answer = Result<(), Arc<io::Error>>;

fn wait(answer: oneshot::Receiver<Answer>) -> Result<(), BlobError> {
    match answer.blocking_recv() {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(io::Error::new(error.kind(), error).into()),
        Err(_) => Err(io::Error::other("the thread that stores blobs ended").into()),
    }
}

type Commit = (Staged, oneshot::Sender<Answer>);

/// Takes committed blobs to the thread that makes them durable.
#[derive(Debug, Clone)]
pub(super) struct Durable(std_mpsc::SyncSender<Commit>);

/// The thread's end of [`Durable`].
pub(super) struct Groups(std_mpsc::Receiver<Commit>);

pub(super) fn durable() -> (Durable, Groups) {
    let (sender, receiver) = std_mpsc::sync_channel(GROUP_MAX);
    (Durable(sender), Groups(receiver))
}

impl Durable {
    /// Hands a blob over; blocks while too many wait. The answer comes when it is durable under its name.
    fn submit(&self, staged: Staged) -> oneshot::Receiver<Answer> {
        let (answer, receiver) = oneshot::channel();
        // If the thread has ended, dropping the sender is the answer.
        let _ = self.0.send((staged, answer));
        receiver
    }
}

impl Groups {
    /// Starts the thread; it ends with the last handle to the blobs.
    pub(super) fn run(self, catalog: Arc<Catalog>) -> io::Result<()> {
        let work = move || {
            while let Some((mut blobs, answers)) = self.next() {
                let result = catalog.store(&mut blobs).map_err(Arc::new);
                // Before the answers: a failed upload is removed by the time its client learns of it.
                drop(blobs);
                for answer in answers {
                    let _ = answer.send(result.clone());
                }
            }
        };
        thread::Builder::new().name("blobs".into()).spawn(work).map(drop)
    }

    /// The blobs that wait: while one group is being made durable, the next one gathers.
    fn next(&self) -> Option<(Vec<Staged>, Vec<oneshot::Sender<Answer>>)> {
        let first = self.0.recv().ok()?;
        Some(std::iter::once(first).chain(self.0.try_iter()).take(GROUP_MAX).unzip())
    }
}
