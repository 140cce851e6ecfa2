//! The bytes of a project: hashed, several files at a time, and sent where the cluster does not have them.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use framecrew_blobs::{BlobClient, Chunk, FileDigest, LocalFile, UploadProgress};
use framecrew_proto::v1 as proto;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::{
    collection::fault,
    digests::{Digests, Stamp},
    layout::{Layout, Placed},
};
use crate::{error::Error, progress::SubmitProgress};

/// Files that are hashed at a time, at most: beyond it the disk is what is waited for.
const THREADS_MAX: usize = 8;

/// Results on their way from the threads that hash: the reader is quicker.
const RESULTS_AHEAD: usize = 1_024;

/// A project whose every byte has been read.
#[derive(Debug)]
pub(crate) struct Content {
    files: Vec<HashedFile>,
    blend_place: String,
    /// Holds the files in which paths are changed; goes with this.
    _scratch: Option<TempDir>,
}

#[derive(Debug)]
struct HashedFile {
    place: String,
    here: LocalFile,
    /// Of the file before it was read; none of a changed copy.
    stamp: Option<Stamp>,
}

impl Content {
    /// Changes paths where they must be changed, and hashes everything.
    pub(super) async fn of(
        layout: &Layout,
        on_progress: &mut (impl FnMut(SubmitProgress) + Send),
    ) -> Result<Self, Error> {
        let total_bytes = layout.size_bytes();
        let is_changed = layout.files.iter().any(is_changed);
        let scratch = if is_changed { Some(scratch()?) } else { None };
        let work = Arc::new(Work {
            files: layout.files.clone(),
            next: AtomicUsize::new(0),
            scratch: scratch.as_ref().map(|folder| folder.path().to_owned()),
            digests: Digests::read(&layout.blend),
        });
        let began = SystemTime::now();
        let (results, mut hashed) = mpsc::channel(RESULTS_AHEAD);
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        for _ in 0..threads {
            let (work, results) = (work.clone(), results.clone());
            tokio::task::spawn_blocking(move || work.hash(&results));
        }
        drop(results);
        let mut files: Vec<Option<HashedFile>> = work.files.iter().map(|_| None).collect();
        let mut done_bytes = 0;
        while let Some(result) = hashed.recv().await {
            let (number, file): (usize, HashedFile) = result?;
            done_bytes += work.files[number].size_bytes;
            files[number] = Some(file);
            on_progress(SubmitProgress::Hashing { done_bytes, total_bytes });
        }
        let files: Vec<HashedFile> = files.into_iter().flatten().collect();
        let settled = files.iter().filter_map(|file| {
            let LocalFile { path, digest, chunks, .. } = &file.here;
            Some((path.as_path(), file.stamp?, digest, &chunks[..]))
        });
        work.digests.keep(settled, began);
        Ok(Self { files, blend_place: layout.blend_place.clone(), _scratch: scratch })
    }

    /// As it is submitted.
    pub(crate) fn project(&self) -> proto::Project {
        proto::Project {
            blend_path: self.blend_place.clone(),
            files: self.files.iter().map(HashedFile::described).collect(),
        }
    }

    /// Uploads what the cluster does not have.
    pub(crate) async fn upload(
        &self,
        url: &str,
        blobs: &BlobClient,
        on_progress: &mut (impl FnMut(SubmitProgress) + Send),
    ) -> Result<(), Error> {
        let files = self.files.iter().map(|file| file.here.clone());
        let sent = blobs.upload_files(files, |UploadProgress { sent_bytes, total_bytes }| {
            if total_bytes > 0 {
                on_progress(SubmitProgress::Uploading { sent_bytes, total_bytes });
            }
        });
        sent.await.map(drop).map_err(|error| Error::from_transfer(url, error))
    }
}

impl HashedFile {
    fn described(&self) -> proto::ProjectFile {
        let LocalFile { digest, size_bytes, chunks, .. } = &self.here;
        let chunk = |chunk: &Chunk| proto::Chunk {
            digest: chunk.digest.to_string(),
            size_bytes: chunk.size_bytes,
        };
        proto::ProjectFile {
            path: self.place.clone(),
            digest: digest.to_string(),
            size_bytes: *size_bytes,
            chunks: chunks.iter().map(chunk).collect(),
        }
    }
}

/// A folder for changed copies.
fn scratch() -> Result<TempDir, Error> {
    tempfile::Builder::new().prefix("framecrew-").tempdir().map_err(|error| {
        fault(
            &std::env::temp_dir(),
            format!("cannot hold a copy of a file with other paths ({error}); set TMPDIR to a folder with space"),
        )
    })
}

/// Files to hash, by whichever thread is free.
struct Work {
    files: Vec<Placed>,
    next: AtomicUsize,
    scratch: Option<PathBuf>,
    digests: Digests,
}

impl Work {
    /// Hashes one file after the other until there are no more, or nobody waits any longer.
    fn hash(&self, results: &mpsc::Sender<Result<(usize, HashedFile), Error>>) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(file) = self.files.get(number) else { return };
            let hashed = self.hash_file(number, file).map(|file| (number, file));
            if results.blocking_send(hashed).is_err() {
                return;
            }
        }
    }

    fn hash_file(&self, number: usize, file: &Placed) -> Result<HashedFile, Error> {
        let (source, stamp) = match &self.scratch {
            Some(scratch) if is_changed(file) => {
                let copy = scratch.join(format!("{number}.blend"));
                changed_copy(file, &copy)?;
                (copy, None)
            }
            _ => (file.source.clone(), Stamp::of(&file.source)),
        };
        let known = stamp.and_then(|stamp| self.digests.get(&source, stamp));
        let digest = match known {
            Some(digest) => digest,
            None => FileDigest::of_file(&source).map_err(|error| Error::Project {
                path: file.source.clone(),
                message: format!(
                    "cannot be read ({error}); check its permissions, and that nothing takes it away"
                ),
                source: Some(Box::new(error)),
            })?,
        };
        Ok(HashedFile { place: file.place.clone(), here: LocalFile::new(source, digest), stamp })
    }
}

/// Whether a copy is sent in which paths are changed.
fn is_changed(file: &Placed) -> bool {
    !file.texts.is_empty() || file.other_text.is_some()
}

/// Writes a copy of a file with other paths in it.
fn changed_copy(file: &Placed, copy: &Path) -> Result<(), Error> {
    let failed = |message: String| fault(&file.source, format!("cannot be sent: {message}"));
    let not_made = |error| failed(format!("its copy {} cannot be made ({error})", copy.display()));
    if let Some(text) = &file.other_text {
        return std::fs::write(copy, text).map_err(not_made);
    }
    let mut to = std::fs::File::create(copy).map_err(not_made)?;
    framecrew_blend::rewrite(&file.source, &mut to, &file.texts)
        .map_err(|error| failed(error.to_string()))
}
