#![allow(clippy::unwrap_used)]

use std::{
    fs, io,
    path::Path,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use framecrew_blobs::Digest;

use super::{
    BlobError, Blobs, Broken,
    folder::Folder,
    known::{KNOWN_PER_GENERATION, Known, NOTE_AGE},
    layout::blob_path,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Stores a blob as an upload does.
pub(crate) async fn store(blobs: &Blobs, bytes: &[u8]) -> Digest {
    let digest = Digest::of(bytes);
    let incoming = blobs.receive();
    incoming.begin(digest, bytes.len() as u64).await.unwrap();
    incoming.write(Bytes::copy_from_slice(bytes)).await.unwrap();
    incoming.commit().await.unwrap();
    incoming.finish().await.unwrap();
    digest
}

/// The files in the shards of a folder of blobs.
pub(crate) fn files(dir: &Path) -> Vec<String> {
    let shards = fs::read_dir(dir).unwrap().map(|shard| shard.unwrap());
    let files = shards.flat_map(|shard| fs::read_dir(shard.path()).unwrap());
    files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn a_stored_blob_is_found_and_read_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let digest = store(&Blobs::open(dir.path(), None).unwrap(), b"frame").await;

    let blobs = Blobs::open(dir.path(), None).unwrap();
    assert!(blobs.contains(digest).await.unwrap());
    assert_eq!(blobs.size_bytes(digest).await.unwrap(), Some(5));
    assert_eq!(blobs.read_range(digest, 1..4).await.unwrap(), "ram");
    assert!(!blobs.contains(Digest::of(b"other")).await.unwrap());
}

#[tokio::test]
async fn a_blob_of_many_chunks_keeps_its_bytes_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path(), None).unwrap();
    let bytes: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let digest = Digest::of(&bytes);
    let incoming = blobs.receive();
    incoming.begin(digest, bytes.len() as u64).await.unwrap();
    for chunk in bytes.chunks(300_001) {
        incoming.write(Bytes::copy_from_slice(chunk)).await.unwrap();
    }
    incoming.commit().await.unwrap();
    incoming.finish().await.unwrap();
    let read = blobs.read_range(digest, 0..bytes.len() as u64).await.unwrap();
    assert_eq!(Digest::of(&read), digest);
}

#[tokio::test]
async fn bytes_that_do_not_match_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path(), None).unwrap();
    let incoming = blobs.receive();
    incoming.begin(Digest::of(b"this"), 4).await.unwrap();
    incoming.write(Bytes::from_static(b"that")).await.unwrap();
    incoming.commit().await.unwrap();
    let error = incoming.finish().await.unwrap_err();
    assert!(matches!(error, BlobError::WrongDigest { .. }), "{error}");
    assert_eq!(files(dir.path()), [""; 0]);
}

#[tokio::test]
async fn what_a_killed_process_left_unfinished_is_removed_at_open() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path(), None).unwrap();
    let kept = store(&blobs, b"whole").await;
    let mut staged = blobs.catalog.stage(Digest::of(b"half")).unwrap();
    staged.write(b"ha").unwrap();
    // A killed process runs no destructors.
    std::mem::forget(staged);
    assert_eq!(files(dir.path()).len(), 2);

    let blobs = Blobs::open(dir.path(), None).unwrap();
    assert_eq!(files(dir.path()).len(), 1);
    assert!(blobs.contains(kept).await.unwrap());
}

#[tokio::test]
async fn a_blob_has_no_name_before_its_bytes_are_durable_and_a_crash_leaves_none() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path(), None).unwrap();
    let digests = [Digest::of(b"one"), Digest::of(b"two")];
    let mut staged = Vec::new();
    for (digest, bytes) in digests.iter().zip([b"one", b"two"]) {
        let mut blob = blobs.catalog.stage(*digest).unwrap();
        blob.write(bytes).unwrap();
        staged.push(blob);
    }
    let group: Vec<_> = staged.iter().map(|blob| blob.id).collect();
    blobs.catalog.backend.sync(&group).unwrap();
    assert_eq!(blobs.missing(digests.to_vec()).await.unwrap(), digests, "synced, but not named");
    std::mem::forget(staged);

    let blobs = Blobs::open(dir.path(), None).unwrap();
    assert_eq!(blobs.missing(digests.to_vec()).await.unwrap(), digests);
    assert_eq!(files(dir.path()), [""; 0]);
}

