#![allow(clippy::unwrap_used)]

use std::{
    convert::Infallible,
    fs,
    path::PathBuf,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use framecrew_blobs::{BlobClient, FileDigest, LocalFile, Uploaded};
use framecrew_proto::v1::{
    OutputName, UploadChunk, UploadCommit, blob_store_client::BlobStoreClient,
};
use prost::Message as _;
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{service::Routes, transport::Channel};

use tonic_types::StatusExt as _;
use tower::ServiceExt as _;

use super::{
    super::{StreamLimits, connections, lookup::LookupError, status::RETRY_AFTER},
    *,
};

/// The service on a loopback socket.
struct Fixture {
    dir: TempDir,
    quota: Quota,
    channel: Channel,
    server: JoinHandle<()>,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Job 1 has frame 1, with the output `0001.png`, whose bytes are `frame`; frame 2 is not finished.
struct OneFrame;

#[tonic::async_trait]
impl OutputLookup for OneFrame {
    async fn find_output(&self, job: u64, frame: i32, name: &str) -> Result<Digest, LookupError> {
        match (job, frame, name) {
            (1, 1, "0001.png" | "") => Ok(Digest::of(b"frame")),
            (1, 1, _) => Err(LookupError::UnknownOutput),
            (1, 2, _) => Err(LookupError::NotFinished),
            (1, ..) => Err(LookupError::UnknownFrame),
            (3, ..) => Err(LookupError::Failed("/secret/path".into())),
            _ => Err(LookupError::UnknownJob),
        }
    }
}

impl Fixture {
    async fn new() -> Self {
        Self::with(1_000, Duration::from_secs(60)).await
    }

    /// One client may have so many streams, and stall for so long.
    async fn with(streams: usize, stall: Duration) -> Self {
        let limits =
            StreamLimits { per_client: streams, total: streams, stall, ..StreamLimits::default() };
        Self::within(limits).await
    }

    async fn within(limits: StreamLimits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let quota = Quota::new(limits.per_client, limits.total);
        let blobs = Blobs::open(dir.path(), None).unwrap();
        let service = server(blobs, Arc::new(OneFrame), quota.clone(), upload_permits());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Routes::new(service);
        let served = connections::serve(listener, routes, limits, std::future::pending());
        let server = tokio::spawn(served);
        let channel = Channel::from_shared(format!("http://{address}")).unwrap();
        Self { dir, quota, channel: channel.connect_lazy(), server }
    }

    fn rpc(&self) -> BlobStoreClient<Channel> {
        BlobStoreClient::new(self.channel.clone())
    }

    fn client(&self) -> BlobClient {
        BlobClient::new(self.channel.clone())
    }

    async fn store(&self, bytes: &'static [u8]) -> Digest {
        let digest = Digest::of(bytes);
        let bytes = Bytes::from_static(bytes);
        self.client().upload_bytes(bytes, digest).await.unwrap();
        digest
    }

    /// Sends the parts, then ends the stream.
    async fn upload(&self, parts: impl IntoIterator<Item = Part>) -> Result<bool, Status> {
        let parts: Vec<_> =
            parts.into_iter().map(|part| UploadRequest { part: Some(part) }).collect();
        let answer = self.rpc().upload(stream::iter(parts)).await?;
        Ok(answer.into_inner().existed)
    }

    /// The upload is refused with a violation of `field`, and nothing of it is left.
    async fn refuses(&self, field: &str, parts: impl IntoIterator<Item = Part>) {
        let status = self.upload(parts).await.unwrap_err();
        assert_violation(&status, field);
        assert!(self.files().is_empty(), "{:?}", self.files());
    }

    async fn download(&self, source: Source, offset: u64) -> Result<Vec<DownloadResponse>, Status> {
        let request = DownloadRequest { source: Some(source), offset };
        let mut messages = self.rpc().download(request).await?.into_inner();
        let mut all = Vec::new();
        while let Some(message) = messages.message().await? {
            all.push(message);
        }
        Ok(all)
    }

    async fn download_error(&self, source: Source, offset: u64) -> Code {
        self.download(source, offset).await.unwrap_err().code()
    }

    /// Every file in the store, whatever its name.
    fn files(&self) -> Vec<PathBuf> {
        let shards = fs::read_dir(self.dir.path()).unwrap();
        shards
            .flat_map(|shard| fs::read_dir(shard.unwrap().path()).unwrap())
            .map(|file| file.unwrap().path())
            .collect()
    }

    fn stored_at(&self, digest: Digest) -> PathBuf {
        let digest = digest.to_string();
        self.dir.path().join(&digest[..2]).join(&digest[2..])
    }
}

fn assert_violation(status: &Status, field: &str) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let bad_request = status.get_details_bad_request().unwrap();
    let fields: Vec<_> =
        (bad_request.field_violations.iter()).map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, [field], "{status}");
}

