//! The `BlobStore` service: uploads and downloads of blobs.

use std::{sync::Arc, time::Duration};

use framecrew_blobs::Digest;
use framecrew_proto::{
    limits::{DIGESTS_MAX, DOWNLOAD_CHUNK_BYTES_MAX, UPLOAD_CHUNK_BYTES_MAX},
    v1::{
        DownloadRequest, DownloadResponse, FindMissingRequest, FindMissingResponse, UploadHeader,
        UploadRequest, UploadResponse,
        blob_store_server::{BlobStore, BlobStoreServer},
        download_request::Source,
        upload_request::Part,
    },
};
use futures::stream::{self, BoxStream};
use tokio::time::timeout;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{
    lookup::OutputLookup,
    quotas::{Permitted, Quota, UploadPermits, admit},
    status::{exhausted, unavailable},
};
use crate::{
    blobs::{BlobError, Blobs, Ended, Incoming},
    convert::violations::{Violations, invalid},
};

/// Bytes in a request message. Well above a chunk, so that a chunk that is too large gets an error that says so.
const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes in a response message: a chunk or a list of digests, and the fields around them.
const RESPONSE_BYTES_MAX: usize = 1024 * 1024;

/// Bytes in a blob: more than any project or frame, less than an overflow.
const BLOB_BYTES_MAX: u64 = 1 << 40;

/// Uploads that run at once; each holds 5 MiB at most, and a thread. More would only share the same disk.
const UPLOADS_MAX: usize = 64;

/// Uploads that are reserved for machines with nodes: a quarter. However much people upload, finished frames get
/// through.
const UPLOADS_OF_NODES: usize = UPLOADS_MAX / 4;

/// How long an upload waits for a permit before it is refused.
const PERMIT_WITHIN: Duration = Duration::from_secs(10);

/// How long an upload may send nothing. Then its permit goes to another.
const UPLOAD_IDLE: Duration = Duration::from_secs(60);

/// The permits of uploads.
pub(crate) fn upload_permits() -> UploadPermits {
    UploadPermits::new(UPLOADS_MAX, UPLOADS_OF_NODES)
}

/// The service, with the limits that its messages need.
pub(crate) fn server(
    blobs: Blobs,
    outputs: Arc<dyn OutputLookup>,
    quota: Quota,
    permits: UploadPermits,
) -> BlobStoreServer<BlobStoreService> {
    let service = BlobStoreService { blobs, outputs, quota, permits };
    BlobStoreServer::new(service)
        .max_decoding_message_size(REQUEST_BYTES_MAX)
        .max_encoding_message_size(RESPONSE_BYTES_MAX)
}

/// Implements `BlobStore`.
pub(crate) struct BlobStoreService {
    blobs: Blobs,
    outputs: Arc<dyn OutputLookup>,
    quota: Quota,
    permits: UploadPermits,
}

#[tonic::async_trait]
impl BlobStore for BlobStoreService {
    async fn find_missing(
        &self,
        request: Request<FindMissingRequest>,
    ) -> Result<Response<FindMissingResponse>, Status> {
        let digests = request.into_inner().digests;
        let mut violations = Violations::default();
        if digests.len() > DIGESTS_MAX {
            violations.add("digests", format!("more than {DIGESTS_MAX} are asked for"));
        }
        let parsed: Vec<_> = (digests.iter().take(DIGESTS_MAX).enumerate())
            .filter_map(|(i, text)| violations.digest(format!("digests[{i}]"), text))
            .collect();
        violations.check()?;

        let missing = self.blobs.missing(parsed).await?;
        let missing = missing.iter().map(Digest::to_string).collect();
        Ok(Response::new(FindMissingResponse { missing }))
    }

