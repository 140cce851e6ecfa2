//! Content-addressed bytes in a local directory, `<data>/blobs/ab/cdef…`.
//!
//! A blob bears its name only when it is whole and durable. Whoever is told that one is there has most of an
//! hour (`collect::UNUSED_MIN`) to name it in a job: before that nothing removes it. Both are what lets
//! [`Blobs::contains`] answer from memory.

mod folder;
mod incoming;
pub(crate) mod layout;

use std::{
    collections::{HashMap, HashSet},
    fmt, io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use framecrew_blobs::Digest;

pub(crate) use self::{
    folder::Entry,
    incoming::{Ended, Incoming},
};
use self::{
    folder::{Folder, Staged},
    incoming::Durable,
};

/// Digests remembered as present, in each of two generations: 44 bytes and a slot's overhead each, so 9 MiB in
/// all. More than the files and frames of the jobs that are live at once.
const KNOWN_PER_GENERATION: usize = 64 * 1024;

/// Blobs remembered as not to be believed. A disk with more of them than this needs a person, not memory.
const DOUBTED_MAX: usize = 1_024;

/// What uploads leave free on the disk: the database, which has to go on, and frames that are being written.
const RESERVE_BYTES: u64 = 1 << 30;

/// But no more than this part of a small disk.
const RESERVE_SHARE: u64 = 20;

/// How old the note on the disk may be that a blob was asked for before it is renewed: asking often costs
/// nothing, and what is taken off the hour that a blob is safe for is small.
const NOTE_AGE: Duration = Duration::from_secs(5 * 60);

/// Blobs removed at a time; meanwhile no one learns whether a blob is there.
const REMOVED_AT_ONCE: usize = 64;

/// Where blobs live. Cheap to clone; clones share what they know.
#[derive(Clone)]
pub(crate) struct Blobs {
    shared: Arc<Shared>,
    durable: Durable,
}

#[derive(Debug)]
struct Shared {
    folder: Folder,
    reserve_bytes: u64,
    /// Nobody looks at names while they change: one that is seen is durable, and stays until its hour is over.
    names: RwLock<()>,
    memory: Mutex<Memory>,
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
    Full(#[source] io::Error),
    /// What is left is not for uploads.
    #[error(
        "the blob store's disk has {free_bytes} bytes left, of which uploads leave {reserve_bytes} free; \
         make room, then try again"
    )]
    Low {
        /// What is left, in bytes.
        free_bytes: u64,
        /// What stays free, in bytes.
        reserve_bytes: u64,
    },
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
    /// Another size was declared than the blob has.
    #[error("the blob of that digest has {stored_bytes} bytes, not {declared_bytes}")]
    WrongSize {
        /// What it has, in bytes.
        stored_bytes: u64,
        /// What was declared, in bytes.
        declared_bytes: u64,
    },
    /// Anything else.
    #[error("the blob store failed: {0}")]
    Disk(#[source] io::Error),
}

impl From<io::Error> for BlobError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(error),
            _ => Self::Disk(error),
        }
    }
}

impl Blobs {
    /// Opens the directory, made if need be, and removes what uploads left there when the last process was
    /// killed. Reads the names of all blobs: about a second for a million. Uploads leave `reserve_bytes` of the
    /// disk free; by default a gigabyte, or a twentieth of a disk that is small.
    pub(crate) fn open(dir: &Path, reserve_bytes: Option<u64>) -> Result<Self, OpenError> {
        let open = || {
            let folder = Folder::open(dir)?;
            let share = folder.room()?.map_or(0, |room| room.total_bytes / RESERVE_SHARE);
            let shared = Arc::new(Shared {
                folder,
                reserve_bytes: reserve_bytes.unwrap_or(RESERVE_BYTES.min(share)),
                names: RwLock::default(),
                memory: Mutex::default(),
            });
            let (durable, groups) = incoming::durable();
            groups.run(shared.clone())?;
            Ok(Self { shared, durable })
        };
        open().map_err(|source| OpenError { dir: dir.into(), source })
    }

