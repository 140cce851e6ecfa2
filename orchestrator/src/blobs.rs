//! Content-addressed bytes over an object store: a local directory, `<data>/blobs/ab/cdef…`.
//!
//! Nothing removes a blob while the orchestrator runs, and a blob bears its name only when it is whole and
//! durable. Both are what lets [`Blobs::contains`] answer from memory.

use std::{
    collections::HashSet,
    error::Error,
    fmt, fs, io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Bytes, BytesMut};
use framecrew_blobs::Digest;
use object_store::{
    MultipartUpload, ObjectStore, ObjectStoreExt as _, local::LocalFileSystem, path::Path as Key,
};

/// Digests remembered as present, in each of two generations: 32 bytes and a slot's overhead each, so 6 MiB in
/// all. More than the files and frames of the jobs that are live at once.
const KNOWN_PER_GENERATION: usize = 64 * 1024;

/// Blobs remembered as damaged. A disk with more of them than this needs a person, not memory.
const DAMAGED_MAX: usize = 1_024;

/// Bytes handed to the store at a time, so that many small chunks cost few writes.
const PART_BYTES: usize = 1024 * 1024;

/// Where blobs live. Cheap to clone; clones share what they know.
#[derive(Clone)]
pub(crate) struct Blobs {
    store: Arc<dyn ObjectStore>,
    memory: Arc<Mutex<Memory>>,
}

/// Why the directory cannot hold blobs.
#[derive(Debug, thiserror::Error)]
#[error("cannot keep blobs in {}: {source}", dir.display())]
pub(crate) struct OpenError {
    dir: PathBuf,
    source: io::Error,
}

/// Why a blob could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BlobError {
    /// No space is left.
    #[error("the blob store's disk is full")]
    Full(#[source] object_store::Error),
    /// There is no such blob.
    #[error("blob {0} is not stored")]
    Missing(Digest),
    /// The stored bytes are not those that were stored.
    #[error("the stored bytes of blob {0} are damaged")]
    Damaged(Digest),
    /// What was sent is not what was declared.
    #[error("the bytes hash to {actual}, not to {declared}")]
    WrongDigest {
        /// What the bytes hash to.
        actual: Digest,
        /// What was declared.
        declared: Digest,
    },
    /// Anything else.
    #[error("the blob store failed: {0}")]
    Store(#[source] object_store::Error),
}

impl From<object_store::Error> for BlobError {
    fn from(error: object_store::Error) -> Self {
        if is_full(&error) { Self::Full(error) } else { Self::Store(error) }
    }
}

fn is_full(error: &object_store::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            use io::ErrorKind::{QuotaExceeded, StorageFull};
            return matches!(error.kind(), StorageFull | QuotaExceeded);
        }
        cause = error.source();
    }
    false
}

impl Blobs {
    /// Opens the directory, made if need be, and removes what uploads left there when the last process was
    /// killed. Reads the names of all blobs: about a second for a million.
    pub(crate) fn open(dir: &Path) -> Result<Self, OpenError> {
        let open = || {
            prepare(dir)?;
            // Acknowledged means durable: without fsync it would not be.
            let store = LocalFileSystem::new_with_prefix(dir)?.with_fsync(true);
            Ok(Self::over(Arc::new(store)))
        };
        open().map_err(|source| OpenError { dir: dir.into(), source })
    }

    fn over(store: Arc<dyn ObjectStore>) -> Self {
        Self { store, memory: Arc::default() }
    }

    /// Whether the blob is stored and, as far as is known, sound. Costs nothing for one that was asked for
    /// lately.
    pub(crate) async fn contains(&self, digest: Digest) -> Result<bool, BlobError> {
        match self.with_memory(|memory| memory.recall(digest)) {
            Some(present) => Ok(present),
            None => Ok(self.size_bytes(digest).await?.is_some()),
        }
    }