    async fn upload(
        &self,
        request: Request<Streaming<UploadRequest>>,
    ) -> Result<Response<UploadResponse>, Status> {
        let permit = admit(&self.quota, &request)?;
        let _upload_permit = match timeout(PERMIT_WITHIN, self.permits.take(permit.client())).await
        {
            Ok(Ok(upload_permit)) => upload_permit,
            Ok(Err(_)) => return Err(unavailable("the blob store is closing; try again")),
            Err(_) => return Err(exhausted("UPLOADS", "too many uploads run at once")),
        };
        let incoming = self.blobs.receive();
        let received = receive(&mut Parts(request.into_inner()), &incoming).await;
        // Committed blobs are stored, even if a later one is refused.
        match (incoming.finish().await, received) {
            (Err(error), _) => Err(error.into()),
            (Ok(_), Err(Cut::Refused(status))) => Err(status),
            (Ok(_), Err(Cut::Ended)) => Err(Status::internal("the upload ended without a reason")),
            (Ok(stored), Ok(())) => Ok(Response::new(UploadResponse {
                existed: stored.existed == stored.blobs,
                blobs: stored.blobs,
            })),
        }
    }

    type DownloadStream = Permitted<BoxStream<'static, Result<DownloadResponse, Status>>>;

    async fn download(
        &self,
        request: Request<DownloadRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        let permit = admit(&self.quota, &request)?;
        let DownloadRequest { source, offset } = request.into_inner();
        let digest = match source {
            Some(Source::Digest(text)) => {
                let mut violations = Violations::default();
                let digest = violations.digest("digest", &text);
                violations.check()?;
                digest
                    .ok_or_else(|| Status::internal("a digest without violations did not parse"))?
            }
            Some(Source::Output(output)) => {
                self.outputs.find_output(output.job_id, output.frame, &output.name).await?
            }
            None => return Err(invalid("source", "names no blob")),
        };
        let size_bytes = self.blobs.size_bytes(digest).await?;
        let size_bytes = size_bytes.ok_or(BlobError::Missing(digest))?;
        if offset > size_bytes {
            return Err(Status::out_of_range(format!(
                "offset {offset} lies beyond the blob's {size_bytes} bytes"
            )));
        }
        let outgoing = Outgoing {
            blobs: self.blobs.clone(),
            digest,
            size_bytes,
            sent_to: None,
            offset,
            hasher: (offset == 0).then(blake3::Hasher::new),
        };
        let chunks = stream::try_unfold(outgoing, Outgoing::next);
        Ok(Response::new(Permitted::new(Box::pin(chunks), permit)))
    }
}

/// The messages of an upload.
struct Parts(Streaming<UploadRequest>);

impl Parts {
    async fn next(&mut self) -> Result<Option<Part>, Status> {
        let message = timeout(UPLOAD_IDLE, self.0.message()).await.map_err(|_| {
            Status::deadline_exceeded(format!(
                "the upload sent nothing for {} seconds",
                UPLOAD_IDLE.as_secs()
            ))
        })?;
        match message {
            Ok(Some(UploadRequest { part: Some(part) })) => Ok(Some(part)),
            Ok(Some(UploadRequest { part: None })) => {
                Err(invalid("part", "neither header, chunk nor commit"))
            }
            Ok(None) => Ok(None),
            // From tonic's decoder, which knows only the size of the message.
            Err(status) if status.code() == Code::OutOfRange => Err(chunk_too_large()),
            Err(status) if status.code() == Code::Cancelled => Err(not_committed()),
            Err(status) => Err(status),
        }
    }
}

fn parse_header(header: &UploadHeader) -> Result<(Digest, u64), Status> {
    let mut violations = Violations::default();
    let digest = violations.digest("header.digest", &header.digest);
    if header.size_bytes > BLOB_BYTES_MAX {
        let fault = format!("a blob has {BLOB_BYTES_MAX} bytes at most");
        violations.add("header.size_bytes", fault);
    }
    violations.check()?;
    let digest =
        digest.ok_or_else(|| Status::internal("a digest without violations did not parse"))?;
    Ok((digest, header.size_bytes))
}

