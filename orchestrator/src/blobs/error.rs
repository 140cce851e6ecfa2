//! Failures of the blob store.

use std::{io, path::PathBuf};

use framecrew_blobs::Digest;

/// Why the directory cannot hold blobs.
#[derive(Debug, thiserror::Error)]
#[error("cannot keep blobs in {}: {error}", dir.display())]
pub(crate) struct OpenError {
    pub(super) dir: PathBuf,
    pub(super) error: io::Error,
}

/// Why a blob could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BlobError {
    #[error("the blob store's disk is full")]
    Full(#[source] io::Error),
    #[error(
        "the blob store's disk has {free_bytes} bytes left, of which uploads leave {reserve_bytes} free; \
         make room, then try again"
    )]
    Low { free_bytes: u64, reserve_bytes: u64 },
    #[error("blob {0} is not stored")]
    Missing(Digest),
    /// The stored bytes do not hash to the blob's digest.
    #[error("the stored bytes of blob {0} are damaged")]
    Damaged(Digest),
    /// The uploaded bytes do not hash to the declared digest.
    #[error("the bytes hash to {actual}, not to {declared}")]
    WrongDigest { actual: Digest, declared: Digest },
    /// The blob has another size than was declared.
    #[error("the blob of that digest has {stored_bytes} bytes, not {declared_bytes}")]
    WrongSize { stored_bytes: u64, declared_bytes: u64 },
    /// Any other failure. It is in the text, so it is not linked as the source.
    #[error("the blob store failed: {0}")]
    Disk(io::Error),
}

impl From<io::Error> for BlobError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(error),
            _ => Self::Disk(error),
        }
    }
}

/// The fault of a blob that a client or a node promised.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    #[error("is not in the blob store")]
    Missing,
    #[error("is damaged in the blob store")]
    Damaged,
    #[error(
        "has {stored_bytes} bytes in the blob store, not the {promised_bytes} that were promised"
    )]
    Size { stored_bytes: u64, promised_bytes: u64 },
    #[error("cannot be looked at: {0}")]
    Unreadable(String),
}