#[cfg(target_os = "linux")]
#[test]
fn after_a_disk_lost_something_each_blob_is_asked_for_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::open(dir.path()).unwrap();
    assert!(folder.sync_all_by(|| Ok(())).unwrap());
    folder.sync_all_by(|| Err(std::io::Error::other("lost"))).unwrap_err();
    let again = || panic!("the system does not report it twice");
    assert!(!folder.sync_all_by(again).unwrap());
}

#[test]
fn nobody_is_told_of_a_name_that_is_not_durable_yet() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path(), None).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    let digest = Digest::of(b"frame");
    let names = blobs.catalog.names.write().unwrap();
    let asking = {
        let blobs = blobs.clone();
        runtime.spawn(async move { blobs.missing(vec![digest]).await })
    };
    // As while a group gets its names; then the power fails, and the name is lost.
    let staged = blobs.catalog.stage(digest).unwrap();
    blobs.catalog.backend.publish(&[staged.id]).unwrap();
    blobs.catalog.backend.remove(digest).unwrap();
    drop(names);
    assert_eq!(runtime.block_on(asking).unwrap().unwrap(), [digest]);
}

#[tokio::test]
async fn a_hundred_uploads_at_once_are_stored_in_groups() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path(), None).unwrap();
    let uploads = (0..100_u32).map(|n| {
        let blobs = blobs.clone();
        tokio::spawn(async move { store(&blobs, &n.to_le_bytes()).await })
    });
    let mut digests = Vec::new();
    for upload in uploads.collect::<Vec<_>>() {
        digests.push(upload.await.unwrap());
    }
    assert_eq!(blobs.missing(digests).await.unwrap(), []);
    assert_eq!(files(dir.path()).len(), 100);
}

#[tokio::test]
async fn a_damaged_blob_counts_as_missing_until_it_is_stored_again() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path(), None).unwrap();
    let digest = store(&blobs, b"bytes").await;
    blobs.damaged(digest);
    assert!(!blobs.contains(digest).await.unwrap());
    assert_eq!(blobs.missing(vec![digest]).await.unwrap(), [digest]);
    assert_eq!(blobs.sizes(vec![digest]).await.unwrap(), [None]);
    store(&blobs, b"bytes").await;
    assert!(blobs.contains(digest).await.unwrap());
}

#[tokio::test]
async fn a_blob_whose_name_may_not_last_is_not_there_until_it_is_stored_again() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path(), None).unwrap();
    let known = store(&blobs, b"known").await;
    let digests = [known, Digest::of(b"new"), Digest::of(b"no name")];
    let mut group = digests.map(|digest| blobs.catalog.stage(digest).unwrap());
    // A folder has the name of the last: naming the group fails before the names are made durable.
    fs::create_dir_all(blob_path(dir.path(), digests[2]).join("in the way")).unwrap();
    blobs.catalog.store(&mut group).unwrap_err();
    drop(group);
    assert_eq!(files(dir.path()).len(), 3, "what may have been there before is not removed");
    assert_eq!(blobs.missing(digests[..2].to_vec()).await.unwrap(), digests[..2]);
    assert_eq!(store(&blobs, b"known").await, known);
    assert_eq!(blobs.missing(digests[..2].to_vec()).await.unwrap(), digests[1..2]);
}

async fn broken(blobs: &Blobs, promised: &[(Digest, u64)]) -> Vec<(Digest, Broken)> {
    let broken = blobs.broken(promised.iter().copied().collect()).await.unwrap();
    broken.into_iter().map(|((digest, _), what)| (digest, what)).collect()
}

#[tokio::test]
async fn a_blob_that_the_disk_cut_short_is_broken_and_is_welcome_again() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path(), None).unwrap();
    let digest = store(&blobs, b"bytes").await;
    assert_eq!(broken(&blobs, &[(digest, 5)]).await, []);
    let lie = Broken::Size { stored_bytes: 5, promised_bytes: 6 };
    assert_eq!(broken(&blobs, &[(digest, 6)]).await, [(digest, lie)]);
    let hex = digest.to_string();
    let path = dir.path().join(&hex[..2]).join(&hex[2..]);
    fs::File::options().write(true).open(path).unwrap().set_len(2).unwrap();
    // As after a restart, when nobody remembers what was found out.
    let blobs = Blobs::open(dir.path(), None).unwrap();
    assert_eq!(broken(&blobs, &[(digest, 5)]).await, [(digest, Broken::Damaged)]);
    let blobs = Blobs::open(dir.path(), None).unwrap();
    store(&blobs, b"bytes").await;
    assert_eq!(broken(&blobs, &[(digest, 5)]).await, []);
    let other = Digest::of(b"other");
    let missing = [(other, Broken::Missing)];
    assert_eq!(broken(&blobs, &[(digest, 5), (other, 5)]).await, missing);
}

