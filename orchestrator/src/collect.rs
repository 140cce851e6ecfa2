//! Removes blobs that no job needs: old ones, and the oldest when they take too much space.
//!
//! Age counts from the last use. Blobs notes uses in memory, and this task saves them to the ledger every few seconds.
//! A crash loses the latest of them; therefore nothing is removed within an hour after one. For so long a
//! client may rely on the answer that a blob is there.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use framecrew_blobs::Digest;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};
use tokio_util::sync::CancellationToken;

use crate::{
    blobs::{BlobError, Blobs, Entry},
    store::{Archive, Ledger, StoreError},
};

/// A blob that was stored or asked for within this time is not removed: a client that uploads a project, or a node
/// that reports a frame, has this long to name it in a job.
pub(crate) const UNUSED_MIN: Duration = Duration::from_secs(60 * 60);

/// How often unused blobs are looked for.
const PERIOD: Duration = Duration::from_secs(60 * 60);

/// How often uses of blobs are saved: one small write while blobs are in use, none otherwise.
const SAVE_PERIOD: Duration = Duration::from_secs(10);

/// Uses of blobs that are gone which one round drops; the next round drops the rest. 2 MiB of digests.
const GONE_MAX: usize = 64 * 1024;

/// Which of the blobs that no job needs are kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// They are removed when they were not stored or asked for during this time.
    pub(crate) age: Duration,
    /// The oldest are removed when all of them take more bytes than this.
    pub(crate) bytes: u64,
}

/// Blobs that are removed before the epoch is checked again, and between which the collector can be stopped.
const REMOVED_AT_ONCE: usize = 64;

/// The blobs that jobs need. Eight bytes stand for each digest: two blobs that share them only keep each other.
#[derive(Debug, Default)]
struct Pins(HashSet<u64>);

impl Pins {
    fn pin(&mut self, digest: Digest) {
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

/// The result of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Collected {
    blobs: u64,
    bytes: u64,
}

#[derive(Debug, thiserror::Error)]
enum CollectError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Blobs(#[from] BlobError),
}

/// Saves uses of blobs, and removes blobs.
#[derive(Debug)]
pub(crate) struct Collector {
    blobs: Blobs,
    ledger: Arc<dyn Ledger>,
    /// Long reads go here, because the driver waits for those of the ledger.
    archive: Arc<dyn Archive>,
    limits: Limits,
    /// Whether the orchestrator before this one saved every use.
    are_complete: bool,
}

/// A blob that no job needs.
#[derive(Debug, Clone, Copy)]
struct Unused {
    blob: Entry,
    used_at: SystemTime,
}

impl Collector {
    /// Takes over the uses of blobs. Must happen before anyone learns that a blob is there.
    pub(crate) async fn open(
        blobs: Blobs,
        ledger: Arc<dyn Ledger>,
        archive: Arc<dyn Archive>,
        limits: Limits,
    ) -> Result<Self, StoreError> {
        let are_complete = ledger.mark_blob_uses(false).await?;
        Ok(Self { blobs, ledger, archive, limits, are_complete })
    }

