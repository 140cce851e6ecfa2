//! Removes blobs that no job needs: the old ones, and the oldest when they take too much room.

use std::{
    collections::HashSet,
    io,
    sync::{Arc, PoisonError},
    time::{Duration, SystemTime},
};

use framecrew_blobs::Digest;
use tokio::time::{MissedTickBehavior, interval};

use super::{BlobError, Blobs, Shared, folder::Entry};
use crate::store::{Store, StoreError};

/// No blob is removed that was stored or asked for more lately: whoever uploads a project, or reports a frame,
/// has this long to name it in a job.
pub(crate) const UNUSED_MIN: Duration = Duration::from_secs(60 * 60);

/// How often unused blobs are looked for.
const PERIOD: Duration = Duration::from_secs(60 * 60);

/// Blobs removed at a time; meanwhile nobody is told whether a blob is there.
const REMOVED_AT_ONCE: usize = 64;

/// What of the blobs that no job needs is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// They go when they were not stored or asked for during this time.
    pub(crate) age: Duration,
    /// The oldest go when all of them take more than this, in bytes.
    pub(crate) bytes: u64,
}

/// The blobs that jobs need. Eight bytes stand for each: two blobs that share them only keep each other.
#[derive(Debug, Default)]
pub(crate) struct Pins(HashSet<u64>);

impl Pins {
    pub(crate) fn pin(&mut self, digest: Digest) {
        self.0.insert(short(digest));
    }

    fn has(&self, digest: Digest) -> bool {
        self.0.contains(&short(digest))
    }
}

fn short(digest: Digest) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *digest.as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// What was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Collected {
    pub(crate) blobs: u64,
    pub(crate) bytes: u64,
}

#[derive(Debug, thiserror::Error)]
enum CollectError {
    #[error("the jobs' blobs cannot be listed: {0}")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Blobs(#[from] BlobError),
}

/// Removes what is not needed, now and every hour, except while `holds`: frames whose commit waits for the disk
/// name their outputs later than [`UNUSED_MIN`] after they were stored.
pub(crate) async fn run(
    blobs: Blobs,
    store: Arc<dyn Store>,
    limits: Limits,
    holds: impl Fn() -> bool,
) {
    let mut hours = interval(PERIOD);
    hours.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        hours.tick().await;
        if holds() {
            tracing::warn!("the store took no writes lately; unused blobs are kept for now");
            continue;
        }
        match collect(&blobs, &*store, limits).await {
            Ok(Collected { blobs: 0, .. }) => {}
            Ok(Collected { blobs, bytes }) => {
                tracing::info!(blobs, bytes, "removed blobs that no job needs");
            }
            Err(error) => tracing::error!(%error, "unused blobs are kept; check the disk"),
        }
    }
}

async fn collect(
    blobs: &Blobs,
    store: &dyn Store,
    limits: Limits,
) -> Result<Collected, CollectError> {
    let mut pins = Pins::default();
    store.pins(&mut |digest| pins.pin(digest)).await?;
    Ok(blobs.collect(pins, limits, SystemTime::now()).await?)
}

impl Blobs {
    /// Removes blobs that are not among `pins`, by `limits`. A job that is accepted after the pins were read
    /// loses nothing: its blobs were asked for then.
    pub(crate) async fn collect(
        &self,
        pins: Pins,
        limits: Limits,
        now: SystemTime,
    ) -> Result<Collected, BlobError> {
        self.blocking(move |shared| Ok(shared.collect(&pins, limits, now)?)).await
    }
}

impl Shared {
    fn collect(&self, pins: &Pins, limits: Limits, now: SystemTime) -> io::Result<Collected> {
        let mut unused = Vec::new();
        self.folder.for_each(|blob| {
            if !pins.has(blob.digest) {
                unused.push(blob);
            }
        })?;
        unused.sort_unstable_by_key(|blob| blob.used_at);
        let mut left_bytes: u64 = unused.iter().map(|blob| blob.size_bytes).sum();
        let goes = |blob: &&Entry| {
            // A blob from the future is new: the clock was set back.
            let age = now.duration_since(blob.used_at).unwrap_or_default();
            let goes = age >= UNUSED_MIN && (age >= limits.age || left_bytes > limits.bytes);
            if goes {
                left_bytes -= blob.size_bytes;
            }
            goes
        };
        let going = unused.iter().take_while(goes).count();
        let mut collected = Collected::default();
        for some in unused[..going].chunks(REMOVED_AT_ONCE) {
            let _names = self.names.write().unwrap_or_else(PoisonError::into_inner);
            for blob in some {
                if self.remove_unused(blob)? {
                    collected.blobs += 1;
                    collected.bytes += blob.size_bytes;
                }
            }
        }
        Ok(collected)
    }

    /// Removes a blob unless it was asked for since it was looked at.
    fn remove_unused(&self, blob: &Entry) -> io::Result<bool> {
        let is_as_it_was = |now: Entry| now.used_at == blob.used_at;
        if !self.folder.find(blob.digest)?.is_some_and(is_as_it_was) {
            return Ok(false);
        }
        self.folder.remove(blob.digest)?;
        self.with_memory(|memory| memory.absent(blob.digest));
        Ok(true)
    }
}
