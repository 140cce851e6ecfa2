//! Sends blobs: from a few threads that read, over as many streams, each of which takes many blobs.

use std::{
    collections::{HashSet, VecDeque},
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use framecrew_proto::v1::{
    UploadChunk, UploadCommit, UploadHeader, UploadRequest, blob_store_client::BlobStoreClient,
    upload_request::Part,
};
use futures::future::try_join_all;
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, transport::Channel};

use crate::{
    BlobClient, Chunk, Digest, FileDigest, TransferError,
    resume::{BACKOFF, RESUMES_MAX},
};

/// Streams that one upload has open: two keep a link and two processors busy, the others go on while one waits
/// for the store's disk.
const STREAMS: usize = 4;

/// Bytes, and time, after which a stream is ended and another one begun: the store lets only so many uploads
/// run at once, and everyone gets a turn.
const STREAM_BYTES: u64 = 64 << 20;
const STREAM_TIME: Duration = Duration::from_secs(5);

/// Bytes in one chunk of an upload; the store accepts 1 MiB. Large enough that a message's own cost is lost in
/// it, small enough that progress moves.
const CHUNK_BYTES: u64 = 512 * 1024;

/// Messages that are read from disk before the link takes them, so that reading and sending overlap.
const PARTS_AHEAD: usize = 4;

type Rpc = BlobStoreClient<Channel>;

/// A file to upload, as [`FileDigest::of_file`] read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalFile {
    /// Where it is.
    pub path: PathBuf,
    /// BLAKE3 hash of its content.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// The blobs that it is sent in, in order; none: one blob, named by `digest`.
    pub chunks: Vec<Chunk>,
}

impl LocalFile {
    /// The file at `path` with the content that was read there.
    #[must_use]
    pub fn new(path: PathBuf, content: FileDigest) -> Self {
        let FileDigest { digest, size_bytes, chunks } = content;
        Self { path, digest, size_bytes, chunks }
    }
}

/// How far an upload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadProgress {
    /// Bytes that are on their way or stored; falls back when a link breaks.
    pub sent_bytes: u64,
    /// Bytes to send: those of all blobs that the store did not have.
    pub total_bytes: u64,
}

/// What an upload sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Uploaded {
    /// Blobs that the store did not have.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A blob to send, and where its bytes are.
#[derive(Debug, Clone)]
pub enum Source {
    /// A file, whole.
    File {
        /// Where it is.
        path: PathBuf,
        /// BLAKE3 hash of its content.
        digest: Digest,
        /// Its size in bytes.
        size_bytes: u64,
    },
    /// In memory.
    Bytes {
        /// The bytes.
        bytes: Bytes,
        /// Their BLAKE3 hash.
        digest: Digest,
    },
}

impl Source {
    fn into_piece(self) -> Piece {
        match self {
            Self::File { path, digest, size_bytes } => {
                let place = FilePart { path: path.into(), file_bytes: size_bytes, offset: 0 };
                Piece { digest, size_bytes, content: Content::File(place) }
            }
            Self::Bytes { bytes, digest } => {
                Piece { digest, size_bytes: bytes.len() as u64, content: Content::Bytes(bytes) }
            }
        }
    }
}

/// A blob to send.
#[derive(Debug, Clone)]
struct Piece {
    digest: Digest,
    size_bytes: u64,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    File(FilePart),
    Bytes(Bytes),
}

/// A part of a file.
#[derive(Debug, Clone)]
struct FilePart {
    path: Arc<Path>,
    /// Size of the whole file: a different one shows that the file was replaced.
    file_bytes: u64,
    offset: u64,
}

impl BlobClient {
    /// Uploads what the store lacks of `files`, each blob once, several at a time. `on_progress` is told how
    /// far it is. All of it is durable when this returns. A broken link is resumed a few times, with growing
    /// pauses; what arrived, then or in an earlier call that was cut off, is not sent again.
    ///
    /// # Errors
    /// [`TransferError::Changed`] when a file is no longer what was hashed. Otherwise when one cannot be read,
    /// or the store cannot be reached or refuses.
    pub async fn upload_files(
        &self,
        files: impl IntoIterator<Item = LocalFile>,
        on_progress: impl FnMut(UploadProgress) + Send,
    ) -> Result<Uploaded, TransferError> {
        upload_files(self, files, on_progress).await
    }

    /// Uploads a few blobs at once, without asking first which of them the store has.
    ///
    /// # Errors
    /// As [`BlobClient::upload_files`], but a broken link is an error.
    pub async fn upload_all(
        &self,
        blobs: impl IntoIterator<Item = Source>,
    ) -> Result<(), TransferError> {
        upload_all(&self.rpc, blobs, |_| ()).await
    }