/// Why an upload stops.
enum Cut {
    /// The client made a mistake or disconnected.
    Refused(Status),
    /// The store failed. `Incoming::finish` returns its error.
    Ended,
}

impl From<Status> for Cut {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

impl From<Ended> for Cut {
    fn from(_: Ended) -> Self {
        Self::Ended
    }
}

/// Receives blobs until the stream ends.
async fn receive(parts: &mut Parts, incoming: &Incoming) -> Result<(), Cut> {
    let mut is_first = true;
    loop {
        let header = match parts.next().await? {
            Some(Part::Header(header)) => header,
            Some(_) => return Err(invalid("header", "must come first, for each blob").into()),
            None if is_first => return Err(not_committed().into()),
            None => return Ok(()),
        };
        is_first = false;
        let (digest, size_bytes) = parse_header(&header)?;
        incoming.begin(digest, size_bytes).await?;
        receive_bytes(size_bytes, parts, incoming).await?;
    }
}

/// Receives the chunks up to the commit. The end of the stream is no commit, because a cancelled upload ends in the same
/// way.
async fn receive_bytes(size_bytes: u64, parts: &mut Parts, incoming: &Incoming) -> Result<(), Cut> {
    let mut received = 0;
    loop {
        match parts.next().await? {
            Some(Part::Chunk(chunk)) => {
                let len_bytes = chunk.data.len() as u64;
                if chunk.data.len() > UPLOAD_CHUNK_BYTES_MAX {
                    return Err(chunk_too_large().into());
                }
                if chunk.offset != received {
                    let fault = format!("is {}, but the next byte is {received}", chunk.offset);
                    return Err(invalid("chunk.offset", fault).into());
                }
                if len_bytes > size_bytes - received {
                    let fault = format!("more than the {size_bytes} bytes that were declared");
                    return Err(invalid("chunk.data", fault).into());
                }
                incoming.write(chunk.data).await?;
                received += len_bytes;
            }
            Some(Part::Commit(_)) if received < size_bytes => {
                let fault = format!("after {received} of the {size_bytes} bytes declared");
                return Err(invalid("commit", fault).into());
            }
            Some(Part::Commit(_)) => return Ok(incoming.commit().await?),
            Some(Part::Header(_)) => {
                return Err(invalid("header", "comes before the commit of the blob before").into());
            }
            None => return Err(not_committed().into()),
        }
    }
}

/// A download. It holds no file open, so that a stalled reader costs the server next to nothing.
struct Outgoing {
    blobs: Blobs,
    digest: Digest,
    size_bytes: u64,
    offset: u64,
    sent_to: Option<u64>,
    /// `None` for a part of a blob, which cannot be checked.
    hasher: Option<blake3::Hasher>,
}

impl Outgoing {
    async fn next(mut self) -> Result<Option<(DownloadResponse, Self)>, Status> {
        if self.sent_to == Some(self.size_bytes) {
            return Ok(None);
        }
        let start = self.sent_to.unwrap_or(self.offset);
        let end = self.size_bytes.min(start + DOWNLOAD_CHUNK_BYTES_MAX as u64);
        let data = if start == end {
            bytes::Bytes::new()
        } else {
            self.blobs.read_range(self.digest, start..end).await?
        };
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&data);
            // Before the last chunk is sent: a complete download is a correct one.
            if end == self.size_bytes && Digest::from(hasher.finalize()) != self.digest {
                return Err(self.blobs.damaged(self.digest).into());
            }
        }
        let size_bytes = match self.sent_to {
            None => self.size_bytes,
            Some(_) => 0,
        };
        self.sent_to = Some(end);
        Ok(Some((DownloadResponse { size_bytes, data }, self)))
    }
}

fn chunk_too_large() -> Status {
    let fault = format!("larger than {UPLOAD_CHUNK_BYTES_MAX} bytes");
    invalid("chunk.data", fault)
}

fn not_committed() -> Status {
    Status::aborted("the upload ended without a commit; what was committed before is stored")
}

#[cfg(test)]
mod tests;