fn header(bytes: &[u8], size_bytes: u64) -> Part {
    Part::Header(UploadHeader { digest: Digest::of(bytes).to_string(), size_bytes })
}

fn chunk(offset: u64, data: &[u8]) -> Part {
    Part::Chunk(UploadChunk { offset, data: Bytes::copy_from_slice(data) })
}

fn commit() -> Part {
    Part::Commit(UploadCommit {})
}

fn by_digest(digest: Digest) -> Source {
    Source::Digest(digest.to_string())
}

fn output(job_id: u64, frame: i32, name: &str) -> Source {
    Source::Output(OutputName { job_id, frame, name: name.into() })
}

#[tokio::test]
async fn a_committed_upload_is_stored_and_storing_it_again_succeeds() {
    let fixture = Fixture::new().await;
    let parts = || [header(b"frame", 5), chunk(0, b"fra"), chunk(3, b"me"), commit()];
    assert!(!fixture.upload(parts()).await.unwrap());
    assert!(fixture.upload(parts()).await.unwrap());
    assert_eq!(fs::read(fixture.stored_at(Digest::of(b"frame"))).unwrap(), b"frame");
    assert_eq!(fixture.files().len(), 1);
}

#[tokio::test]
async fn an_empty_blob_travels() {
    let fixture = Fixture::new().await;
    assert!(!fixture.upload([header(b"", 0), commit()]).await.unwrap());
    let to = fixture.dir.path().join("00/empty");
    let client = fixture.client();
    client.download_file(Digest::of(b""), 0, &to, |_| {}).await.unwrap();
    assert_eq!(fs::read(to).unwrap(), b"");
    let messages = fixture.download(by_digest(Digest::of(b"")), 0).await;
    assert_eq!(messages.unwrap().len(), 1);
}

#[tokio::test]
async fn an_upload_without_a_header_first_is_refused() {
    let fixture = Fixture::new().await;
    fixture.refuses("header", [chunk(0, b"frame")]).await;
    fixture.refuses("header", [commit()]).await;
}

#[tokio::test]
async fn a_second_header_is_refused() {
    let fixture = Fixture::new().await;
    let parts = [header(b"frame", 5), header(b"frame", 5)];
    fixture.refuses("header", parts).await;
}

#[tokio::test]
async fn a_message_without_a_part_is_refused() {
    let fixture = Fixture::new().await;
    let parts = stream::iter([UploadRequest { part: None }]);
    let status = fixture.rpc().upload(parts).await.unwrap_err();
    assert_violation(&status, "part");
}

#[tokio::test]
async fn a_chunk_of_one_mebibyte_is_taken_and_a_larger_one_refused() {
    let fixture = Fixture::new().await;
    let data = vec![7; 1024 * 1024];
    let parts = [header(&data, 1 << 20), chunk(0, &data), commit()];
    assert!(!fixture.upload(parts).await.unwrap());
    fs::remove_file(fixture.stored_at(Digest::of(&data))).unwrap();

    let data = vec![8; 1024 * 1024 + 1];
    let parts = [header(&data, data.len() as u64), chunk(0, &data), commit()];
    fixture.refuses("chunk.data", parts).await;
}

