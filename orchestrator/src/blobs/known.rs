//! Facts about blobs that are known without asking the backend.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, SystemTime},
};

use framecrew_blobs::Digest;

/// Digests remembered as present, in each of two generations: 44 bytes and a slot's overhead each, so 9 MiB in
/// all. More than the files and frames of the jobs that are live at once.
pub(super) const KNOWN_PER_GENERATION: usize = 64 * 1024;

/// Blobs remembered as doubtful. A disk with more of them than this needs a person, not memory.
const DOUBTED_MAX: usize = 1_024;

/// Uses that wait to be saved, at some 60 bytes each, so 16 MiB in all: as many blobs as are asked for within the ten
/// seconds between two saves, many times over. With more, nothing is collected until the dropped ones are old.
const UNSAVED_MAX: usize = 256 * 1024;

/// How stale a blob's last use may get before it is noted again: asking often costs nothing, and the hour that a blob
/// is safe for gets little shorter.
pub(super) const NOTE_AGE: Duration = Duration::from_secs(5 * 60);

/// Presence, doubts and uses of blobs. Two generations stand in for an exact least-recently-used order: a digest that
/// is asked for again moves to the newer, and the older is dropped when the newer is full.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The last use that was noted.
    newer: HashMap<Digest, SystemTime>,
    older: HashMap<Digest, SystemTime>,
    /// Stored, but damaged, or under a name that may not be durable. They count as missing until they are stored again.
    doubted: HashSet<Digest>,
    /// Uses that the ledger does not have yet.
    unsaved: HashMap<Digest, SystemTime>,
    /// When a use was dropped because too many waited.
    dropped_at: Option<SystemTime>,
}

impl Known {
    /// Whether the blob is there and its last use is noted; `None` when the backend must be asked.
    pub(super) fn recall(&mut self, digest: Digest, now: SystemTime) -> Option<bool> {
        if self.doubted.contains(&digest) {
            return Some(false);
        }
        self.noted_use(digest, now).is_some().then_some(true)
    }

    /// The noted use of a blob, while it is fresh.
    fn noted_use(&mut self, digest: Digest, now: SystemTime) -> Option<SystemTime> {
        let known = self.newer.get(&digest).copied();
        let noted_at = known.or_else(|| {
            let noted_at = self.older.get(&digest).copied()?;
            self.insert(digest, noted_at);
            Some(noted_at)
        })?;
        // A note from the future does not count: the clock was set back.
        now.duration_since(noted_at).is_ok_and(|age| age < NOTE_AGE).then_some(noted_at)
    }

    /// Notes that a blob is there and in use.
    pub(super) fn note_use(&mut self, digest: Digest, now: SystemTime) {
        if self.noted_use(digest, now).is_some() {
            return;
        }
        self.insert(digest, now);
        if self.unsaved.len() < UNSAVED_MAX || self.unsaved.contains_key(&digest) {
            self.unsaved.insert(digest, now);
        } else {
            self.dropped_at = Some(now);
        }
    }

    fn insert(&mut self, digest: Digest, noted_at: SystemTime) {
        if self.newer.len() >= KNOWN_PER_GENERATION {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(digest, noted_at);
    }

    pub(super) fn absent(&mut self, digest: Digest) {
        self.newer.remove(&digest);
        self.older.remove(&digest);
    }

    pub(super) fn is_doubted(&self, digest: Digest) -> bool {
        self.doubted.contains(&digest)
    }

    pub(super) fn doubt(&mut self, digest: Digest) {
        if self.doubted.len() < DOUBTED_MAX {
            self.doubted.insert(digest);
        }
    }

    /// A blob was stored, which is a use.
    pub(super) fn stored(&mut self, digest: Digest, now: SystemTime) {
        self.doubted.remove(&digest);
        self.absent(digest);
        self.note_use(digest, now);
    }

    /// Takes the uses that are not saved.
    pub(super) fn take_unsaved(&mut self) -> Vec<(Digest, SystemTime)> {
        std::mem::take(&mut self.unsaved).into_iter().collect()
    }

    /// Puts back uses that could not be saved; later ones stay.
    pub(super) fn put_back(&mut self, uses: Vec<(Digest, SystemTime)>) {
        for (digest, used_at) in uses {
            self.unsaved.entry(digest).or_insert(used_at);
        }
    }

    /// Whether the blob was used since the uses were taken last.
    pub(super) fn is_unsaved(&self, digest: Digest) -> bool {
        self.unsaved.contains_key(&digest)
    }

    /// Whether a use was dropped within that time.
    pub(super) fn dropped_within(&self, time: Duration, now: SystemTime) -> bool {
        self.dropped_at.is_some_and(|at| now.duration_since(at).map_or(true, |age| age < time))
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.newer.len() + self.older.len()
    }
}
