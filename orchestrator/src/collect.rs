//! Removes blobs that no job needs: old ones, and the oldest when they take too much space.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use framecrew_blobs::Digest;
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    blobs::{BlobError, Blobs, Entry},
    store::{Archive, StoreError},
};

/// A blob that was stored or asked for within this time is not removed: a client that uploads a project, or a node
/// that reports a frame, has this long to name it in a job.
pub(crate) const UNUSED_MIN: Duration = Duration::from_secs(60 * 60);

/// How often unused blobs are looked for.
const PERIOD: Duration = Duration::from_secs(60 * 60);

/// Which of the blobs that no job needs are kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// They are removed when they were not stored or asked for during this time.
    pub(crate) age: Duration,
    /// The oldest are removed when all of them take more bytes than this.
    pub(crate) bytes: u64,
}

/// The blobs that jobs need. Eight bytes stand for each digest: two blobs that share them only keep each other.
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

/// Removes unneeded blobs now and every hour, except while `holds`: a frame whose commit waits for a full disk may name
/// its outputs later than [`UNUSED_MIN`] after they were stored.
pub(crate) async fn run(
    blobs: Blobs,
    store: Arc<dyn Archive>,
    limits: Limits,
    holds: impl Fn() -> bool,
) {
    let mut hours = interval(PERIOD);
    hours.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        hours.tick().await;
        if holds() {
            tracing::warn!("the store failed within the last hour; unused blobs are kept for now");
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
    store: &dyn Archive,
    limits: Limits,
) -> Result<Collected, CollectError> {
    let mut pins = Pins::default();
    store.pins(&mut |digest| pins.pin(digest)).await?;
    Ok(remove(blobs, pins, limits, SystemTime::now()).await?)
}

/// Removes blobs that are not among `pins`, by `limits`. A job that is accepted after the pins were read loses
/// nothing: its blobs were asked for then.
async fn remove(
    blobs: &Blobs,
    pins: Pins,
    limits: Limits,
    now: SystemTime,
) -> Result<Collected, BlobError> {
    let mut unused = blobs.list(move |digest| !pins.has(digest)).await?;
    unused.sort_unstable_by_key(|blob| blob.used_at);
    unused.truncate(expired(&unused, limits, now));
    let mut collected = Collected::default();
    for bytes in blobs.remove_unused(unused).await? {
        collected.blobs += 1;
        collected.bytes += bytes;
    }
    Ok(collected)
}

/// How many of the blobs, oldest use first, are removed.
fn expired(unused: &[Entry], limits: Limits, now: SystemTime) -> usize {
    let mut left_bytes: u64 = unused.iter().map(|blob| blob.size_bytes).sum();
    let is_expired = |blob: &&Entry| {
        // A use in the future counts as now: the clock was set back.
        let age = now.duration_since(blob.used_at).unwrap_or_default();
        let goes = age >= UNUSED_MIN && (age >= limits.age || left_bytes > limits.bytes);
        if goes {
            left_bytes -= blob.size_bytes;
        }
        goes
    };
    unused.iter().take_while(is_expired).count()
}

#[cfg(test)]
mod tests;
