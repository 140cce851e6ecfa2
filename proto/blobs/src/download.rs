use std::{
    fs,
    path::{Path, PathBuf},
};

use framecrew_proto::v1::{
    DownloadRequest, blob_store_client::BlobStoreClient, download_request::Source,
};
use tokio::{fs::File, io::AsyncWriteExt as _};
use tonic::transport::Channel;

use crate::{
    Digest, TransferError,
    resume::{BACKOFF, RESUMES_MAX},
};

/// Longest part of the target's name that goes into the hidden file's name, in bytes, so that the latter stays
/// below the 255 bytes of common file systems.
const NAME_BYTES_MAX: usize = 200;

type Rpc = BlobStoreClient<Channel>;

/// A complete and verified blob in a hidden file beside its target. If it is dropped, the hidden file stays, and a later
/// download of the same blob to the same target reuses it.
#[derive(Debug)]
pub struct Download {
    part: Partial,
    to: PathBuf,
}

impl Download {
    /// The hidden file. It keeps its metadata, such as extended attributes, when it is published.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.part.path
    }

    /// Makes the file durable, then renames it to the target, which it replaces.
    ///
    /// # Errors
    /// If the disk refuses.
    pub async fn publish(self) -> Result<(), TransferError> {
        self.part.publish(&self.to).await
    }

    /// Removes the hidden file.
    pub async fn discard(self) {
        self.part.discard().await;
    }
}

pub(crate) async fn whole(
    rpc: &Rpc,
    digest: Digest,
    size_bytes: u64,
    to: &Path,
    mut on_bytes: impl FnMut(u64) + Send,
) -> Result<Download, TransferError> {
    let mut part = Partial::open(to, digest, size_bytes).await?;
    let mut resumed = part.len_bytes > 0;
    let mut broken = 0;
    loop {
        on_bytes(part.len_bytes);
        let before = part.len_bytes;
        let result = if before == size_bytes && (resumed || size_bytes == 0) {
            Ok(())
        } else {
            receive(rpc, digest, size_bytes, &mut part, &mut on_bytes).await
        };
        match result {
            Ok(()) if part.digest() == digest => {
                part.flush().await?;
                return Ok(Download { part, to: to.to_owned() });
            }
            // What an earlier call left may be anything, after a power cut for one.
            Ok(()) if resumed => {
                resumed = false;
                part.clear().await?;
            }
            Ok(()) => {
                part.discard().await;
                return Err(TransferError::Damaged { digest });
            }
            Err(error) if error.is_transient() => {
                broken = if part.len_bytes > before { 1 } else { broken + 1 };
                if broken > RESUMES_MAX {
                    part.keep().await?;
                    return Err(error);
                }
                tokio::time::sleep(BACKOFF.pause(broken)).await;
            }
            Err(error) => {
                part.discard().await;
                return Err(error);
            }
        }
    }
}

/// Appends the rest of the blob to `part`; ends well only when all of it is there.
async fn receive(
    rpc: &Rpc,
    digest: Digest,
    size_bytes: u64,
    part: &mut Partial,
    on_bytes: &mut (impl FnMut(u64) + Send),
) -> Result<(), TransferError> {
    let action = || format!("download blob {digest}");
    let failed = |status| TransferError::store(action(), status);
    let request = DownloadRequest {
        source: Some(Source::Digest(digest.to_string())),
        offset: part.len_bytes,
    };
    let mut chunks = rpc.clone().download(request).await.map_err(failed)?.into_inner();
    let mut first = true;
    while let Some(chunk) = chunks.message().await.map_err(failed)? {
        if std::mem::take(&mut first) && chunk.size_bytes != size_bytes {
            return Err(TransferError::WrongSize {
                digest,
                stored_bytes: chunk.size_bytes,
                expected_bytes: size_bytes,
            });
        }
        if chunk.data.len() as u64 > size_bytes - part.len_bytes {
            return Err(TransferError::Damaged { digest });
        }
        part.append(&chunk.data).await?;
        on_bytes(part.len_bytes);
    }
    if part.len_bytes < size_bytes {
        return Err(failed(tonic::Status::unavailable("the download ended before the last byte")));
    }
    Ok(())
}

/// The hidden file that a download gathers in, locked, with the hash of what is in it.
#[derive(Debug)]
struct Partial {
    file: File,
    path: PathBuf,
    hasher: blake3::Hasher,
    len_bytes: u64,
}