    /// Uploads a file whose digest and size, in bytes, are known, as one blob. `on_bytes` is told how many of
    /// its bytes are on their way so far.
    ///
    /// # Errors
    /// [`TransferError::Changed`] when the file is no longer what was hashed; then nothing is stored.
    /// Otherwise when it cannot be read, or the store cannot be reached or refuses.
    pub async fn upload_file(
        &self,
        path: &Path,
        digest: Digest,
        size_bytes: u64,
        on_bytes: impl FnMut(u64) + Send,
    ) -> Result<(), TransferError> {
        let file = Source::File { path: path.into(), digest, size_bytes };
        upload_all(&self.rpc, [file], on_bytes).await
    }

    /// Uploads bytes that are in memory.
    ///
    /// # Errors
    /// When the store cannot be reached or refuses, which it does when `digest` is not that of `bytes`.
    pub async fn upload_bytes(&self, bytes: Bytes, digest: Digest) -> Result<(), TransferError> {
        self.upload_all([Source::Bytes { bytes, digest }]).await
    }
}

/// Sends what the store lacks of `files`.
async fn upload_files(
    client: &BlobClient,
    files: impl IntoIterator<Item = LocalFile>,
    mut on_progress: impl FnMut(UploadProgress) + Send,
) -> Result<Uploaded, TransferError> {
    let mut pieces = pieces(files);
    let mut sent = None;
    let mut broken = 0;
    loop {
        let digests: Vec<_> = pieces.iter().map(|piece| piece.digest).collect();
        let result = match client.find_missing(&digests).await {
            Ok(missing) => {
                let missing: HashSet<_> = missing.into_iter().collect();
                let before = pieces.len();
                pieces.retain(|piece| missing.contains(&piece.digest));
                let left = pieces.iter().map(|piece| piece.size_bytes).sum();
                // Known once the store has said for the first time what it lacks.
                let sent =
                    *sent.get_or_insert(Uploaded { blobs: pieces.len() as u64, bytes: left });
                if pieces.len() < before {
                    broken = 0;
                }
                let done = sent.bytes - left;
                let tell = |now| {
                    on_progress(UploadProgress { sent_bytes: done + now, total_bytes: sent.bytes });
                };
                send(&client.rpc, pieces.clone(), tell).await.map(|()| sent)
            }
            Err(error) => Err(error),
        };
        match result {
            Err(error) if error.is_transient() && broken < RESUMES_MAX => {
                broken += 1;
                tokio::time::sleep(BACKOFF.pause(broken)).await;
            }
            result => return result,
        }
    }
}

/// The blobs of `files`, each once.
fn pieces(files: impl IntoIterator<Item = LocalFile>) -> Vec<Piece> {
    let mut seen = HashSet::new();
    let mut pieces = Vec::new();
    for file in files {
        let content =
            FileDigest { digest: file.digest, size_bytes: file.size_bytes, chunks: file.chunks };
        let path: Arc<Path> = file.path.into();
        let mut offset = 0;
        for Chunk { digest, size_bytes } in content.blobs() {
            if seen.insert(digest) {
                let place = FilePart { path: path.clone(), file_bytes: file.size_bytes, offset };
                pieces.push(Piece { digest, size_bytes, content: Content::File(place) });
            }
            offset += size_bytes;
        }
    }
    pieces
}

/// Sends blobs, whether or not the store has them.
async fn upload_all(
    rpc: &Rpc,
    blobs: impl IntoIterator<Item = Source>,
    on_bytes: impl FnMut(u64) + Send,
) -> Result<(), TransferError> {
    let mut seen = HashSet::new();
    let pieces = blobs.into_iter().map(Source::into_piece);
    send(rpc, pieces.filter(|piece| seen.insert(piece.digest)).collect(), on_bytes).await
}

/// Sends `pieces`; `on_bytes` is told how many bytes are on their way so far.
async fn send(
    rpc: &Rpc,
    pieces: Vec<Piece>,
    mut on_bytes: impl FnMut(u64) + Send,
) -> Result<(), TransferError> {
    let streams = pieces.len().min(STREAMS);
    let queue = Arc::new(Queue {
        what: what(&pieces),
        pieces: Mutex::new(pieces.into()),
        sent_bytes: AtomicU64::new(0),
        moved: Notify::new(),
    });
    let mut sending = std::pin::pin!(try_join_all((0..streams).map(|_| drain(rpc, &queue))));
    loop {
        // Notified before the number is read, so that the last one is always told.
        let result = tokio::select! {
            result = &mut sending => Some(result),
            () = queue.moved.notified() => None,
        };
        on_bytes(queue.sent_bytes.load(Ordering::Relaxed));
        if let Some(result) = result {
            return result.map(drop);
        }
    }
}

/// What is sent, in words for errors.
fn what(pieces: &[Piece]) -> String {
    match pieces {
        [only] => format!("upload blob {}", only.digest),
        _ => format!("upload {} blobs", pieces.len()),
    }
}