    /// The blob's size in bytes; `None` when it is not stored.
    pub(crate) async fn size_bytes(&self, digest: Digest) -> Result<Option<u64>, BlobError> {
        match self.store.head(&key(digest)).await {
            Ok(meta) => {
                self.with_memory(|memory| memory.present(digest));
                Ok(Some(meta.size))
            }
            Err(object_store::Error::NotFound { .. }) => {
                self.with_memory(|memory| memory.absent(digest));
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Reads the bytes of `range`, which lies within the blob's size.
    pub(crate) async fn read_range(
        &self,
        digest: Digest,
        range: Range<u64>,
    ) -> Result<Bytes, BlobError> {
        let end = range.end;
        match self.store.get_range(&key(digest), range).await {
            Ok(bytes) => Ok(bytes),
            Err(error) => match self.size_bytes(digest).await? {
                None => Err(BlobError::Missing(digest)),
                Some(size_bytes) if size_bytes < end => Err(self.damaged(digest)),
                Some(_) => Err(error.into()),
            },
        }
    }

    /// Takes note that a blob's stored bytes do not match its digest: until it is stored again it counts as
    /// missing, so that the next upload heals it.
    pub(crate) fn damaged(&self, digest: Digest) -> BlobError {
        tracing::error!(%digest, "stored bytes do not match their digest; check the disk");
        self.with_memory(|memory| memory.damaged(digest));
        BlobError::Damaged(digest)
    }

    /// Begins to store a blob. Nothing has its name until [`Incoming::commit`].
    pub(crate) async fn receive(&self, digest: Digest) -> Result<Incoming, BlobError> {
        Ok(Incoming {
            upload: self.store.put_multipart(&key(digest)).await?,
            blobs: self.clone(),
            digest,
            hasher: blake3::Hasher::new(),
            buffer: BytesMut::new(),
        })
    }

    fn with_memory<T>(&self, f: impl FnOnce(&mut Memory) -> T) -> T {
        f(&mut self.memory.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blobs({})", self.store)
    }
}

/// A blob on its way in. Dropped before its commit, it leaves nothing behind.
#[derive(Debug)]
pub(crate) struct Incoming {
    upload: Box<dyn MultipartUpload>,
    blobs: Blobs,
    digest: Digest,
    hasher: blake3::Hasher,
    buffer: BytesMut,
}

impl Incoming {
    /// Bytes received so far.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.hasher.count()
    }

    /// Appends bytes. After an error, abort.
    pub(crate) async fn write(&mut self, data: &[u8]) -> Result<(), BlobError> {
        self.hasher.update(data);
        // A copy: keeping the chunks themselves would pin the network buffer behind each, however small it is.
        self.buffer.extend_from_slice(data);
        if self.buffer.len() >= PART_BYTES {
            self.write_part().await?;
        }
        Ok(())
    }

    /// Checks the bytes against the digest; returns when they are durable under their name.
    pub(crate) async fn commit(mut self) -> Result<(), BlobError> {
        let actual = Digest::from(self.hasher.finalize());
        if actual != self.digest {
            let declared = self.digest;
            self.abort().await;
            return Err(BlobError::WrongDigest { actual, declared });
        }
        if !self.buffer.is_empty()
            && let Err(error) = self.write_part().await
        {
            self.abort().await;
            return Err(error);
        }
        self.upload.complete().await?;
        self.blobs.with_memory(|memory| memory.stored(self.digest));
        Ok(())
    }

    /// Removes what was received. Dropping does too, but some time later.
    pub(crate) async fn abort(mut self) {
        if let Err(error) = self.upload.abort().await {
            tracing::warn!(digest = %self.digest, %error, "an unfinished upload could not be removed");
        }
    }

    async fn write_part(&mut self) -> Result<(), BlobError> {
        let part = self.buffer.split().freeze();
        Ok(self.upload.put_part(part.into()).await?)
    }
}

/// What is known about blobs without asking the disk. Two generations stand in for an exact least-recently-used
/// order: a digest that is asked for again moves to the newer, and the older is dropped when the newer is full.
#[derive(Default)]
struct Memory {
    newer: HashSet<Digest>,
    older: HashSet<Digest>,
    damaged: HashSet<Digest>,
}

impl Memory {
    fn recall(&mut self, digest: Digest) -> Option<bool> {
        if self.damaged.contains(&digest) {
            return Some(false);
        }
        if self.newer.contains(&digest) {
            return Some(true);
        }
        let known = self.older.contains(&digest);
        if known {
            self.present(digest);
        }
        known.then_some(true)
    }

    fn present(&mut self, digest: Digest) {
        if self.newer.len() >= KNOWN_PER_GENERATION {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(digest);
    }

    fn absent(&mut self, digest: Digest) {
        self.newer.remove(&digest);
        self.older.remove(&digest);
    }

    fn damaged(&mut self, digest: Digest) {
        if self.damaged.len() < DAMAGED_MAX {
            self.damaged.insert(digest);
        }
    }

    fn stored(&mut self, digest: Digest) {
        self.damaged.remove(&digest);
        self.present(digest);
    }
}

/// A blob's key: sharded by its first byte, so that no directory holds them all.
fn key(digest: Digest) -> Key {
    let digest = digest.to_string();
    let (shard, rest) = digest.split_at(2);
    Key::from_iter([shard, rest])
}

/// Makes all shards at once, so that no upload depends on a folder that is not yet durable, and removes what
/// the store stages uploads under: `<name>#<number>`.
fn prepare(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let mut removed = 0;
    for shard in 0..=u8::MAX {
        let shard = dir.join(format!("{shard:02x}"));
        fs::create_dir_all(&shard)?;
        for entry in fs::read_dir(&shard)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().contains('#') {
                fs::remove_file(entry.path())?;
                removed += 1;
            }
        }
    }
    if removed > 0 {
        tracing::info!(removed, "removed uploads that the last run left unfinished");
    }
    // Only Unix can sync a folder.
    if cfg!(unix) {
        fs::File::open(dir)?.sync_all()?;
        if let Some(parent) = dir.canonicalize()?.parent() {
            fs::File::open(parent)?.sync_all()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use object_store::{PutPayload, PutResult, UploadPart};

    use super::*;

    async fn store(blobs: &Blobs, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let mut incoming = blobs.receive(digest).await.unwrap();
        incoming.write(bytes).await.unwrap();
        incoming.commit().await.unwrap();
        digest
    }

    fn files(dir: &Path) -> Vec<String> {
        let shards = fs::read_dir(dir).unwrap().map(|shard| shard.unwrap());
        let files = shards.flat_map(|shard| fs::read_dir(shard.path()).unwrap());
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[tokio::test]
    async fn a_stored_blob_is_found_and_read_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let digest = store(&Blobs::open(dir.path()).unwrap(), b"frame").await;

        let blobs = Blobs::open(dir.path()).unwrap();
        assert!(blobs.contains(digest).await.unwrap());
        assert_eq!(blobs.size_bytes(digest).await.unwrap(), Some(5));
        assert_eq!(blobs.read_range(digest, 1..4).await.unwrap(), "ram");
        assert!(!blobs.contains(Digest::of(b"other")).await.unwrap());
    }

    #[tokio::test]
    async fn a_blob_larger_than_a_part_keeps_its_bytes_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let bytes: Vec<u8> = (0..PART_BYTES as u32).flat_map(u32::to_le_bytes).collect();
        let digest = Digest::of(&bytes);
        let mut incoming = blobs.receive(digest).await.unwrap();
        for chunk in bytes.chunks(300_001) {
            incoming.write(chunk).await.unwrap();
        }
        incoming.commit().await.unwrap();
        let read = blobs.read_range(digest, 0..bytes.len() as u64).await.unwrap();
        assert_eq!(Digest::of(&read), digest);
    }

    #[tokio::test]
    async fn bytes_that_do_not_match_leave_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let mut incoming = blobs.receive(Digest::of(b"this")).await.unwrap();
        incoming.write(b"that").await.unwrap();
        let error = incoming.commit().await.unwrap_err();
        assert!(matches!(error, BlobError::WrongDigest { .. }), "{error}");
        assert_eq!(files(dir.path()), [""; 0]);
    }

    #[tokio::test]
    async fn what_a_killed_process_left_unfinished_is_removed_at_open() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let kept = store(&blobs, b"whole").await;
        let mut incoming = blobs.receive(Digest::of(b"half")).await.unwrap();
        incoming.write(b"ha").await.unwrap();
        // A killed process runs no destructors.
        std::mem::forget(incoming);
        assert_eq!(files(dir.path()).len(), 2);

        let blobs = Blobs::open(dir.path()).unwrap();
        assert_eq!(files(dir.path()).len(), 1);
        assert!(blobs.contains(kept).await.unwrap());
    }

    #[tokio::test]
    async fn a_damaged_blob_counts_as_missing_until_it_is_stored_again() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let digest = store(&blobs, b"bytes").await;
        blobs.damaged(digest);
        assert!(!blobs.contains(digest).await.unwrap());
        store(&blobs, b"bytes").await;
        assert!(blobs.contains(digest).await.unwrap());
    }

    #[test]
    fn memory_is_bounded_and_keeps_what_is_asked_for() {
        let mut memory = Memory::default();
        let digest = |n: u32| {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&n.to_le_bytes());
            Digest::from(bytes)
        };
        for n in 0..4 * KNOWN_PER_GENERATION as u32 {
            memory.present(digest(n));
            assert_eq!(memory.recall(digest(0)), Some(true));
        }
        assert_eq!(memory.recall(digest(1)), None);
        assert!(memory.newer.len() + memory.older.len() <= 2 * KNOWN_PER_GENERATION);
    }

    #[derive(Debug)]
    struct FullDisk {
        aborted: Arc<Mutex<bool>>,
    }

    #[tonic::async_trait]
    impl MultipartUpload for FullDisk {
        fn put_part(&mut self, _: PutPayload) -> UploadPart {
            Box::pin(async {
                Err(object_store::Error::Generic {
                    store: "test",
                    source: io::Error::from(io::ErrorKind::StorageFull).into(),
                })
            })
        }

        async fn complete(&mut self) -> object_store::Result<PutResult> {
            unreachable!("a failed upload is not completed")
        }

        async fn abort(&mut self) -> object_store::Result<()> {
            *self.aborted.lock().unwrap() = true;
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_full_disk_is_told_apart_and_the_upload_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let aborted = Arc::new(Mutex::new(false));
        let mut incoming =
            Blobs::open(dir.path()).unwrap().receive(Digest::of(b"frame")).await.unwrap();
        incoming.upload = Box::new(FullDisk { aborted: aborted.clone() });
        incoming.write(b"frame").await.unwrap();
        let error = incoming.commit().await.unwrap_err();
        assert!(matches!(error, BlobError::Full(_)), "{error}");
        assert!(*aborted.lock().unwrap());
    }
}