#[tokio::test]
async fn a_chunk_too_large_to_decode_is_refused_in_the_same_words() {
    let fixture = Fixture::new().await;
    let data = vec![7; REQUEST_BYTES_MAX + 1];
    let parts = [header(&data, data.len() as u64), chunk(0, &data), commit()];
    fixture.refuses("chunk.data", parts).await;
}

#[tokio::test]
async fn a_gap_between_chunks_is_refused() {
    let fixture = Fixture::new().await;
    let parts = [header(b"frame", 5), chunk(0, b"fr"), chunk(3, b"me")];
    fixture.refuses("chunk.offset", parts).await;
}

#[tokio::test]
async fn more_bytes_than_declared_are_refused() {
    let fixture = Fixture::new().await;
    let parts = [header(b"frame", 5), chunk(0, b"frames")];
    fixture.refuses("chunk.data", parts).await;
}

#[tokio::test]
async fn fewer_bytes_than_declared_are_refused() {
    let fixture = Fixture::new().await;
    let parts = [header(b"frame", 5), chunk(0, b"fram"), commit()];
    fixture.refuses("commit", parts).await;
}

#[tokio::test]
async fn bytes_of_another_digest_are_refused() {
    let fixture = Fixture::new().await;
    let parts = [header(b"frame", 5), chunk(0, b"flame"), commit()];
    fixture.refuses("header.digest", parts).await;
}

#[tokio::test]
async fn a_malformed_header_is_refused_with_all_its_faults() {
    let fixture = Fixture::new().await;
    let header = UploadHeader { digest: "ABC".into(), size_bytes: u64::MAX };
    let status = fixture.upload([Part::Header(header)]).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let violations = status.get_details_bad_request().unwrap().field_violations;
    let fields: Vec<_> = violations.into_iter().map(|v| v.field).collect();
    assert_eq!(fields, ["header.digest", "header.size_bytes"]);
}

#[tokio::test]
async fn another_size_than_the_stored_blob_has_is_refused() {
    let fixture = Fixture::new().await;
    fixture.store(b"frame").await;
    let status = fixture.upload([header(b"frame", 6)]).await.unwrap_err();
    assert_violation(&status, "header.size_bytes");
}

#[tokio::test]
async fn an_upload_that_ends_without_a_commit_is_aborted_and_leaves_nothing() {
    let fixture = Fixture::new().await;
    for parts in [vec![], vec![header(b"frame", 5)], vec![header(b"frame", 5), chunk(0, b"frame")]]
    {
        let status = fixture.upload(parts).await.unwrap_err();
        assert_eq!(status.code(), Code::Aborted, "{status}");
        assert!(fixture.files().is_empty(), "{:?}", fixture.files());
    }
}

#[tokio::test]
async fn a_cancelled_upload_leaves_nothing() {
    let fixture = Fixture::new().await;
    let (parts, requests) = mpsc::channel(2);
    let mut rpc = fixture.rpc();
    let call = tokio::spawn(async move { rpc.upload(ReceiverStream::new(requests)).await });
    for part in [header(b"frame", 5), chunk(0, b"frame")] {
        let part = UploadRequest { part: Some(part) };
        parts.send(part).await.unwrap();
    }
    wait_until(|| fixture.files().len() == 1).await;
    call.abort();
    wait_until(|| fixture.files().is_empty()).await;
}

#[tokio::test]
async fn missing_digests_are_told_in_the_order_asked_for() {
    let fixture = Fixture::new().await;
    let stored = fixture.store(b"frame").await;
    let [a, b] = [Digest::of(b"a"), Digest::of(b"b")];
    let missing = fixture.client().find_missing(&[b, stored, a]).await;
    assert_eq!(missing.unwrap(), [b, a]);
}

