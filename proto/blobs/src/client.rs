use std::path::Path;

use bytes::{Bytes, BytesMut};
use framecrew_proto::v1::{
    FindMissingRequest, UploadChunk, UploadCommit, UploadHeader, UploadRequest,
    blob_store_client::BlobStoreClient, upload_request::Part,
};
use tokio::{
    fs::File,
    io::{AsyncRead, AsyncReadExt as _},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::{Digest, TransferError, download};

/// Digests in one `FindMissing` request: the most that the store accepts.
const DIGESTS_PER_REQUEST: usize = 10_000;

/// Bytes in one chunk of an upload; the store accepts 1 MiB. Large enough that a message's own cost is lost in
/// it, small enough that progress moves.
const CHUNK_BYTES: usize = 512 * 1024;

/// Messages that are read from disk before the link takes them, so that reading and sending overlap.
const PARTS_AHEAD: usize = 2;

/// The client side of the blob store. Cheap to clone; clones share one connection.
///
/// Set a keep-alive on the channel: it is what ends a transfer whose peer has silently gone.
#[derive(Debug, Clone)]
pub struct BlobClient {
    rpc: BlobStoreClient<Channel>,
}

impl BlobClient {
    /// Talks over `channel`.
    #[must_use]
    pub fn new(channel: Channel) -> Self {
        Self { rpc: BlobStoreClient::new(channel) }
    }

    /// Which of `digests` the store does not have, in the order given. Any number may be asked for.
    ///
    /// # Errors
    /// When the store cannot be reached or refuses.
    pub async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, TransferError> {
        const ACTION: &str = "ask which blobs are missing";
        let mut missing = Vec::new();
        for page in digests.chunks(DIGESTS_PER_REQUEST) {
            let request =
                FindMissingRequest { digests: page.iter().map(Digest::to_string).collect() };
            let answer = self.rpc.clone().find_missing(request).await;
            let answer = answer.map_err(|status| TransferError::store(ACTION, status))?;
            for digest in answer.into_inner().missing {
                missing.push(digest.parse().map_err(|error| {
                    let status = tonic::Status::internal(format!("{digest:?}: {error}"));
                    TransferError::store(ACTION, status)
                })?);
            }
        }
        Ok(missing)
    }

    /// Uploads a file whose digest and size, in bytes, are known. `on_bytes` is told how many of its bytes are
    /// on their way so far. Ends early, well, when the store has the blob already.
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
        let file = File::open(path).await.map_err(TransferError::file("read", path))?;
        self.upload(digest, size_bytes, file, path, on_bytes).await
    }

    /// Uploads bytes that are in memory.
    ///
    /// # Errors
    /// When the store cannot be reached or refuses, which it does when `digest` is not that of `bytes`.
    pub async fn upload_bytes(&self, bytes: Bytes, digest: Digest) -> Result<(), TransferError> {
        let size_bytes = bytes.len() as u64;
        self.send(digest, size_bytes, async |parts| {
            let mut offset = 0;
            let mut rest = bytes;
            while !rest.is_empty() {
                let data = rest.split_to(rest.len().min(CHUNK_BYTES));
                let sent = data.len() as u64;
                if parts.send(chunk(offset, data)).await.is_err() {
                    return Ok(());
                }
                offset += sent;
            }
            let _ = parts.send(commit()).await;
            Ok(())
        })
        .await
    }

    /// Downloads a blob of `size_bytes` bytes to the file `to`, whose folder exists. The bytes gather in a
    /// hidden file beside it, which a later call for the same blob and file continues; `to` appears only when
    /// all of it is there, matches the digest and is durable, and replaces what had that name. `on_bytes` is
    /// told how many bytes are there so far; it falls back to 0 when a resumed part proves worthless.
    ///
    /// A broken link is resumed a few times, with growing pauses, before it becomes an error.
    ///
    /// # Errors
    /// When the store cannot be reached or refuses, what arrives is not the blob, or the disk refuses.
    pub async fn download_file(
        &self,
        digest: Digest,
        size_bytes: u64,
        to: &Path,
        on_bytes: impl FnMut(u64) + Send,
    ) -> Result<(), TransferError> {
        download::to_file(&self.rpc, digest, size_bytes, to, on_bytes).await
    }

    async fn upload(
        &self,
        digest: Digest,
        size_bytes: u64,
        mut source: impl AsyncRead + Unpin + Send,
        path: &Path,
        mut on_bytes: impl FnMut(u64) + Send,
    ) -> Result<(), TransferError> {
        let changed = || TransferError::Changed { path: path.into() };
        self.send(digest, size_bytes, async |parts| {
            let mut hasher = blake3::Hasher::new();
            let mut offset = 0;
            loop {
                // One byte more than is left: a file that grew shows.
                let left = (size_bytes - offset).saturating_add(1);
                let data = read_chunk(&mut source, left)
                    .await
                    .map_err(TransferError::file("read", path))?;
                if data.is_empty() {
                    break;
                }
                let end = offset + data.len() as u64;
                if end > size_bytes {
                    return Err(changed());
                }
                hasher.update(&data);
                if parts.send(chunk(offset, data)).await.is_err() {
                    return Ok(());
                }
                offset = end;
                on_bytes(offset);
            }
            // The store would notice too, but could only say that the digest differs.
            if offset != size_bytes || Digest::from(hasher.finalize()) != digest {
                return Err(changed());
            }
            let _ = parts.send(commit()).await;
            Ok(())
        })
        .await
    }

    /// Runs one upload: `pump` feeds it what follows the header. A failed send means that the store has
    /// answered already; then the answer counts, and the pump just ends.
    async fn send(
        &self,
        digest: Digest,
        size_bytes: u64,
        pump: impl AsyncFnOnce(mpsc::Sender<UploadRequest>) -> Result<(), TransferError>,
    ) -> Result<(), TransferError> {
        let (parts, requests) = mpsc::channel(PARTS_AHEAD);
        let mut rpc = self.rpc.clone();
        let answer = async {
            rpc.upload(ReceiverStream::new(requests))
                .await
                .map_err(|status| TransferError::store(format!("upload blob {digest}"), status))
        };
        let pumped = async {
            let header = UploadHeader { digest: digest.to_string(), size_bytes };
            if parts.send(part(Part::Header(header))).await.is_err() {
                return Ok(());
            }
            pump(parts).await
        };
        // When the pump fails, dropping the call resets it: the store drops what it has.
        tokio::try_join!(pumped, answer)?;
        Ok(())
    }
}

/// Up to a chunk of bytes, and at most `limit_bytes`; empty at the end.
async fn read_chunk(
    source: &mut (impl AsyncRead + Unpin),
    limit_bytes: u64,
) -> std::io::Result<Bytes> {
    let want = usize::try_from(limit_bytes).map_or(CHUNK_BYTES, |limit| limit.min(CHUNK_BYTES));
    let mut data = BytesMut::with_capacity(want);
    let mut source = source.take(want as u64);
    while data.len() < want && source.read_buf(&mut data).await? > 0 {}
    Ok(data.freeze())
}

fn chunk(offset: u64, data: Bytes) -> UploadRequest {
    part(Part::Chunk(UploadChunk { offset, data }))
}

fn commit() -> UploadRequest {
    part(Part::Commit(UploadCommit {}))
}

fn part(part: Part) -> UploadRequest {
    UploadRequest { part: Some(part) }
}