#[tokio::test]
async fn a_blob_that_cannot_be_looked_at_is_broken_and_no_other_is() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path(), None).unwrap();
    let (good, bad) = (store(&blobs, b"good").await, store(&blobs, b"bad").await);
    // No folder, so that not even the owner of all gets in.
    let shard = dir.path().join(&bad.to_string()[..2]);
    fs::remove_dir_all(&shard).unwrap();
    fs::write(&shard, b"").unwrap();
    let broken = broken(&blobs, &[(good, 4), (bad, 3)]).await;
    assert!(
        matches!(&broken[..], [(digest, Broken::Unreadable(_))] if *digest == bad),
        "{broken:?}"
    );
    assert!(
        blobs.sizes(vec![good, bad]).await.is_err(),
        "a caller that cannot tell them apart gets the error"
    );
}

#[tokio::test]
async fn uploads_are_refused_before_the_disk_is_full_and_what_is_there_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let digest = store(&Blobs::open(dir.path(), None).unwrap(), b"bytes").await;
    let blobs = Blobs::open(dir.path(), Some(u64::MAX)).unwrap();
    let incoming = blobs.receive();
    incoming.begin(Digest::of(b"new"), 3).await.unwrap();
    let error = incoming.finish().await.unwrap_err();
    assert!(matches!(error, BlobError::Low { .. }), "{error}");
    assert_eq!(files(dir.path()).len(), 1, "nothing is left behind");
    assert_eq!(store(&blobs, b"bytes").await, digest, "it is there already");
    assert_eq!(blobs.read_range(digest, 0..5).await.unwrap(), "bytes");
    assert_eq!(broken(&blobs, &[(digest, 5)]).await, []);
}

#[test]
fn an_upload_leaves_free_what_it_has_to() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Blobs::open(dir.path(), Some(0)).unwrap().catalog;
    let free_bytes = catalog.backend.room().unwrap().unwrap().free_bytes;
    let catalog = Blobs::open(dir.path(), Some(free_bytes / 2)).unwrap().catalog;
    catalog.check_room(0).unwrap();
    let error = catalog.check_room(free_bytes).unwrap_err();
    assert!(error.to_string().contains("make room"), "{error}");
}

#[test]
fn memory_is_bounded_and_keeps_what_is_asked_for() {
    let mut memory = Known::default();
    let now = SystemTime::UNIX_EPOCH + DAY;
    let digest = |n: u32| {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_le_bytes());
        Digest::from(bytes)
    };
    for n in 0..4 * KNOWN_PER_GENERATION as u32 {
        memory.note_use(digest(n), now);
        assert_eq!(memory.recall(digest(0), now), Some(true));
    }
    assert_eq!(memory.recall(digest(1), now), None);
    assert!(memory.remembered() <= 2 * KNOWN_PER_GENERATION);
    assert_eq!(memory.recall(digest(0), now + NOTE_AGE), None, "the note must be renewed");
}

#[test]
fn a_full_disk_is_told_apart() {
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
        assert!(matches!(BlobError::from(io::Error::from(kind)), BlobError::Full(_)));
    }
    let other = io::Error::from(io::ErrorKind::PermissionDenied);
    assert!(matches!(BlobError::from(other), BlobError::Disk(_)));
}

#[tokio::test]
async fn a_blob_that_is_on_its_way_in_is_not_listed() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path(), None).unwrap();
    let staged = blobs.catalog.stage(Digest::of(b"half")).unwrap();
    assert!(blobs.list(|_| true).await.unwrap().is_empty());
    assert_eq!(files(dir.path()).len(), 1);
    drop(staged);
    assert_eq!(files(dir.path()), [""; 0]);
}