impl Partial {
    async fn open(to: &Path, digest: Digest, size_bytes: u64) -> Result<Self, TransferError> {
        let path = hidden_beside(to, digest);
        let to = to.to_owned();
        blocking(move || Self::open_blocking(path, to, size_bytes)).await
    }

    fn open_blocking(path: PathBuf, to: PathBuf, size_bytes: u64) -> Result<Self, TransferError> {
        let file = fs::File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(TransferError::file("create", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(TransferError::Busy { path: to }),
            // Some network file systems know no locks. There the hash alone must do.
            Err(fs::TryLockError::Error(_)) => {}
        }
        // Whoever held the lock has just published the file that was opened here.
        if !path.exists() {
            return Err(TransferError::Busy { path: to });
        }
        let mut hasher = blake3::Hasher::new();
        let found_bytes = file.metadata().map_err(TransferError::file("read", &path))?.len();
        if found_bytes > size_bytes {
            file.set_len(0).map_err(TransferError::file("write", &path))?;
        }
        // Leaves the file's position at its end, where appending goes on.
        hasher.update_reader(&file).map_err(TransferError::file("read", &path))?;
        Ok(Self { len_bytes: hasher.count(), file: File::from_std(file), path, hasher })
    }

    async fn append(&mut self, data: &[u8]) -> Result<(), TransferError> {
        self.file.write_all(data).await.map_err(TransferError::file("write", &self.path))?;
        self.hasher.update(data);
        self.len_bytes += data.len() as u64;
        Ok(())
    }

    fn digest(&self) -> Digest {
        self.hasher.finalize().into()
    }

    async fn clear(&mut self) -> Result<(), TransferError> {
        use tokio::io::AsyncSeekExt as _;
        self.flush().await?;
        let write_error = |error| TransferError::file("write", &self.path)(error);
        self.file.set_len(0).await.map_err(write_error)?;
        self.file.rewind().await.map_err(write_error)?;
        self.hasher.reset();
        self.len_bytes = 0;
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), TransferError> {
        self.file.flush().await.map_err(TransferError::file("write", &self.path))
    }

    /// Leaves the bytes for a later call to continue.
    async fn keep(mut self) -> Result<(), TransferError> {
        self.flush().await
    }

    async fn discard(self) {
        // Windows removes no file that is open.
        drop(self.file.into_std().await);
        // Best effort: the error that led here says more, and leftovers are hashed before they are trusted.
        let _ = tokio::fs::remove_file(&self.path).await;
    }

    /// Makes the bytes durable, then gives them their name.
    async fn publish(self, to: &Path) -> Result<(), TransferError> {
        self.file.sync_all().await.map_err(TransferError::file("write", &self.path))?;
        // Nor does it rename one. Elsewhere the lock ends after the rename: another download of the same blob to the
        // same file must not come between.
        let file = self.file.into_std().await;
        let held = (!cfg!(windows)).then_some(file);
        tokio::fs::rename(&self.path, to).await.map_err(TransferError::file("create", to))?;
        drop(held);
        let folder = folder_of(to).to_owned();
        blocking(move || {
            sync(&folder);
            Ok(())
        })
        .await
    }
}

/// Runs what blocks on a thread made for it.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TransferError> + Send + 'static,
) -> Result<T, TransferError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Makes a rename durable. Not every file system can sync a folder, and the file is whole either way.
fn sync(folder: &Path) {
    if cfg!(unix) {
        let _ = fs::File::open(folder).and_then(|folder| folder.sync_all());
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// `renders/0001.png` gathers in `renders/.0001.png.<start of the digest>.part`: one hidden file for each name
/// and blob, so that a job that is rendered again never continues the old frame's bytes.
fn hidden_beside(to: &Path, digest: Digest) -> PathBuf {
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    let name = &name[..name.floor_char_boundary(NAME_BYTES_MAX)];
    let digest = digest.to_string();
    to.with_file_name(format!(".{name}.{}.part", &digest[..16]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_hidden_name_fits_whatever_the_targets_name_is() {
        for name in ["ü".repeat(127), "x".repeat(255), "0001.png".into()] {
            let hidden = hidden_beside(&Path::new("renders").join(name), Digest::of(b"frame"));
            let name = hidden.file_name().unwrap().to_str().unwrap();
            assert!(name.starts_with('.') && name.len() <= 255, "{name}");
            assert_eq!(hidden.parent(), Some(Path::new("renders")));
        }
    }
}