    /// Whether the blob is stored and, as far as is known, sound; then it is safe for an hour. Costs nothing
    /// for one that was asked for lately.
    pub(crate) async fn contains(&self, digest: Digest) -> Result<bool, BlobError> {
        let now = SystemTime::now();
        match self.shared.with_memory(|memory| memory.recall(digest, now)) {
            Some(present) => Ok(present),
            None => Ok(self.sizes(vec![digest]).await?.iter().any(Option::is_some)),
        }
    }

    /// Which of the blobs are not stored, or damaged, in the order asked for. The others are safe for an hour.
    pub(crate) async fn missing(&self, digests: Vec<Digest>) -> Result<Vec<Digest>, BlobError> {
        let now = SystemTime::now();
        let mut unknown = digests;
        self.shared.with_memory(|memory| {
            unknown.retain(|digest| memory.recall(*digest, now) != Some(true));
        });
        if unknown.is_empty() {
            return Ok(unknown);
        }
        let sizes = self.sizes(unknown.clone()).await?;
        let mut sizes = sizes.iter();
        unknown.retain(|_| sizes.next().is_some_and(Option::is_none));
        Ok(unknown)
    }

    /// The sizes of blobs in bytes, in the order asked for; `None` for one that is not stored, or damaged. The
    /// others are safe for an hour. Some ten microseconds each.
    pub(crate) async fn sizes(&self, digests: Vec<Digest>) -> Result<Vec<Option<u64>>, BlobError> {
        Ok(self.look(digests).await?.into_iter().collect::<Result<_, _>>()?)
    }

    /// As [`Self::sizes`]; what is wrong with one blob says nothing about the others.
    async fn look(&self, digests: Vec<Digest>) -> Result<Vec<io::Result<Option<u64>>>, BlobError> {
        let now = SystemTime::now();
        self.blocking(move |shared| {
            let _names = shared.names.read().unwrap_or_else(PoisonError::into_inner);
            Ok(digests.iter().map(|digest| shared.use_blob(*digest, now)).collect())
        })
        .await
    }

    /// The blob's size in bytes, though it may be damaged; `None` when it is not stored.
    pub(crate) async fn size_bytes(&self, digest: Digest) -> Result<Option<u64>, BlobError> {
        self.blocking(move |shared| Ok(shared.folder.find(digest)?.map(|entry| entry.size_bytes)))
            .await
    }

    /// Those of the blobs that are not stored in the size (in bytes) that was promised, and what is wrong with
    /// each. The others are safe for an hour.
    pub(crate) async fn broken(
        &self,
        promised: HashSet<(Digest, u64)>,
    ) -> Result<HashMap<(Digest, u64), Broken>, BlobError> {
        let found = self.look(promised.iter().map(|(digest, _)| *digest).collect()).await?;
        let mut broken = HashMap::new();
        for ((digest, promised_bytes), stored) in promised.into_iter().zip(found) {
            let what = match stored {
                Ok(Some(stored_bytes)) if stored_bytes == promised_bytes => continue,
                Ok(Some(stored_bytes)) => match self.is_sound(digest).await {
                    Ok(true) => Broken::Size { stored_bytes, promised_bytes },
                    Ok(false) => Broken::Damaged,
                    Err(error) => Broken::Unreadable(error.to_string()),
                },
                Ok(None) => Broken::Missing,
                Err(error) => Broken::Unreadable(BlobError::from(error).to_string()),
            };
            broken.insert((digest, promised_bytes), what);
        }
        Ok(broken)
    }

    /// Reads a blob whole: whether its bytes are those that it is named after. One whose are not counts as
    /// missing from now on.
    pub(crate) async fn is_sound(&self, digest: Digest) -> Result<bool, BlobError> {
        self.blocking(move |shared| Ok(shared.is_sound(digest)?)).await
    }

