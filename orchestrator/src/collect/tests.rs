#![allow(clippy::unwrap_used)]

use std::sync::atomic::Ordering;

use super::*;
use crate::{
    blobs::tests::{files, store},
    domain::{FrameSet, JobId, JobSpec, Project, ProjectFile},
    store::{Group, JobRecord, MemoryStore, Request},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const LIMITS: Limits = Limits { age: DAY, bytes: 1 << 30 };

struct Fixture {
    dir: tempfile::TempDir,
    store: MemoryStore,
    blobs: Blobs,
    now: SystemTime,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path(), None).unwrap();
        Self { dir, store: MemoryStore::new(), blobs, now: SystemTime::now() }
    }

    /// As after a restart: nothing is known in memory.
    fn restart(self) -> Self {
        let blobs = Blobs::open(self.dir.path(), None).unwrap();
        Self { blobs, store: self.store.reopen(), ..self }
    }

    async fn collector(&self, limits: Limits) -> Collector {
        let store = Arc::new(self.store.clone());
        Collector::open(self.blobs.clone(), store.clone(), store, limits).await.unwrap()
    }

    async fn collect(&self, limits: Limits, now: SystemTime) -> Collected {
        self.collector(limits).await.collect(now).await.unwrap()
    }

    /// Blobs, each of 1,000 bytes, that were last used so long ago; the orchestrator was restarted since.
    async fn with_blobs(ages: impl IntoIterator<Item = Duration>) -> (Self, Vec<Digest>) {
        let fixture = Self::new();
        let mut digests = Vec::new();
        for (n, age) in ages.into_iter().enumerate() {
            let digest = store(&fixture.blobs, &[n as u8; 1_000]).await;
            let uses = [(digest, millis(fixture.now - age))];
            fixture.store.save_blob_uses(&uses).await.unwrap();
            digests.push(digest);
        }
        (fixture.restart(), digests)
    }

    /// Job 1 needs a blob.
    async fn pin(&self, digest: Digest) {
        let file =
            ProjectFile { path: "a".to_owned(), digest, size_bytes: 1_000, chunks: Vec::new() };
        let spec = JobSpec {
            project: Project { blend_path: "a".to_owned(), files: vec![file] },
            ..JobSpec::for_test(FrameSet::one(1))
        };
        let record = JobRecord::submitted(JobId(1), Arc::new(spec), "3.4".parse().unwrap(), 0);
        let request = Request { request_id: "r".to_owned(), fingerprint: "f".to_owned() };
        let new_jobs = vec![(request, record)];
        self.store.commit(&Group { new_jobs, ..Group::default() }).await.unwrap();
    }

    async fn saved_uses(&self) -> usize {
        let mut saved = 0;
        self.store.blob_uses(&mut |_, _| saved += 1).await.unwrap();
        saved
    }
}

#[tokio::test]
async fn blobs_that_no_job_needs_go_when_they_are_old() {
    let ages = [2 * DAY, 2 * DAY, DAY / 2, Duration::ZERO];
    let (fixture, digests) = Fixture::with_blobs(ages).await;
    fixture.pin(digests[1]).await;
    let collected = fixture.collect(LIMITS, fixture.now).await;
    assert_eq!(collected, Collected { blobs: 1, bytes: 1_000 });
    assert_eq!(fixture.blobs.missing(digests.clone()).await.unwrap(), digests[..1]);
    assert_eq!(fixture.saved_uses().await, 3, "that of the removed one is forgotten");
}

#[tokio::test]
async fn the_oldest_go_when_they_take_too_much_but_never_within_the_hour() {
    let ages = [5 * UNUSED_MIN, 2 * UNUSED_MIN, 4 * UNUSED_MIN, UNUSED_MIN / 2, 3 * UNUSED_MIN];
    let (fixture, digests) = Fixture::with_blobs(ages).await;
    let limits = Limits { bytes: 3_500, ..LIMITS };
    let collected = fixture.collect(limits, fixture.now).await;
    assert_eq!(collected, Collected { blobs: 2, bytes: 2_000 });
    let gone = [digests[0], digests[2]];
    assert_eq!(fixture.blobs.missing(digests.clone()).await.unwrap(), gone);

    // Asked for just now: all of them are safe.
    let limits = Limits { bytes: 0, ..LIMITS };
    assert_eq!(fixture.collect(limits, fixture.now).await, Collected::default());
    let later = fixture.now + 2 * UNUSED_MIN;
    assert_eq!(fixture.collect(limits, later).await.blobs, 3);
    assert_eq!(files(fixture.dir.path()), [""; 0]);
    assert!(!fixture.blobs.contains(digests[1]).await.unwrap(), "memory knows that they are gone");
}