#[tokio::test]
async fn malformed_digests_are_all_named_within_what_headers_carry() {
    let fixture = Fixture::new().await;
    let digests = vec!["x".to_owned(); 3];
    let ask = |digests| async { fixture.rpc().find_missing(FindMissingRequest { digests }).await };
    let status = ask(digests).await.unwrap_err();
    let violations = status.get_details_bad_request().unwrap().field_violations;
    let fields: Vec<_> = violations.into_iter().map(|v| v.field).collect();
    assert_eq!(fields, ["digests[0]", "digests[1]", "digests[2]"]);

    let status = ask(vec!["x".to_owned(); 5_000]).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains("4999 more"), "{status}");
}

#[tokio::test]
async fn asking_for_too_many_digests_is_refused() {
    let fixture = Fixture::new().await;
    let digests = vec![Digest::of(b"frame").to_string(); DIGESTS_MAX + 1];
    let request = FindMissingRequest { digests };
    let status = fixture.rpc().find_missing(request).await.unwrap_err();
    assert_violation(&status, "digests");

    // The client asks page by page.
    let digests = vec![Digest::of(b"frame"); 2 * DIGESTS_MAX + 1];
    let missing = fixture.client().find_missing(&digests).await.unwrap();
    assert_eq!(missing, digests);
}

#[tokio::test]
async fn a_download_starts_at_its_offset_and_tells_the_whole_size_once() {
    let fixture = Fixture::new().await;
    let bytes: &'static [u8] = vec![5; DOWNLOAD_CHUNK_BYTES_MAX + 10].leak();
    let digest = fixture.store(bytes).await;
    let messages = fixture.download(by_digest(digest), 0).await.unwrap();
    let shape = |messages: &[DownloadResponse]| -> Vec<_> {
        let shape = messages.iter().map(|m| (m.size_bytes, m.data.len()));
        shape.collect()
    };
    let size = bytes.len() as u64;
    assert_eq!(shape(&messages), [(size, 256 * 1024), (0, 10)]);

    let messages = fixture.download(by_digest(digest), size - 3).await.unwrap();
    assert_eq!(shape(&messages), [(size, 3)]);
    let messages = fixture.download(by_digest(digest), size).await.unwrap();
    assert_eq!(shape(&messages), [(size, 0)]);
    let beyond = fixture.download_error(by_digest(digest), size + 1).await;
    assert_eq!(beyond, Code::OutOfRange);
}

#[tokio::test]
async fn downloads_of_what_is_not_there_are_told_apart() {
    let fixture = Fixture::new().await;
    let unknown = by_digest(Digest::of(b"unknown"));
    assert_eq!(fixture.download_error(unknown, 0).await, Code::NotFound);
    let malformed = Source::Digest("../../etc/passwd".into());
    let status = fixture.download(malformed, 0).await.unwrap_err();
    assert_violation(&status, "digest");
    let nothing = DownloadRequest::default();
    let status = fixture.rpc().download(nothing).await.unwrap_err();
    assert_violation(&status, "source");
}

#[tokio::test]
async fn an_output_is_downloaded_by_its_name() {
    let fixture = Fixture::new().await;
    fixture.store(b"frame").await;
    for name in ["0001.png", ""] {
        let messages = fixture.download(output(1, 1, name), 0).await.unwrap();
        assert_eq!(messages[0].data, "frame");
    }
    for (source, code) in [
        (output(1, 1, "other.png"), Code::NotFound),
        (output(1, 2, ""), Code::FailedPrecondition),
        (output(1, 9, ""), Code::NotFound),
        (output(2, 1, ""), Code::NotFound),
        (output(3, 1, ""), Code::Internal),
    ] {
        let status = fixture.download(source, 0).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(!status.message().contains("secret"), "{status}");
    }
}

