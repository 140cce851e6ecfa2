//! The behaviour that every backend of blobs shows: each test runs on each kind.

#![allow(clippy::unwrap_used)]

use std::{io, sync::Arc};

use framecrew_blobs::Digest;
use tempfile::TempDir;

use super::{
    backend::{Backend, Entry, StagedId},
    folder::Folder,
    memory::MemoryBackend,
};

/// One place for blobs that is opened again and again.
enum Subject {
    Folder(TempDir),
    Memory(Arc<MemoryBackend>),
}

impl Subject {
    fn folder() -> Self {
        Self::Folder(tempfile::tempdir().unwrap())
    }

    fn memory() -> Self {
        Self::Memory(Arc::default())
    }

    /// Opens the place as a restarted orchestrator does.
    fn open(&self) -> Arc<dyn Backend> {
        match self {
            Self::Folder(dir) => Arc::new(Folder::open(dir.path()).unwrap()),
            Self::Memory(backend) => {
                backend.restart();
                backend.clone()
            }
        }
    }
}

macro_rules! on_each_kind {
    ($($test:ident),* $(,)?) => {
        mod folder {
            $(#[test]
            fn $test() {
                super::$test(&super::Subject::folder());
            })*
        }
        mod memory {
            $(#[test]
            fn $test() {
                super::$test(&super::Subject::memory());
            })*
        }
    };
}

on_each_kind!(
    a_published_blob_is_found_read_and_listed_also_after_a_restart,
    a_staged_blob_is_not_found_and_does_not_survive_a_restart,
    a_discarded_blob_cannot_be_published,
    a_blob_may_be_published_twice,
    a_published_blob_outlives_its_discarded_upload,
    a_range_is_read_as_far_as_the_blob_goes,
    a_removed_blob_is_gone,
    a_group_larger_than_one_sync_is_published_whole,
);

/// Stages bytes under their digest.
fn stage(backend: &dyn Backend, bytes: &[u8], number: u64) -> StagedId {
    let staged = StagedId { digest: Digest::of(bytes), number };
    backend.stage(staged).unwrap().write_all(bytes).unwrap();
    staged
}

fn publish(backend: &dyn Backend, group: &[StagedId]) {
    backend.sync(group).unwrap();
    backend.publish(group).unwrap();
}

fn list(backend: &dyn Backend) -> Vec<Entry> {
    let mut listed = Vec::new();
    backend.list(&mut |entry| listed.push(entry)).unwrap();
    listed
}

fn a_published_blob_is_found_read_and_listed_also_after_a_restart(subject: &Subject) {
    let digest = Digest::of(b"frame");
    let backend = subject.open();
    publish(&*backend, &[stage(&*backend, b"frame", 0)]);
    for backend in [backend, subject.open()] {
        assert_eq!(backend.find(digest).unwrap(), Some(5));
        assert_eq!(backend.read(digest, 0..5).unwrap(), b"frame");
        assert_eq!(list(&*backend), [Entry { digest, size_bytes: 5 }]);
    }
}

fn a_staged_blob_is_not_found_and_does_not_survive_a_restart(subject: &Subject) {
    let backend = subject.open();
    let staged = stage(&*backend, b"half", 0);
    backend.sync(&[staged]).unwrap();
    for backend in [&backend, &subject.open()] {
        assert_eq!(backend.find(staged.digest).unwrap(), None);
        assert_eq!(list(&**backend), []);
    }
    backend.publish(&[staged]).unwrap_err();
}

fn a_discarded_blob_cannot_be_published(subject: &Subject) {
    let backend = subject.open();
    let staged = stage(&*backend, b"half", 0);
    backend.discard(staged).unwrap();
    backend.publish(&[staged]).unwrap_err();
    assert_eq!(list(&*backend), []);
}

fn a_blob_may_be_published_twice(subject: &Subject) {
    let backend = subject.open();
    let group = [stage(&*backend, b"frame", 0), stage(&*backend, b"frame", 1)];
    publish(&*backend, &group);
    assert_eq!(list(&*backend).len(), 1);
    assert_eq!(backend.read(group[0].digest, 0..9).unwrap(), b"frame");
}

fn a_published_blob_outlives_its_discarded_upload(subject: &Subject) {
    let backend = subject.open();
    let staged = stage(&*backend, b"frame", 0);
    publish(&*backend, &[staged]);
    backend.discard(staged).unwrap();
    assert_eq!(backend.find(staged.digest).unwrap(), Some(5));
}

fn a_range_is_read_as_far_as_the_blob_goes(subject: &Subject) {
    let backend = subject.open();
    let staged = stage(&*backend, b"frame", 0);
    publish(&*backend, &[staged]);
    for (range, bytes) in
        [(1..4, &b"ram"[..]), (3..9, b"me"), (5..9, b""), (8..9, b""), (2..2, b"")]
    {
        assert_eq!(backend.read(staged.digest, range).unwrap(), bytes);
    }
    let error = backend.read(Digest::of(b"other"), 0..1).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

fn a_removed_blob_is_gone(subject: &Subject) {
    let backend = subject.open();
    let group = [stage(&*backend, b"one", 0), stage(&*backend, b"two", 1)];
    publish(&*backend, &group);
    backend.remove(group[0].digest).unwrap();
    assert_eq!(backend.find(group[0].digest).unwrap(), None);
    assert_eq!(list(&*backend), [Entry { digest: group[1].digest, size_bytes: 3 }]);
    let error = backend.remove(group[0].digest).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

fn a_group_larger_than_one_sync_is_published_whole(subject: &Subject) {
    let backend = subject.open();
    let group: Vec<_> =
        (0..100_u64).map(|number| stage(&*backend, &number.to_le_bytes(), number)).collect();
    publish(&*backend, &group);
    assert_eq!(list(&*backend).len(), 100);
}
