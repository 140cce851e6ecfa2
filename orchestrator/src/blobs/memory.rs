//! Blobs in memory, for tests.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use framecrew_blobs::Digest;

use super::backend::{Backend, Entry, StagedId};
use crate::disk::Room;

type Bytes = Arc<Mutex<Vec<u8>>>;

/// Blobs that last as long as this value.
#[derive(Debug, Default)]
pub(crate) struct MemoryBackend {
    staged: Mutex<BTreeMap<StagedId, Bytes>>,
    published: Mutex<BTreeMap<Digest, Bytes>>,
}

/// Appends to a staged blob.
struct Writer(Bytes);

impl Write for Writer {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        lock(&self.0).extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryBackend {
    /// Forgets what is not published, as a restart does.
    pub(crate) fn restart(&self) {
        lock(&self.staged).clear();
    }
}

impl Backend for MemoryBackend {
    fn stage(&self, staged: StagedId) -> io::Result<Box<dyn Write + Send>> {
        let bytes = Bytes::default();
        lock(&self.staged).insert(staged, bytes.clone());
        Ok(Box::new(Writer(bytes)))
    }

    fn discard(&self, staged: StagedId) -> io::Result<()> {
        lock(&self.staged).remove(&staged);
        Ok(())
    }

    fn sync(&self, _: &[StagedId]) -> io::Result<()> {
        Ok(())
    }

    fn publish(&self, group: &[StagedId]) -> io::Result<()> {
        for staged in group {
            let bytes = lock(&self.staged).remove(staged).ok_or(io::ErrorKind::NotFound)?;
            lock(&self.published).insert(staged.digest, bytes);
        }
        Ok(())
    }

    fn find(&self, digest: Digest) -> io::Result<Option<u64>> {
        Ok(lock(&self.published).get(&digest).map(|bytes| lock(bytes).len() as u64))
    }

    fn read(&self, digest: Digest, range: Range<u64>) -> io::Result<Vec<u8>> {
        let published = lock(&self.published);
        let bytes = lock(published.get(&digest).ok_or(io::ErrorKind::NotFound)?);
        let within = |at: u64| usize::try_from(at).map_or(bytes.len(), |at| at.min(bytes.len()));
        Ok(bytes[within(range.start)..within(range.end)].to_vec())
    }

    fn list(&self, each: &mut dyn FnMut(Entry)) -> io::Result<()> {
        for (digest, bytes) in &*lock(&self.published) {
            each(Entry { digest: *digest, size_bytes: lock(bytes).len() as u64 });
        }
        Ok(())
    }

    fn remove(&self, digest: Digest) -> io::Result<()> {
        let removed = lock(&self.published).remove(&digest);
        removed.map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn room(&self) -> io::Result<Option<Room>> {
        Ok(None)
    }
}