#[tokio::test]
async fn tampered_bytes_are_data_loss_before_the_last_chunk_and_heal_by_upload() {
    let fixture = Fixture::new().await;
    let digest = fixture.store(b"frame").await;
    for tampered in [&b"flame"[..], b"fra", b"frames", b""] {
        fs::write(fixture.stored_at(digest), tampered).unwrap();
        let error = fixture.download_error(by_digest(digest), 0).await;
        assert_eq!(error, Code::DataLoss);
        let missing = fixture.client().find_missing(&[digest]).await.unwrap();
        assert_eq!(missing, [digest]);

        fixture.store(b"frame").await;
        fixture.download(by_digest(digest), 0).await.unwrap();
    }
}

#[tokio::test]
async fn a_file_makes_the_round_trip() {
    let fixture = Fixture::new().await;
    let here = tempfile::tempdir().unwrap();
    let [from, to] = ["from", "to"].map(|name| here.path().join(name));
    let bytes: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(&from, &bytes).unwrap();
    let (digest, size_bytes) = Digest::of_file(&from).unwrap();
    let client = fixture.client();

    let mut sent = 0;
    let uploaded = client.upload_file(&from, digest, size_bytes, |bytes| sent = bytes);
    uploaded.await.unwrap();
    assert_eq!(sent, size_bytes);
    // Again: the store ignores what it has.
    let uploaded = client.upload_file(&from, digest, size_bytes, |_| {});
    uploaded.await.unwrap();

    let mut received = 0;
    let downloaded = client.download_file(digest, size_bytes, &to, |bytes| received = bytes);
    downloaded.await.unwrap();
    assert_eq!(received, size_bytes);
    assert_eq!(fs::read(to).unwrap(), bytes);
}

/// A request of so many pieces that does not end.
struct Unending {
    piece: Bytes,
    pieces: usize,
}

impl hyper::body::Body for Unending {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        if self.pieces == 0 {
            return Poll::Pending;
        }
        self.pieces -= 1;
        Poll::Ready(Some(Ok(hyper::body::Frame::data(self.piece.clone()))))
    }
}

/// The answer to a FindMissing whose request does not end.
async fn answer_to(fixture: &Fixture, piece: impl Into<Bytes>, pieces: usize) -> Status {
    let body = tonic::body::Body::new(Unending { piece: piece.into(), pieces });
    let request = tonic::codegen::http::Request::post("/framecrew.v1.BlobStore/FindMissing")
        .header("content-type", "application/grpc")
        .body(body)
        .unwrap();
    let answer = fixture.channel.clone().oneshot(request);
    let answer = timeout(Duration::from_secs(120), answer).await.unwrap().unwrap();
    Status::from_header_map(answer.headers()).unwrap()
}

#[tokio::test]
async fn a_request_that_does_not_come_or_does_not_end_holds_its_call_for_so_long_and_no_longer() {
    let request = Duration::from_millis(200);
    let limits = StreamLimits { request, ..StreamLimits::default() };
    let fixture = Fixture::within(limits).await;
    // A part of a message, and a whole one that others may follow.
    for begun in [&b"\0"[..], &[0; 5]] {
        let status = answer_to(&fixture, begun, 1).await;
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    }
    // Uploads take as long as they take, while they go on.
    let (sender, parts) = mpsc::channel(1);
    sender.send(UploadRequest { part: Some(header(b"slow", 4)) }).await.unwrap();
    let mut rpc = fixture.rpc();
    let upload = tokio::spawn(async move { rpc.upload(ReceiverStream::new(parts)).await });
    let status = answer_to(&fixture, &b"\0"[..], 1).await;
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    for part in [chunk(0, b"slow"), commit()] {
        sender.send(UploadRequest { part: Some(part) }).await.unwrap();
    }
    drop(sender);
    assert_eq!(upload.await.unwrap().unwrap().into_inner().blobs, 1);
}

#[tokio::test]
async fn a_request_that_goes_on_and_on_is_ended_by_what_it_has_sent() {
    let fixture = Fixture::new().await;
    // One message after the other: each is small enough.
    let message = FindMissingRequest { digests: vec!["x".repeat(1 << 20)] };
    let mut piece = vec![0];
    piece.extend((message.encoded_len() as u32).to_be_bytes());
    message.encode(&mut piece).unwrap();
    let status = answer_to(&fixture, piece, usize::MAX).await;
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
}

