//! The place where the bytes of blobs lie.

use std::{
    fmt::Debug,
    io::{self, Write},
    ops::Range,
};

use framecrew_blobs::Digest;

use crate::disk::Room;

/// A place for blobs. All methods block.
///
/// A blob appears under its digest only when it is published, with all of its bytes, and durable with it. That is a
/// group's work, so that hundreds of blobs wait for the disk once. A backend keeps no other facts about blobs: their
/// last use is in the ledger.
pub(crate) trait Backend: Debug + Send + Sync + 'static {
    /// Begins a blob that is not found until it is published.
    fn stage(&self, staged: StagedId) -> io::Result<Box<dyn Write + Send>>;

    /// Removes a staged blob; does nothing for one that was published.
    fn discard(&self, staged: StagedId) -> io::Result<()>;

    /// Makes the bytes of a group durable. Their writers are closed.
    fn sync(&self, group: &[StagedId]) -> io::Result<()>;

    /// Gives a group that is synced its names, and makes those durable. After an error some of the group may have
    /// names, and lose them in a power failure.
    fn publish(&self, group: &[StagedId]) -> io::Result<()>;

    /// The size of a blob in bytes; `None` when it is not there.
    fn find(&self, digest: Digest) -> io::Result<Option<u64>>;

    /// Reads the bytes of `range`; fewer when the blob ends before.
    fn read(&self, digest: Digest, range: Range<u64>) -> io::Result<Vec<u8>>;

    /// Lists every published blob.
    fn list(&self, each: &mut dyn FnMut(Entry)) -> io::Result<()>;

    /// Removes a blob.
    fn remove(&self, digest: Digest) -> io::Result<()>;

    /// The space that is left; `None` where it has no bound.
    fn room(&self) -> io::Result<Option<Room>>;
}

/// A blob that is being uploaded. Two uploads of the same blob have different numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StagedId {
    pub(crate) digest: Digest,
    pub(crate) number: u64,
}

/// A published blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) digest: Digest,
    pub(crate) size_bytes: u64,
}