    /// Reads the bytes of `range`, which lies within the blob's size.
    pub(crate) async fn read_range(
        &self,
        digest: Digest,
        range: Range<u64>,
    ) -> Result<Bytes, BlobError> {
        let len_bytes = range.end - range.start;
        let read = self.blocking(move |shared| match shared.folder.read(digest, range) {
            Ok(bytes) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(BlobError::Missing(digest))
            }
            Err(error) => Err(error.into()),
        });
        let bytes = read.await?;
        if (bytes.len() as u64) < len_bytes {
            return Err(self.damaged(digest));
        }
        Ok(bytes.into())
    }

    /// Takes note that a blob's stored bytes do not match its digest: until it is stored again it counts as
    /// missing, so that the next upload heals it.
    pub(crate) fn damaged(&self, digest: Digest) -> BlobError {
        self.shared.damaged(digest);
        BlobError::Damaged(digest)
    }

    /// Begins an upload.
    pub(crate) fn receive(&self) -> Incoming {
        Incoming::new(self.shared.clone(), self.durable.clone())
    }

    /// The blobs that `wanted` picks.
    pub(crate) async fn list(
        &self,
        wanted: impl Fn(Digest) -> bool + Send + 'static,
    ) -> Result<Vec<Entry>, BlobError> {
        let listed = self.blocking(move |shared| {
            let mut listed = Vec::new();
            shared.folder.for_each(|blob| {
                if wanted(blob.digest) {
                    listed.push(blob);
                }
            })?;
            Ok(listed)
        });
        listed.await
    }

    /// Removes blobs, except those that were used since they were listed. Returns the size of each that was removed,
    /// in bytes.
    pub(crate) async fn remove_unused(&self, blobs: Vec<Entry>) -> Result<Vec<u64>, BlobError> {
        self.blocking(move |shared| Ok(shared.remove_unused(&blobs)?)).await
    }

    /// Works on the disk away from the async threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, BlobError> + Send + 'static,
    ) -> Result<T, BlobError> {
        let shared = self.shared.clone();
        let worked = tokio::task::spawn_blocking(move || work(&shared)).await;
        worked.unwrap_or_else(|panic| Err(io::Error::other(panic).into()))
    }
}

impl fmt::Debug for Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blobs({:?})", self.shared.folder)
    }
}

/// What is wrong with a blob that somebody promised.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    #[error("is not in the blob store")]
    Missing,
    #[error("is damaged in the blob store")]
    Damaged,
    #[error(
        "has {stored_bytes} bytes in the blob store, not the {promised_bytes} that were promised"
    )]
    Size { stored_bytes: u64, promised_bytes: u64 },
    #[error("cannot be looked at: {0}")]
    Unreadable(String),
}

impl Shared {
    /// Refuses what would leave less free than has to be.
    fn check_room(&self, size_bytes: u64) -> Result<(), BlobError> {
        let Some(room) = self.folder.room()? else { return Ok(()) };
        if room.free_bytes < size_bytes.saturating_add(self.reserve_bytes) {
            let (free_bytes, reserve_bytes) = (room.free_bytes, self.reserve_bytes);
            return Err(BlobError::Low { free_bytes, reserve_bytes });
        }
        Ok(())
    }

    fn remove_unused(&self, blobs: &[Entry]) -> io::Result<Vec<u64>> {
        let mut removed = Vec::new();
        for some in blobs.chunks(REMOVED_AT_ONCE) {
            let _names = self.names.write().unwrap_or_else(PoisonError::into_inner);
            for blob in some {
                let is_unused = |now: Entry| now.used_at == blob.used_at;
                if self.folder.find(blob.digest)?.is_some_and(is_unused) {
                    self.folder.remove(blob.digest)?;
                    self.with_memory(|memory| memory.absent(blob.digest));
                    removed.push(blob.size_bytes);
                }
            }
        }
        Ok(removed)
    }

    fn is_sound(&self, digest: Digest) -> io::Result<bool> {
        let is_sound = self.folder.hash(digest)? == digest;
        if !is_sound {
            self.damaged(digest);
        }
        Ok(is_sound)
    }

    fn damaged(&self, digest: Digest) {
        tracing::error!(%digest, "stored bytes do not match their digest; check the disk");
        self.with_memory(|memory| memory.doubt(digest));
    }