#[tokio::test]
async fn more_uploads_than_turns_all_arrive() {
    let fixture = Fixture::new().await;
    let uploads = (0..3 * UPLOADS_MAX).map(|i| {
        let client = fixture.client();
        tokio::spawn(async move {
            let bytes = Bytes::from(i.to_string());
            let digest = Digest::of(&bytes);
            client.upload_bytes(bytes, digest).await
        })
    });
    for upload in uploads.collect::<Vec<_>>() {
        upload.await.unwrap().unwrap();
    }
    assert_eq!(fixture.files().len(), 3 * UPLOADS_MAX);
}

#[test]
fn a_full_disk_says_so_and_when_to_come_back() {
    let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
    let status = Status::from(BlobError::from(full));
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.get_details_error_info().unwrap().reason, "DISK");
    let retry = status.get_details_retry_info().unwrap();
    assert_eq!(retry.retry_delay, Some(RETRY_AFTER));
}

#[tokio::test]
async fn many_blobs_go_in_one_stream_and_those_that_were_there_are_counted() {
    let fixture = Fixture::new().await;
    fixture.store(b"one").await;
    let blob = |bytes: &'static [u8]| {
        [header(bytes, bytes.len() as u64), chunk(0, bytes), commit()].into_iter()
    };
    let parts = blob(b"one").chain(blob(b"two")).chain([header(b"", 0), commit()]);
    let parts = parts.map(|part| UploadRequest { part: Some(part) });
    let answer = fixture.rpc().upload(stream::iter(parts.collect::<Vec<_>>())).await.unwrap();
    assert_eq!(answer.into_inner(), UploadResponse { existed: false, blobs: 3 });
    for bytes in [&b"one"[..], b"two", b""] {
        assert_eq!(fs::read(fixture.stored_at(Digest::of(bytes))).unwrap(), bytes);
    }
}

#[tokio::test]
async fn what_was_committed_before_a_stream_broke_is_kept() {
    let fixture = Fixture::new().await;
    let whole = [header(b"one", 3), chunk(0, b"one"), commit()];
    let half = [header(b"two", 3), chunk(0, b"tw")];
    let wrong = [header(b"two", 3), chunk(0, b"TWO"), commit()];
    for rest in [&half[..], &wrong, &[commit()]] {
        fixture.upload([&whole[..], rest].concat()).await.unwrap_err();
        assert_eq!(fixture.files(), [fixture.stored_at(Digest::of(b"one"))]);
    }

    let (parts, requests) = mpsc::channel(2);
    let mut rpc = fixture.rpc();
    let call = tokio::spawn(async move { rpc.upload(ReceiverStream::new(requests)).await });
    for part in [header(b"new", 3), chunk(0, b"new"), commit(), header(b"two", 3)] {
        parts.send(UploadRequest { part: Some(part) }).await.unwrap();
    }
    // The second blob has been begun, so the first is on its way to its name.
    wait_until(|| fixture.files().len() == 3).await;
    call.abort();
    wait_until(|| fixture.files().len() == 2).await;
    let [new, two] = [b"new", b"two"].map(|bytes| Digest::of(bytes));
    wait_until(|| fixture.stored_at(new).exists()).await;
    assert_eq!(fixture.client().find_missing(&[new, two]).await.unwrap(), [two]);
}