/// Opens streams, one after the other, until nothing is left to send.
async fn drain(rpc: &Rpc, queue: &Arc<Queue>) -> Result<(), TransferError> {
    while let Some(first) = queue.next() {
        let (parts, requests) = mpsc::channel(PARTS_AHEAD);
        let reader = queue.clone();
        let reading = tokio::task::spawn_blocking(move || reader.feed(first, &parts));
        let answer = rpc.clone().upload(ReceiverStream::new(requests)).await;
        // A reader that fails ends the stream without a commit. Its error says more than the answer to that.
        let (read, fed) = match reading.await {
            Ok(read) => read,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
        read?;
        if let Err(status) = answer {
            return Err(refused(queue, status, fed).await);
        }
    }
    Ok(())
}

/// Why the store did not take what it was sent. When it says that the bytes are wrong, a file is another one
/// than was hashed; which, only reading them again tells.
async fn refused(queue: &Queue, status: Status, fed: Vec<Piece>) -> TransferError {
    if status.code() == Code::InvalidArgument {
        let changed = move || {
            fed.iter().find_map(|piece| match &piece.content {
                Content::File(place) if !place.holds(piece) => Some(place.path.to_path_buf()),
                _ => None,
            })
        };
        if let Ok(Some(path)) = tokio::task::spawn_blocking(changed).await {
            return TransferError::Changed { path };
        }
    }
    TransferError::store(queue.what.clone(), status)
}

/// What is left to send, shared by the streams.
#[derive(Debug)]
struct Queue {
    what: String,
    pieces: Mutex<VecDeque<Piece>>,
    sent_bytes: AtomicU64,
    moved: Notify,
}

impl Queue {
    fn next(&self) -> Option<Piece> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Sends blobs until the stream has had its share. Gives those that it began, too. A failed send means
    /// that the store has answered already; then the answer counts.
    fn feed(
        &self,
        first: Piece,
        parts: &mpsc::Sender<UploadRequest>,
    ) -> (Result<(), TransferError>, Vec<Piece>) {
        let begun = Instant::now();
        let mut fed = Vec::new();
        let mut open = None;
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(piece) = next {
            bytes += piece.size_bytes;
            let result = self.feed_one(&piece, parts, &mut open);
            fed.push(piece);
            match result {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => return (Err(error), fed),
            }
            let has_had_its_share = bytes >= STREAM_BYTES || begun.elapsed() >= STREAM_TIME;
            next = if has_had_its_share { None } else { self.next() };
        }
        (Ok(()), fed)
    }

    /// Sends one blob; false when nobody takes it any more. `open` is the file that the one before came from.
    fn feed_one(
        &self,
        piece: &Piece,
        parts: &mpsc::Sender<UploadRequest>,
        open: &mut Option<(Arc<Path>, File)>,
    ) -> Result<bool, TransferError> {
        let send = |part| parts.blocking_send(UploadRequest { part: Some(part) }).is_ok();
        let header =
            UploadHeader { digest: piece.digest.to_string(), size_bytes: piece.size_bytes };
        if !send(Part::Header(header)) {
            return Ok(false);
        }
        let mut offset = 0;
        while offset < piece.size_bytes {
            let want = CHUNK_BYTES.min(piece.size_bytes - offset);
            let data = match &piece.content {
                Content::Bytes(bytes) => bytes.slice(offset as usize..(offset + want) as usize),
                Content::File(place) => place.read(offset, want, open)?,
            };
            if !send(Part::Chunk(UploadChunk { offset, data })) {
                return Ok(false);
            }
            offset += want;
            self.sent_bytes.fetch_add(want, Ordering::Relaxed);
            self.moved.notify_one();
        }
        Ok(send(Part::Commit(UploadCommit {})))
    }
}

impl FilePart {
    /// Reads `want` bytes at `offset` of the part.
    fn read(
        &self,
        offset: u64,
        want: u64,
        open: &mut Option<(Arc<Path>, File)>,
    ) -> Result<Bytes, TransferError> {
        let failed = |error| TransferError::file("read", &*self.path)(error);
        let changed = || TransferError::Changed { path: self.path.to_path_buf() };
        let file = match open {
            Some((path, file)) if Arc::ptr_eq(path, &self.path) => file,
            _ => {
                let file = File::open(&self.path).map_err(failed)?;
                if file.metadata().map_err(failed)?.len() != self.file_bytes {
                    return Err(changed());
                }
                &mut open.insert((self.path.clone(), file)).1
            }
        };
        file.seek(SeekFrom::Start(self.offset + offset)).map_err(failed)?;
        let mut data = Vec::with_capacity(want as usize);
        file.take(want).read_to_end(&mut data).map_err(failed)?;
        if data.len() as u64 == want { Ok(data.into()) } else { Err(changed()) }
    }

    /// Whether the part still has the bytes of `piece`.
    fn holds(&self, piece: &Piece) -> bool {
        let digest = || -> io::Result<Digest> {
            let mut file = File::open(&self.path)?;
            file.seek(SeekFrom::Start(self.offset))?;
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(file.take(piece.size_bytes))?;
            Ok(hasher.finalize().into())
        };
        digest().is_ok_and(|digest| digest == piece.digest)
    }
}
