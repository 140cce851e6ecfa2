use std::{path::Path, time::Duration};

use framecrew_proto::{
    limits::DIGESTS_MAX,
    v1::{FindMissingRequest, blob_store_client::BlobStoreClient},
};
use tonic::{Status, transport::Channel};

use crate::{Digest, Download, TransferError, download};

/// How long one request for missing blobs may take: it carries 0.7 MB, and is answered from memory.
const FIND_DEADLINE: Duration = Duration::from_secs(60);

/// The client side of the blob store. Cheap to clone; clones share one connection.
///
/// Set a keep-alive on the channel: it is what ends a transfer whose peer has silently gone.
#[derive(Debug, Clone)]
pub struct BlobClient {
    pub(crate) rpc: BlobStoreClient<Channel>,
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
        for page in digests.chunks(DIGESTS_MAX) {
            let request =
                FindMissingRequest { digests: page.iter().map(Digest::to_string).collect() };
            let mut rpc = self.rpc.clone();
            let answer = tokio::time::timeout(FIND_DEADLINE, rpc.find_missing(request)).await;
            let answer = answer.unwrap_or_else(|_| {
                let seconds = FIND_DEADLINE.as_secs();
                Err(Status::unavailable(format!("no answer within {seconds} s")))
            });
            let answer = answer.map_err(|status| TransferError::store(ACTION, status))?;
            for digest in answer.into_inner().missing {
                missing.push(digest.parse().map_err(|error| {
                    let status = Status::internal(format!("{digest:?}: {error}"));
                    TransferError::store(ACTION, status)
                })?);
            }
        }
        Ok(missing)
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
        self.download(digest, size_bytes, to, on_bytes).await?.publish().await
    }

    /// Does the same, but leaves it to the caller to let `to` appear.
    ///
    /// # Errors
    /// When the store cannot be reached or refuses, what arrives is not the blob, or the disk refuses.
    pub async fn download(
        &self,
        digest: Digest,
        size_bytes: u64,
        to: &Path,
        on_bytes: impl FnMut(u64) + Send,
    ) -> Result<Download, TransferError> {
        download::whole(&self.rpc, digest, size_bytes, to, on_bytes).await
    }
}