#[tokio::test]
async fn a_project_is_uploaded_once_and_only_what_changed_again() {
    let fixture = Fixture::new().await;
    let here = tempfile::tempdir().unwrap();
    let mut large = vec![0; 20 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut large);
    let file = |name: &str, bytes: &[u8]| {
        let path = here.path().join(name);
        fs::write(&path, bytes).unwrap();
        LocalFile::new(path.clone(), FileDigest::of_file(&path).unwrap())
    };
    let mut files: Vec<_> =
        (0..500).map(|n| file(&format!("{n}.txt"), format!("file {n}").as_bytes())).collect();
    files.push(file("large", &large));
    let blobs = 500 + files[500].chunks.len() as u64;
    let upload = async |files: &[LocalFile]| {
        let sent = fixture.client().upload_files(files.to_vec(), |_| {}).await.unwrap();
        assert!(fixture.files().iter().all(|path| !path.to_string_lossy().contains('#')));
        sent
    };
    let first = upload(&files).await;
    assert_eq!(first.blobs, blobs);
    assert_eq!(fixture.files().len() as u64, blobs);
    assert_eq!(upload(&files).await, Uploaded::default());

    large[10 << 20] ^= 1;
    files[500] = file("large", &large);
    let changed = upload(&files).await;
    assert!(changed.blobs <= 2 && changed.bytes <= 16 << 20, "{changed:?}");
}

#[tokio::test]
async fn a_reader_that_stalls_is_dropped_and_its_place_is_free() {
    let fixture = Fixture::with(2, Duration::from_millis(100)).await;
    let mut large = vec![0; 8 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut large);
    let digest = Digest::of(&large);
    fixture.client().upload_bytes(large.into(), digest).await.unwrap();
    let (parts, requests) = mpsc::channel(3);
    let mut rpc = fixture.rpc();
    let slow = tokio::spawn(async move { rpc.upload(ReceiverStream::new(requests)).await });
    wait_until(|| fixture.quota.taken() == 1).await;
    let request = DownloadRequest { source: Some(Source::Digest(digest.to_string())), offset: 0 };
    let mut stalled = fixture.rpc().download(request).await.unwrap().into_inner();
    assert_eq!(fixture.quota.taken(), 2);
    wait_until(|| fixture.quota.taken() == 1).await;
    let status = loop {
        match stalled.message().await {
            Ok(message) => assert!(message.is_some(), "it has not ended well"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Cancelled, "{status}");

    // On the same connection: there was nothing to read for the slow one, and whoever reads gets all of it.
    for part in [header(b"slow", 4), chunk(0, b"slow"), commit()] {
        parts.send(UploadRequest { part: Some(part) }).await.unwrap();
    }
    drop(parts);
    slow.await.unwrap().unwrap();
    let read = fixture.download(Source::Digest(digest.to_string()), 0).await.unwrap();
    assert_eq!(read.iter().map(|part| part.data.len()).sum::<usize>(), 8 << 20);
    wait_until(|| fixture.quota.taken() == 0).await;
}

#[tokio::test]
async fn whoever_has_too_many_streams_open_is_told_when_to_come_back() {
    let fixture = Fixture::with(2, Duration::from_secs(60)).await;
    let mut uploads = Vec::new();
    for _ in 0..2 {
        let (parts, requests) = mpsc::channel::<UploadRequest>(2);
        let mut rpc = fixture.rpc();
        let call = tokio::spawn(async move { rpc.upload(ReceiverStream::new(requests)).await });
        uploads.push((parts, call));
    }
    wait_until(|| fixture.quota.taken() == 2).await;
    let digest = Digest::of(b"frame").to_string();
    let refused = fixture.download(Source::Digest(digest), 0).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().starts_with("2 streams are open from 127.0.0.1"), "{refused}");
    let details = refused.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "STREAMS");
    assert_eq!(details.retry_info().unwrap().retry_delay, Some(RETRY_AFTER));

    // However it ends: by itself, or with its client.
    let (parts, call) = uploads.pop().unwrap();
    drop(parts);
    assert_eq!(call.await.unwrap().unwrap_err().code(), Code::Aborted);
    let (_parts, call) = uploads.pop().unwrap();
    call.abort();
    wait_until(|| fixture.quota.taken() == 0).await;
}

/// Waits for what another task will bring about.
async fn wait_until(mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(30), wait).await.unwrap();
}
