//! Where blobs lie in a data folder: `blobs/ab/cdef…`, sharded by the first byte of the digest.

use std::{
    fs,
    path::{Path, PathBuf},
};

use framecrew_blobs::Digest;

/// Separates a blob's name from a number while it is uploaded; no digest contains it.
const UNFINISHED: char = '#';

/// The folder of blobs in a data folder.
pub(crate) fn blobs_in(data: &Path) -> PathBuf {
    data.join("blobs")
}

/// The names of the folders that blobs lie in.
pub(crate) fn shards() -> impl Iterator<Item = String> {
    (0..=u8::MAX).map(|shard| format!("{shard:02x}"))
}

/// Where a blob lies in a folder of blobs.
pub(crate) fn blob_path(dir: &Path, digest: Digest) -> PathBuf {
    let digest = digest.to_string();
    let (shard, rest) = digest.split_at(2);
    dir.join(shard).join(rest)
}

/// Where the upload of that number writes a blob until it is complete.
pub(crate) fn unfinished_path(dir: &Path, digest: Digest, number: u64) -> PathBuf {
    let mut path = blob_path(dir, digest).into_os_string();
    path.push(format!("{UNFINISHED}{number}"));
    path.into()
}

/// Whether a file in a shard is an upload that was not completed.
pub(crate) fn is_unfinished(name: &str) -> bool {
    name.contains(UNFINISHED)
}

/// The digest of a file in a shard; `None` for an unfinished upload and for files of others.
pub(crate) fn digest_of(shard: &str, name: &str) -> Option<Digest> {
    format!("{shard}{name}").parse().ok()
}

/// Whether a folder of blobs holds any.
pub(crate) fn has_blobs(dir: &Path) -> bool {
    let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
    let mut shards = entries(dir).filter(|shard| shard.file_name().len() == 2);
    shards.any(|shard| entries(&shard.path()).next().is_some())
}
