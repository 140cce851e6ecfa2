//! The handle that services and the driver use: the catalog, away from the async threads.

use std::{
    collections::{HashMap, HashSet},
    fmt, io,
    ops::Range,
    path::Path,
    sync::{Arc, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use framecrew_blobs::Digest;

use super::{
    backend::{Backend, Entry},
    catalog::Catalog,
    error::{BlobError, Broken, OpenError},
    folder::Folder,
    incoming::{self, Durable, Incoming},
    known::Known,
};

/// The blobs of an orchestrator. Cheap to clone; clones share what they know.
#[derive(Clone)]
pub(crate) struct Blobs {
    pub(super) catalog: Arc<Catalog>,
    durable: Durable,
}

impl Blobs {
    /// Opens a directory, created if need be, and removes what a crash left of uploads. Reads the names of all blobs:
    /// about a second for a million. Uploads leave `reserve_bytes` of the disk free; by default a gigabyte, or a
    /// twentieth of a small disk.
    pub(crate) fn open(dir: &Path, reserve_bytes: Option<u64>) -> Result<Self, OpenError> {
        let open = || Self::on(Arc::new(Folder::open(dir)?), reserve_bytes);
        open().map_err(|error| OpenError { dir: dir.into(), error })
    }

    /// Keeps blobs in a backend.
    pub(crate) fn on(backend: Arc<dyn Backend>, reserve_bytes: Option<u64>) -> io::Result<Self> {
        let catalog = Arc::new(Catalog::new(backend, reserve_bytes)?);
        let (durable, groups) = incoming::durable();
        groups.run(catalog.clone())?;
        Ok(Self { catalog, durable })
    }

    /// Whether the blob is stored and, as far as is known, sound; then it is safe for an hour. Costs nothing for one
    /// that was asked for within the last minutes.
    pub(crate) async fn contains(&self, digest: Digest) -> Result<bool, BlobError> {
        let now = SystemTime::now();
        match self.catalog.with_known(|known| known.recall(digest, now)) {
            Some(present) => Ok(present),
            None => Ok(self.sizes(vec![digest]).await?.iter().any(Option::is_some)),
        }
    }

    /// Which of the blobs are not stored, or damaged, in the order asked for. The others are safe for an hour.
    pub(crate) async fn missing(&self, digests: Vec<Digest>) -> Result<Vec<Digest>, BlobError> {
        let now = SystemTime::now();
        let mut unknown = digests;
        self.catalog.with_known(|known| {
            unknown.retain(|digest| known.recall(*digest, now) != Some(true));
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

    /// As [`Self::sizes`], but an error of one blob does not hide the others.
    async fn look(&self, digests: Vec<Digest>) -> Result<Vec<io::Result<Option<u64>>>, BlobError> {
        let now = SystemTime::now();
        self.blocking(move |catalog| {
            let _names = catalog.names.read().unwrap_or_else(PoisonError::into_inner);
            Ok(digests.iter().map(|digest| catalog.use_blob(*digest, now)).collect())
        })
        .await
    }

    /// The blob's size in bytes, though it may be damaged; `None` when it is not stored.
    pub(crate) async fn size_bytes(&self, digest: Digest) -> Result<Option<u64>, BlobError> {
        self.blocking(move |catalog| Ok(catalog.backend.find(digest)?)).await
    }

    /// The blobs that are not stored in the promised size (in bytes), and what is wrong with each. The others are safe
    /// for an hour.
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

    /// Whether a blob's bytes hash to its digest; reads all of them. If they do not, it counts as missing from now on.
    pub(crate) async fn is_sound(&self, digest: Digest) -> Result<bool, BlobError> {
        self.blocking(move |catalog| Ok(catalog.is_sound(digest)?)).await
    }

    /// Reads the bytes of `range`, which lies within the blob's size.
    pub(crate) async fn read_range(
        &self,
        digest: Digest,
        range: Range<u64>,
    ) -> Result<Bytes, BlobError> {
        let len_bytes = range.end - range.start;
        let read = self.blocking(move |catalog| match catalog.backend.read(digest, range) {
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

    /// Notes that a blob's stored bytes do not match its digest: until it is stored again it counts as missing, so that
    /// the next upload heals it.
    pub(crate) fn damaged(&self, digest: Digest) -> BlobError {
        self.catalog.damaged(digest);
        BlobError::Damaged(digest)
    }

    /// Begins an upload.
    pub(crate) fn receive(&self) -> Incoming {
        Incoming::new(self.catalog.clone(), self.durable.clone())
    }

    /// The blobs that `wanted` picks.
    pub(crate) async fn list(
        &self,
        wanted: impl Fn(Digest) -> bool + Send + 'static,
    ) -> Result<Vec<Entry>, BlobError> {
        let listed = self.blocking(move |catalog| {
            let mut listed = Vec::new();
            catalog.backend.list(&mut |blob| {
                if wanted(blob.digest) {
                    listed.push(blob);
                }
            })?;
            Ok(listed)
        });
        listed.await
    }

    /// Takes the uses of blobs that are not saved yet, each with its time.
    pub(crate) fn take_unsaved_uses(&self) -> Vec<(Digest, SystemTime)> {
        self.catalog.with_known(Known::take_unsaved)
    }

    /// Puts back uses that could not be saved.
    pub(crate) fn put_back_uses(&self, uses: Vec<(Digest, SystemTime)>) {
        self.catalog.with_known(|known| known.put_back(uses));
    }

    /// Removes blobs, except those that were used since the uses were taken last. Removes nothing when memory had to
    /// drop a use within `keep`. Returns what was removed.
    pub(crate) async fn remove_unused(
        &self,
        blobs: Vec<Entry>,
        keep: Duration,
    ) -> Result<Vec<Entry>, BlobError> {
        self.blocking(move |catalog| Ok(catalog.remove_unused(&blobs, keep)?)).await
    }

    /// Whether memory had to drop a use within `time`.
    pub(crate) fn has_dropped_uses(&self, time: Duration) -> bool {
        self.catalog.with_known(|known| known.dropped_within(time, SystemTime::now()))
    }

    /// Works on the disk away from the async threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Catalog) -> Result<T, BlobError> + Send + 'static,
    ) -> Result<T, BlobError> {
        let catalog = self.catalog.clone();
        let worked = tokio::task::spawn_blocking(move || work(&catalog)).await;
        worked.unwrap_or_else(|panic| Err(io::Error::other(panic).into()))
    }
}

impl fmt::Debug for Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blobs({:?})", self.catalog.backend)
    }
}