    /// Saves uses until `stop`, and removes unneeded blobs every hour, except while `holds`: a frame whose commit waits
    /// for a full disk may name its outputs later than [`UNUSED_MIN`] after they were stored. Begins at once, or an
    /// hour after a crash.
    pub(crate) async fn run(self, holds: impl Fn() -> bool, stop: CancellationToken) {
        let mut saves = interval(SAVE_PERIOD);
        saves.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let begun = Instant::now();
        let first = if self.are_complete { Duration::ZERO } else { UNUSED_MIN };
        let mut rounds = interval_at(begun + first, PERIOD);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = rounds.tick() => self.round(&holds).await,
                _ = saves.tick() => {
                    if let Err(error) = self.save_uses().await {
                        tracing::warn!(%error, "cannot save when blobs were last used; will retry");
                    }
                }
            }
        }
        // A use that a crash has cost, or that memory had to drop, may still be younger than the time that it promises.
        let are_complete = (self.are_complete || begun.elapsed() >= UNUSED_MIN)
            && !self.blobs.has_dropped_uses(UNUSED_MIN);
        let saved = match self.save_uses().await {
            Ok(()) if are_complete => self.ledger.mark_blob_uses(true).await.map(drop),
            saved => saved,
        };
        if let Err(error) = saved {
            tracing::warn!(%error, "cannot save when blobs were last used; the next start keeps all for an hour");
        }
    }

    async fn round(&self, holds: &impl Fn() -> bool) {
        if holds() {
            tracing::warn!("the store failed within the last hour; unused blobs are kept for now");
            return;
        }
        match self.collect(SystemTime::now()).await {
            Ok(Collected { blobs: 0, .. }) => {}
            Ok(Collected { blobs, bytes }) => {
                tracing::info!(blobs, bytes, "removed blobs that no job needs");
            }
            Err(error) => tracing::error!(%error, "unused blobs are kept for now"),
        }
    }

    async fn save_uses(&self) -> Result<(), StoreError> {
        let uses = self.blobs.take_unsaved_uses();
        let rows: Vec<_> = uses.iter().map(|(digest, at)| (*digest, millis(*at))).collect();
        let saved = self.ledger.save_blob_uses(&rows).await;
        if saved.is_err() {
            self.blobs.put_back_uses(uses);
        }
        saved
    }

    /// Removes blobs that no job needs. A job that is accepted after the pins were read loses nothing: its blobs were
    /// asked for shortly before.
    async fn collect(&self, now: SystemTime) -> Result<Collected, CollectError> {
        // First: a use from here on is noted in memory, and keeps its blob.
        self.save_uses().await?;
        let mut pins = Pins::default();
        self.archive.pins(&mut |digest| pins.pin(digest)).await?;
        let pins = Arc::new(pins);
        let listing = pins.clone();
        let listed = self.blobs.list(move |digest| !listing.has(digest)).await?;
        let (mut unused, mut gone) = self.with_uses(listed, &pins, now).await?;
        unused.sort_unstable_by_key(|unused| unused.used_at);
        unused.truncate(expired(&unused, self.limits, now));
        let going: Vec<_> = unused.iter().map(|unused| unused.blob).collect();
        let mut removed = Vec::new();
        for some in going.chunks(REMOVED_AT_ONCE) {
            // Another orchestrator may have the store and the folder now, and have promised these blobs.
            self.ledger.check_epoch().await?;
            removed.extend(self.blobs.remove_unused(some.to_vec(), UNUSED_MIN).await?);
        }
        gone.extend(removed.iter().map(|blob| blob.digest));
        self.ledger.forget_blob_uses(&gone).await?;
        Ok(Collected {
            blobs: removed.len() as u64,
            bytes: removed.iter().map(|blob| blob.size_bytes).sum(),
        })
    }

    /// The last use of each blob; one without a saved use counts as used now. Also returns saved uses of blobs that are
    /// gone.
    async fn with_uses(
        &self,
        listed: Vec<Entry>,
        pins: &Pins,
        now: SystemTime,
    ) -> Result<(Vec<Unused>, Vec<Digest>), StoreError> {
        let mut uses: HashMap<Digest, Option<i64>> =
            listed.iter().map(|blob| (blob.digest, None)).collect();
        let mut gone = Vec::new();
        self.archive
            .blob_uses(&mut |digest, at_ms| match uses.get_mut(&digest) {
                Some(used_at) => *used_at = Some(at_ms),
                None if !pins.has(digest) && gone.len() < GONE_MAX => gone.push(digest),
                None => {}
            })
            .await?;
        let unknown = uses.iter().filter(|(_, used_at)| used_at.is_none());
        let unknown: Vec<_> = unknown.map(|(digest, _)| (*digest, millis(now))).collect();
        self.ledger.save_blob_uses(&unknown).await?;
        let unused = listed.into_iter().map(|blob| {
            let used_at = uses.get(&blob.digest).copied().flatten();
            Unused { blob, used_at: used_at.map_or(now, time) }
        });
        Ok((unused.collect(), gone))
    }
}

/// Milliseconds since 1970.
fn millis(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn time(at_ms: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(at_ms).unwrap_or(0))
}

/// How many of the blobs, oldest use first, are removed.
fn expired(unused: &[Unused], limits: Limits, now: SystemTime) -> usize {
    let mut left_bytes: u64 = unused.iter().map(|it| it.blob.size_bytes).sum();
    let is_expired = |unused: &&Unused| {
        // A use in the future counts as now: the clock was set back.
        let age = now.duration_since(unused.used_at).unwrap_or_default();
        let goes = age >= UNUSED_MIN && (age >= limits.age || left_bytes > limits.bytes);
        if goes {
            left_bytes -= unused.blob.size_bytes;
        }
        goes
    };
    unused.iter().take_while(is_expired).count()
}

#[cfg(test)]
mod tests;
