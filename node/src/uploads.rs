//! Uploads of finished frames, in their order, for as long as the store may come back.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use framecrew_blobs::{BlobClient, Digest, Source, TransferError};
use tokio::time::{self, Instant};
use tonic::Code;
use tracing::{info, warn};

use crate::{backoff::jittered, output::Blob};

/// Pause after the first failed upload; it doubles up to `UPLOAD_PAUSE_MAX`.
const UPLOAD_PAUSE: Duration = Duration::from_millis(200);
const UPLOAD_PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long a store may have trouble of its own with a frame before the batch goes on without it: it may have that for
/// ever. The frame is handed in when the store is mended, unless it was drawn again by then.
const BROKEN_FOR: Duration = Duration::from_secs(60);

/// How long an upload is remembered: nothing removes a blob from the store so soon after it was put there.
const STORED_FOR: Duration = Duration::from_secs(60);

/// Uploads that are remembered, about 100 bytes each.
const STORED_MAX: usize = 4_096;

/// The way into the blob store.
#[derive(Debug)]
pub(crate) struct Uploads {
    client: BlobClient,
    /// What the store is known to have, and since when.
    stored: Mutex<HashMap<Digest, Instant>>,
    /// Whether the last upload failed: an outage is logged once.
    is_away: AtomicBool,
}

impl Uploads {
    pub(crate) fn new(client: BlobClient) -> Self {
        Self { client, stored: Mutex::default(), is_away: AtomicBool::new(false) }
    }

    /// Forgets what the store is known to have: it may be another one now.
    pub(crate) fn forget(&self) {
        self.stored().clear();
    }

    /// Stores blobs, in one go; nothing is sent of those that were stored a moment ago. One try.
    pub(crate) async fn store(&self, blobs: &[Blob]) -> Result<(), TransferError> {
        let begun = Instant::now();
        let missing: Vec<_> =
            blobs.iter().filter(|blob| !self.is_stored(blob.digest, begun)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let sent = self.client.upload_all(missing.iter().map(|blob| blob.source())).await;
        match &sent {
            Err(error) if is_the_stores(error) => {
                if !self.is_away.swap(true, Ordering::Relaxed) {
                    warn!(%error, "finished frames cannot be stored; keeping them, still retrying");
                }
            }
            Err(_) => {}
            Ok(()) => {
                if self.is_away.swap(false, Ordering::Relaxed) {
                    info!("finished frames can be stored again");
                }
                let mut stored = self.stored();
                if stored.len() + missing.len() > STORED_MAX {
                    stored.clear();
                }
                stored.extend(missing.iter().map(|blob| (blob.digest, begun)));
            }
        }
        sent
    }

    /// Stores blobs, and retries for as long as that can help. The caller ends it when its batch has to end.
    pub(crate) async fn store_at_last(&self, blobs: &[Blob]) -> Result<(), TransferError> {
        let mut pause = UPLOAD_PAUSE;
        let mut broken = None;
        loop {
            match self.store(blobs).await {
                // Others may fare better, and wait for these.
                Err(error)
                    if is_broken(&error)
                        && broken.get_or_insert_with(Instant::now).elapsed() >= BROKEN_FOR =>
                {
                    return Err(error);
                }
                Err(error) if is_the_stores(&error) => {}
                done => return done,
            }
            time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(UPLOAD_PAUSE_MAX);
        }
    }

    /// Stores kept files that the store says it lacks: each with its content's digest and size in bytes.
    pub(crate) async fn store_files(
        &self,
        files: Vec<(PathBuf, Digest, u64)>,
    ) -> Result<(), TransferError> {
        let digests: Vec<_> = files.iter().map(|(_, digest, _)| *digest).collect();
        let missing: HashSet<_> = self.client.find_missing(&digests).await?.into_iter().collect();
        let files = files.into_iter().filter(|(_, digest, _)| missing.contains(digest));
        let files =
            files.map(|(path, digest, size_bytes)| Source::File { path, digest, size_bytes });
        let files: Vec<_> = files.collect();
        self.client.upload_all(files).await
    }

    fn is_stored(&self, digest: Digest, now: Instant) -> bool {
        let since = self.stored().get(&digest).copied();
        since.is_some_and(|since| now - since < STORED_FOR)
    }

    fn stored(&self) -> MutexGuard<'_, HashMap<Digest, Instant>> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether waiting helps: the store is away, busy, or in trouble of its own, of which it says no more than that its log
/// tells it. Whoever runs it can mend that, and the frame is worth more than the time.
pub(crate) fn is_the_stores(error: &TransferError) -> bool {
    error.is_transient() || is_broken(error)
}

/// Whether the store is in trouble of its own, perhaps with these blobs alone.
pub(crate) fn is_broken(error: &TransferError) -> bool {
    error.status().is_some_and(|status| status.code() == Code::Internal)
}
