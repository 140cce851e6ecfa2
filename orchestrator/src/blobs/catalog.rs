//! The blobs of a backend, and the facts that are known about them. Blocks.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use framecrew_blobs::Digest;

use super::{
    backend::{Backend, Entry, StagedId},
    error::BlobError,
    known::Known,
    staged::Staged,
};

/// Space that uploads leave free on the disk, for the database and for frames that are being written.
const RESERVE_BYTES: u64 = 1 << 30;

/// But no more than this part of a small disk.
const RESERVE_SHARE: u64 = 20;

/// Bytes of a blob that are read at once to hash it.
const HASHED_AT_ONCE: u64 = 4 << 20;

/// Blobs, their uploads, and the facts that are known about them.
#[derive(Debug)]
pub(super) struct Catalog {
    pub(super) backend: Arc<dyn Backend>,
    reserve_bytes: u64,
    /// Names are not looked at while they change: one that is seen is durable, and stays until its hour is over.
    pub(super) names: RwLock<()>,
    known: Mutex<Known>,
    staged: AtomicU64,
}

impl Catalog {
    /// Over a backend. Uploads leave `reserve_bytes` free.
    pub(super) fn new(backend: Arc<dyn Backend>, reserve_bytes: Option<u64>) -> io::Result<Self> {
        let share = backend.room()?.map_or(0, |room| room.total_bytes / RESERVE_SHARE);
        Ok(Self {
            backend,
            reserve_bytes: reserve_bytes.unwrap_or(RESERVE_BYTES.min(share)),
            names: RwLock::default(),
            known: Mutex::default(),
            staged: AtomicU64::new(0),
        })
    }

    /// Refuses an upload that would leave too little free.
    pub(super) fn check_room(&self, size_bytes: u64) -> Result<(), BlobError> {
        let Some(room) = self.backend.room()? else { return Ok(()) };
        if room.free_bytes < size_bytes.saturating_add(self.reserve_bytes) {
            let (free_bytes, reserve_bytes) = (room.free_bytes, self.reserve_bytes);
            return Err(BlobError::Low { free_bytes, reserve_bytes });
        }
        Ok(())
    }

    /// Begins an upload.
    pub(super) fn stage(&self, digest: Digest) -> io::Result<Staged> {
        let number = self.staged.fetch_add(1, Ordering::Relaxed);
        Staged::new(self.backend.clone(), StagedId { digest, number })
    }

    /// Makes uploads durable, then gives them their names.
    pub(super) fn store(&self, blobs: &mut [Staged]) -> io::Result<()> {
        let group: Vec<StagedId> = blobs.iter().map(|blob| blob.id).collect();
        self.backend.sync(&group)?;
        let _names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        let published = self.backend.publish(&group);
        let now = SystemTime::now();
        self.with_known(|known| {
            for blob in blobs {
                match published {
                    Ok(()) => {
                        blob.is_published = true;
                        known.stored(blob.digest(), now);
                    }
                    // It may be there under a name that does not last. That is not removed: the same blob may have
                    // been there before, and a client may rely on it.
                    Err(_) => known.doubt(blob.digest()),
                }
            }
        });
        published
    }

    /// The size of a sound blob, in bytes, and a note that it is in use. The caller holds the lock on names.
    pub(super) fn use_blob(&self, digest: Digest, now: SystemTime) -> io::Result<Option<u64>> {
        if self.with_known(|known| known.is_doubted(digest)) {
            return Ok(None);
        }
        let found = self.backend.find(digest)?;
        self.with_known(|known| match found {
            Some(_) => known.note_use(digest, now),
            None => known.absent(digest),
        });
        Ok(found)
    }

    /// Whether an upload of a blob can be ignored. While names change it is not: storing a blob twice does no harm.
    pub(super) fn is_there(&self, digest: Digest, size_bytes: u64) -> Result<bool, BlobError> {
        let Ok(_names) = self.names.try_read() else { return Ok(false) };
        match self.use_blob(digest, SystemTime::now())? {
            // An upload replaces a blob that the disk has cut short.
            Some(stored_bytes) if stored_bytes != size_bytes => match self.is_sound(digest)? {
                true => Err(BlobError::WrongSize { stored_bytes, declared_bytes: size_bytes }),
                false => Ok(false),
            },
            found => Ok(found.is_some()),
        }
    }

    /// Whether a blob's bytes hash to its digest. If they do not, it counts as missing from now on.
    pub(super) fn is_sound(&self, digest: Digest) -> io::Result<bool> {
        let is_sound = self.hash(digest)? == digest;
        if !is_sound {
            self.damaged(digest);
        }
        Ok(is_sound)
    }

    fn hash(&self, digest: Digest) -> io::Result<Digest> {
        let mut hasher = blake3::Hasher::new();
        let mut from = 0;
        loop {
            let bytes = self.backend.read(digest, from..from + HASHED_AT_ONCE)?;
            hasher.update(&bytes);
            from += bytes.len() as u64;
            if (bytes.len() as u64) < HASHED_AT_ONCE {
                return Ok(Digest::from(hasher.finalize()));
            }
        }
    }

    /// Notes that a blob's stored bytes do not match its digest.
    pub(super) fn damaged(&self, digest: Digest) {
        tracing::error!(%digest, "stored bytes do not match their digest; check the disk");
        self.with_known(|known| known.doubt(digest));
    }

    /// Removes a few blobs, except those that were used since the uses were taken last. Removes nothing while a use that was
    /// dropped may be younger than `keep`. Returns what was removed.
    pub(super) fn remove_unused(&self, blobs: &[Entry], keep: Duration) -> io::Result<Vec<Entry>> {
        let mut removed = Vec::new();
        let _names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        if self.with_known(|known| known.dropped_within(keep, SystemTime::now())) {
            return Ok(removed);
        }
        for blob in blobs {
            if self.with_known(|known| known.is_unsaved(blob.digest)) {
                continue;
            }
            match self.backend.remove(blob.digest) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    // One that cannot be removed must not keep all the others.
                    tracing::warn!(digest = %blob.digest, %error, "cannot remove an unused blob");
                    continue;
                }
            }
            self.with_known(|known| known.absent(blob.digest));
            removed.push(*blob);
        }
        Ok(removed)
    }

    pub(super) fn with_known<T>(&self, f: impl FnOnce(&mut Known) -> T) -> T {
        f(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