    fn with_memory<T>(&self, f: impl FnOnce(&mut Memory) -> T) -> T {
        f(&mut self.memory.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The size of a sound blob, in bytes, with a note that it is in use. Whoever calls holds the lock on names.
    fn use_blob(&self, digest: Digest, now: SystemTime) -> io::Result<Option<u64>> {
        if self.with_memory(|memory| memory.doubted.contains(&digest)) {
            return Ok(None);
        }
        let Some(entry) = self.folder.find(digest)? else {
            self.with_memory(|memory| memory.absent(digest));
            return Ok(None);
        };
        let mut noted_at = entry.used_at;
        // A note from the future is as good as none: the clock was set back.
        if !now.duration_since(noted_at).is_ok_and(|age| age < NOTE_AGE) {
            self.folder.touch(digest, now)?;
            noted_at = now;
        }
        self.with_memory(|memory| memory.present(digest, noted_at));
        Ok(Some(entry.size_bytes))
    }

    /// Makes what was received durable, then gives it its names.
    fn store(&self, blobs: &mut [Staged]) -> io::Result<()> {
        self.folder.sync(blobs)?;
        let _names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        let named = self.folder.name(blobs);
        let now = SystemTime::now();
        self.with_memory(|memory| {
            for blob in blobs.iter().filter(|blob| blob.is_kept) {
                match named {
                    Ok(()) => memory.stored(blob.digest, now),
                    // It is there, but its name may not last. It is not removed: the name may have been that of
                    // the same blob before, which somebody was told of.
                    Err(_) => memory.doubt(blob.digest),
                }
            }
        });
        named
    }

    /// Whether an upload of a blob can be ignored. While names change it is not: storing a blob twice does no
    /// harm.
    fn is_there(&self, digest: Digest, size_bytes: u64) -> Result<bool, BlobError> {
        let Ok(_names) = self.names.try_read() else { return Ok(false) };
        match self.use_blob(digest, SystemTime::now())? {
            // Whoever comes with the whole of a blob that was cut short is welcome.
            Some(stored_bytes) if stored_bytes != size_bytes => match self.is_sound(digest)? {
                true => Err(BlobError::WrongSize { stored_bytes, declared_bytes: size_bytes }),
                false => Ok(false),
            },
            found => Ok(found.is_some()),
        }
    }
}

/// What is known about blobs without asking the disk. Two generations stand in for an exact least-recently-used
/// order: a digest that is asked for again moves to the newer, and the older is dropped when the newer is full.
#[derive(Debug, Default)]
struct Memory {
    /// When the disk was last told that the blob is in use.
    newer: HashMap<Digest, SystemTime>,
    older: HashMap<Digest, SystemTime>,
    /// There, but damaged, or under a name that may not be durable: until they are stored again they count as
    /// missing.
    doubted: HashSet<Digest>,
}

impl Memory {
    /// Whether the blob is there; `None`: ask the disk.
    fn recall(&mut self, digest: Digest, now: SystemTime) -> Option<bool> {
        if self.doubted.contains(&digest) {
            return Some(false);
        }
        let known = self.newer.get(&digest).copied();
        let noted_at = known.or_else(|| {
            let noted_at = self.older.get(&digest).copied()?;
            self.present(digest, noted_at);
            Some(noted_at)
        })?;
        now.duration_since(noted_at).is_ok_and(|age| age < NOTE_AGE).then_some(true)
    }

    fn present(&mut self, digest: Digest, noted_at: SystemTime) {
        if self.newer.len() >= KNOWN_PER_GENERATION {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(digest, noted_at);
    }

    fn absent(&mut self, digest: Digest) {
        self.newer.remove(&digest);
        self.older.remove(&digest);
    }

    fn doubt(&mut self, digest: Digest) {
        if self.doubted.len() < DOUBTED_MAX {
            self.doubted.insert(digest);
        }
    }

    fn stored(&mut self, digest: Digest, now: SystemTime) {
        self.doubted.remove(&digest);
        self.present(digest, now);
    }
}

#[cfg(test)]
pub(crate) mod tests;
