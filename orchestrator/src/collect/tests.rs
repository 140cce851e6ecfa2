#![allow(clippy::unwrap_used)]

use super::*;
use crate::blobs::tests::{files, set_last_use, store};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Blobs, each of 1,000 bytes, that were last used so long before `now`.
async fn used_before(
    blobs: &Blobs,
    now: SystemTime,
    ages: impl IntoIterator<Item = Duration>,
) -> Vec<Digest> {
    let mut digests = Vec::new();
    for (n, age) in ages.into_iter().enumerate() {
        let digest = store(blobs, &[n as u8; 1_000]).await;
        set_last_use(blobs, digest, now - age);
        digests.push(digest);
    }
    digests
}

const LIMITS: Limits = Limits { age: DAY, bytes: 1 << 30 };

#[tokio::test]
async fn blobs_that_no_job_needs_go_when_they_are_old() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path(), None).unwrap();
    let now = SystemTime::now();
    let digests = used_before(&blobs, now, [2 * DAY, 2 * DAY, DAY / 2, Duration::ZERO]).await;
    let mut pins = Pins::default();
    pins.pin(digests[1]);
    let collected = remove(&blobs, pins, LIMITS, now).await.unwrap();
    assert_eq!(collected, Collected { blobs: 1, bytes: 1_000 });
    assert_eq!(blobs.missing(digests.clone()).await.unwrap(), digests[..1]);
}

#[tokio::test]
async fn the_oldest_go_when_they_take_too_much_but_never_within_the_hour() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path(), None).unwrap();
    let now = SystemTime::now();
    let ages = [5 * UNUSED_MIN, 2 * UNUSED_MIN, 4 * UNUSED_MIN, UNUSED_MIN / 2, 3 * UNUSED_MIN];
    let digests = used_before(&blobs, now, ages).await;
    let limits = Limits { bytes: 3_500, ..LIMITS };
    let collected = remove(&blobs, Pins::default(), limits, now).await.unwrap();
    assert_eq!(collected, Collected { blobs: 2, bytes: 2_000 });
    let gone = [digests[0], digests[2]];
    assert_eq!(blobs.missing(digests.clone()).await.unwrap(), gone);

    // Asked for just now: all of them are safe.
    let limits = Limits { bytes: 0, ..LIMITS };
    let collected = remove(&blobs, Pins::default(), limits, now).await.unwrap();
    assert_eq!(collected, Collected::default());
    let later = now + 2 * UNUSED_MIN;
    let collected = remove(&blobs, Pins::default(), limits, later).await.unwrap();
    assert_eq!(collected.blobs, 3);
    assert_eq!(files(dir.path()), [""; 0]);
    assert!(!blobs.contains(digests[1]).await.unwrap(), "memory knows that they are gone");
}