#[tokio::test]
async fn a_blob_that_is_asked_for_while_blobs_are_collected_stays() {
    let (fixture, digests) = Fixture::with_blobs([2 * DAY]).await;
    let listed = fixture.blobs.list(|_| true).await.unwrap();
    assert!(fixture.blobs.contains(digests[0]).await.unwrap());
    let removed = fixture.blobs.remove_unused(listed.clone(), UNUSED_MIN).await.unwrap();
    assert_eq!(removed, []);
    assert_eq!(fixture.collect(LIMITS, fixture.now).await, Collected::default());
    assert!(fixture.blobs.contains(digests[0]).await.unwrap());
}

#[tokio::test]
async fn a_blob_of_a_store_that_knew_no_uses_counts_as_used_now() {
    let (fixture, digests) = Fixture::with_blobs([2 * DAY, 2 * DAY]).await;
    fixture.store.forget_blob_uses(&digests).await.unwrap();
    let fixture = fixture.restart();
    assert_eq!(fixture.collect(LIMITS, fixture.now).await, Collected::default());
    assert_eq!(fixture.saved_uses().await, 2);
    assert_eq!(fixture.collect(LIMITS, fixture.now + DAY / 2).await, Collected::default());
    assert_eq!(fixture.collect(LIMITS, fixture.now + DAY).await.blobs, 2);
    assert_eq!(fixture.saved_uses().await, 0);
}

#[tokio::test]
async fn a_use_that_cannot_be_saved_is_saved_later_and_meanwhile_nothing_goes() {
    let (fixture, digests) = Fixture::with_blobs([2 * DAY]).await;
    let collector = fixture.collector(LIMITS).await;
    assert!(fixture.blobs.contains(digests[0]).await.unwrap());
    fixture.store.faults.is_full.store(true, Ordering::SeqCst);
    let error = collector.collect(fixture.now).await.unwrap_err();
    assert!(matches!(error, CollectError::Store(StoreError::Full)), "{error}");
    fixture.store.faults.is_full.store(false, Ordering::SeqCst);
    assert_eq!(collector.collect(fixture.now).await.unwrap(), Collected::default());
    let fixture = fixture.restart();
    assert_eq!(fixture.collect(LIMITS, fixture.now).await, Collected::default());
    assert!(fixture.blobs.contains(digests[0]).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_clean_stop_soon_after_a_crash_does_not_shorten_the_hour() {
    let (fixture, digests) = Fixture::with_blobs([2 * DAY]).await;
    let collector = fixture.collector(LIMITS).await;
    // Its use is lost with the crash.
    assert!(fixture.blobs.contains(digests[0]).await.unwrap());
    drop(collector);
    let fixture = fixture.restart();
    let stop = CancellationToken::new();
    let running = tokio::spawn(fixture.collector(LIMITS).await.run(|| false, stop.clone()));
    tokio::time::sleep(UNUSED_MIN / 12).await;
    stop.cancel();
    running.await.unwrap();
    let fixture = fixture.restart();
    let stop = CancellationToken::new();
    let running = tokio::spawn(fixture.collector(LIMITS).await.run(|| false, stop.clone()));
    tokio::time::sleep(UNUSED_MIN / 2).await;
    assert_eq!(files(fixture.dir.path()).len(), 1);
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_nothing_is_removed_for_an_hour() {
    for crashed in [false, true] {
        let (fixture, digests) = Fixture::with_blobs([2 * DAY]).await;
        let collector = fixture.collector(LIMITS).await;
        // Its use is lost with the crash.
        if crashed {
            assert!(fixture.blobs.contains(digests[0]).await.unwrap());
            drop(collector);
        } else {
            let stop = CancellationToken::new();
            stop.cancel();
            collector.run(|| false, stop).await;
        }
        let fixture = fixture.restart();
        let stop = CancellationToken::new();
        let collector = fixture.collector(LIMITS).await;
        let running = tokio::spawn(collector.run(|| false, stop.clone()));
        tokio::time::sleep(UNUSED_MIN / 2).await;
        assert_eq!(files(fixture.dir.path()).len(), usize::from(crashed));
        tokio::time::sleep(UNUSED_MIN).await;
        while !files(fixture.dir.path()).is_empty() {
            tokio::task::yield_now().await;
        }
        stop.cancel();
        running.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn uses_are_saved_while_blobs_are_in_use_and_when_it_stops() {
    let (fixture, _) = Fixture::with_blobs([]).await;
    let stop = CancellationToken::new();
    let running = tokio::spawn(fixture.collector(LIMITS).await.run(|| false, stop.clone()));
    store(&fixture.blobs, b"one").await;
    while fixture.saved_uses().await < 1 {
        tokio::time::sleep(SAVE_PERIOD).await;
    }
    store(&fixture.blobs, b"two").await;
    stop.cancel();
    running.await.unwrap();
    assert_eq!(fixture.saved_uses().await, 2);
    assert!(fixture.store.mark_blob_uses(false).await.unwrap(), "all of them are saved");
}
