//! The blob client against a store that misbehaves on order.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use framecrew_blobs::{BlobClient, Digest, FileDigest, LocalFile, Source, TransferError};
use framecrew_proto::v1::{
    DownloadRequest, DownloadResponse, FindMissingRequest, FindMissingResponse, UploadHeader,
    UploadRequest, UploadResponse,
    blob_store_server::{BlobStore, BlobStoreServer},
    upload_request::Part,
};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::{Iter, iter, wrappers::TcpListenerStream};
use tonic::{Code, Request, Response, Status, Streaming, transport::Channel, transport::Server};

const BLOB: &[u8] = b"the bytes of a frame";

/// What the store does with a download: sends `bytes` from the offset up to `until`, then ends with `end`.
#[derive(Clone)]
struct Script {
    bytes: &'static [u8],
    until: usize,
    end: Option<Code>,
}

const GOOD: Script = Script { bytes: BLOB, until: BLOB.len(), end: None };

/// A store with one script per download (the last one repeats), which notes the offsets asked for.
#[derive(Clone, Default)]
struct FakeStore {
    scripts: Arc<Mutex<Vec<Script>>>,
    offsets: Arc<Mutex<Vec<u64>>>,
    /// What was committed, in that order.
    uploaded: Arc<Mutex<Vec<Vec<u8>>>>,
    refusal: Option<Code>,
    /// Streams break after so many commits, each of them once.
    breaks_after: Arc<Mutex<Vec<usize>>>,
}

#[tonic::async_trait]
impl BlobStore for FakeStore {
    async fn find_missing(
        &self,
        request: Request<FindMissingRequest>,
    ) -> Result<Response<FindMissingResponse>, Status> {
        let uploaded: Vec<_> =
            self.uploaded.lock().unwrap().iter().map(|blob| Digest::of(blob).to_string()).collect();
        let mut missing = request.into_inner().digests;
        missing.retain(|digest| !uploaded.contains(digest));
        Ok(Response::new(FindMissingResponse { missing }))
    }

    async fn upload(
        &self,
        request: Request<Streaming<UploadRequest>>,
    ) -> Result<Response<UploadResponse>, Status> {
        if let Some(code) = self.refusal {
            return Err(Status::new(code, "refused"));
        }
        let mut parts = request.into_inner();
        let breaks_after = self.breaks_after.lock().unwrap().pop();
        let mut blobs = 0;
        let mut open: Option<(UploadHeader, Vec<u8>)> = None;
        while let Some(message) = parts.message().await? {
            match message.part.unwrap() {
                Part::Header(header) => {
                    assert!(open.is_none());
                    open = Some((header, Vec::new()));
                }
                Part::Chunk(chunk) => {
                    let (_, bytes) = open.as_mut().unwrap();
                    assert_eq!(chunk.offset, bytes.len() as u64);
                    bytes.extend_from_slice(&chunk.data);
                }
                Part::Commit(_) => {
                    let (header, bytes) = open.take().unwrap();
                    assert_eq!(bytes.len() as u64, header.size_bytes);
                    if Digest::of(&bytes).to_string() != header.digest {
                        return Err(Status::invalid_argument("the digest differs"));
                    }
                    self.uploaded.lock().unwrap().push(bytes);
                    blobs += 1;
                    if breaks_after == Some(blobs) {
                        return Err(Status::unavailable("scripted"));
                    }
                }
            }
        }
        if open.is_some() {
            return Err(Status::aborted("no commit"));
        }
        Ok(Response::new(UploadResponse { existed: false, blobs: blobs as u64 }))
    }

    type DownloadStream = Iter<std::vec::IntoIter<Result<DownloadResponse, Status>>>;

    async fn download(
        &self,
        request: Request<DownloadRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        let offset = request.into_inner().offset;
        self.offsets.lock().unwrap().push(offset);
        let script = {
            let mut scripts = self.scripts.lock().unwrap();
            match scripts.len() {
                1 => scripts[0].clone(),
                _ => scripts.remove(0),
            }
        };
        let from = usize::try_from(offset).unwrap().min(script.until);
        let mut messages = vec![Ok(DownloadResponse {
            size_bytes: script.bytes.len() as u64,
            data: Bytes::from_static(&script.bytes[from..script.until]),
        })];
        messages.extend(script.end.map(|code| Err(Status::new(code, "scripted"))));
        Ok(Response::new(iter(messages)))
    }
}

struct Fixture {
    store: FakeStore,
    client: BlobClient,
    dir: TempDir,
    server: JoinHandle<()>,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Fixture {
    async fn new(scripts: impl Into<Vec<Script>>) -> Self {
        Self::serve(FakeStore {
            scripts: Arc::new(Mutex::new(scripts.into())),
            ..FakeStore::default()
        })
        .await
    }

    async fn serve(store: FakeStore) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = BlobStoreServer::new(store.clone());
        let server = tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let server = Server::builder().add_service(service);
            server.serve_with_incoming(incoming).await.unwrap();
        });
        let channel = Channel::from_shared(format!("http://{address}")).unwrap();
        Self {
            store,
            client: BlobClient::new(channel.connect_lazy()),
            dir: tempfile::tempdir().unwrap(),
            server,
        }
    }

    fn target(&self) -> PathBuf {
        self.dir.path().join("0001.png")
    }

    /// Where the bytes of a download gather.
    fn hidden(&self) -> PathBuf {
        let digest = Digest::of(BLOB).to_string();
        let name = format!(".0001.png.{}.part", &digest[..16]);
        self.dir.path().join(name)
    }

    async fn download(&self) -> Result<(), TransferError> {
        let digest = Digest::of(BLOB);
        let size_bytes = BLOB.len() as u64;
        self.client.download_file(digest, size_bytes, &self.target(), |_| {}).await
    }

    async fn assert_downloads(&self) {
        self.download().await.unwrap();
        assert_eq!(fs::read(self.target()).unwrap(), BLOB);
        assert_eq!(self.names(), ["0001.png"]);
    }

    fn names(&self) -> Vec<String> {
        fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    /// A file with this content.
    fn file(&self, name: &str, content: &[u8]) -> LocalFile {
        let path = self.dir.path().join(name);
        fs::write(&path, content).unwrap();
        let content = FileDigest::of_file(&path).unwrap();
        LocalFile::new(path, content)
    }

    fn uploaded(&self) -> Vec<Vec<u8>> {
        self.store.uploaded.lock().unwrap().clone()
    }

    fn offsets(&self) -> Vec<u64> {
        self.store.offsets.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_stopped() {
    let broken = |until, end| Script { bytes: BLOB, until, end };
    // A clean end that comes too early is a broken link too.
    let scripts = [broken(4, Some(Code::Unavailable)), broken(9, None), GOOD];
    let fixture = Fixture::new(scripts).await;
    fixture.assert_downloads().await;
    assert_eq!(fixture.offsets(), [0, 4, 9]);
}

#[tokio::test]
async fn a_download_that_never_gets_on_gives_up_and_a_later_one_continues_it() {
    let stuck = Script { bytes: BLOB, until: 4, end: Some(Code::Unavailable) };
    let fixture = Fixture::new([stuck]).await;
    let error = fixture.download().await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    let tries = fixture.offsets().len();
    assert!((2..20).contains(&tries), "{tries}");
    assert!(!fixture.target().exists());

    *fixture.store.scripts.lock().unwrap() = vec![GOOD];
    fixture.assert_downloads().await;
    assert_eq!(fixture.offsets()[tries..], [4]);
}

#[tokio::test]
async fn a_worthless_leftover_is_replaced() {
    let fixture = Fixture::new([GOOD]).await;
    for leftover in [&b"THE "[..], b"THE BYTES OF A FRAME", b"far too many bytes for this blob"] {
        fs::write(fixture.hidden(), leftover).unwrap();
        fixture.assert_downloads().await;
        fs::remove_file(fixture.target()).unwrap();
    }
}

#[tokio::test]
async fn a_complete_leftover_is_published_without_another_byte() {
    let fixture = Fixture::new([GOOD]).await;
    fs::write(fixture.hidden(), BLOB).unwrap();
    fixture.assert_downloads().await;
    assert_eq!(fixture.offsets(), [0; 0]);
}

#[tokio::test]
async fn damaged_bytes_are_never_published() {
    let flame = Script { bytes: b"the bytes of a flame", ..GOOD };
    let fixture = Fixture::new([flame]).await;
    fs::write(fixture.target(), "what was there").unwrap();
    let error = fixture.download().await.unwrap_err();
    assert!(matches!(error, TransferError::Damaged { .. }), "{error}");
    assert_eq!(fixture.names(), ["0001.png"]);
    assert_eq!(fs::read(fixture.target()).unwrap(), b"what was there");
}

#[tokio::test]
async fn a_blob_of_another_size_is_refused() {
    let longer = Script { bytes: b"the bytes of a frame and more", until: 3, end: None };
    let fixture = Fixture::new([longer]).await;
    let error = fixture.download().await.unwrap_err();
    assert!(matches!(error, TransferError::WrongSize { .. }), "{error}");
    assert_eq!(fixture.names(), [""; 0]);
}

#[tokio::test]
async fn data_loss_is_final() {
    let lost = Script { until: 4, end: Some(Code::DataLoss), ..GOOD };
    let fixture = Fixture::new([lost]).await;
    let error = fixture.download().await.unwrap_err();
    assert!(!error.is_transient());
    assert_eq!(error.status().unwrap().code(), Code::DataLoss);
    assert_eq!(fixture.offsets(), [0]);
    assert_eq!(fixture.names(), [""; 0]);
}

#[tokio::test]
async fn two_downloads_do_not_write_the_same_file() {
    let fixture = Fixture::new([GOOD]).await;
    let other = fs::File::create(fixture.hidden()).unwrap();
    other.lock().unwrap();
    let error = fixture.download().await.unwrap_err();
    assert!(matches!(error, TransferError::Busy { .. }), "{error}");
    drop(other);
    fixture.assert_downloads().await;
}

#[tokio::test]
async fn a_file_of_many_chunks_is_uploaded_whole_from_another_task() {
    let fixture = Fixture::new([GOOD]).await;
    let path = fixture.dir.path().join("big");
    let bytes: Vec<u8> = (0..700_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(&path, &bytes).unwrap();
    let (digest, size_bytes) = Digest::of_file(&path).unwrap();
    let client = fixture.client.clone();
    let upload = async move { client.upload_file(&path, digest, size_bytes, |_| {}).await };
    tokio::spawn(upload).await.unwrap().unwrap();
    assert_eq!(fixture.uploaded(), [bytes]);
}

#[tokio::test]
async fn a_file_that_changed_since_it_was_hashed_is_not_stored() {
    let fixture = Fixture::new([GOOD]).await;
    let path = fixture.dir.path().join("project.blend");
    for changed in ["the bytes of a FRAME", "the bytes", "the bytes of a frame, and"] {
        fs::write(&path, changed).unwrap();
        let (digest, size_bytes) = (Digest::of(BLOB), BLOB.len() as u64);
        let upload = fixture.client.upload_file(&path, digest, size_bytes, |_| {});
        let error = upload.await.unwrap_err();
        assert!(matches!(error, TransferError::Changed { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("project.blend changed"), "{text}");
        assert_eq!(fixture.uploaded(), [[0; 0]; 0]);
    }
}

#[tokio::test]
async fn files_are_sent_once_each_and_only_what_is_missing() {
    let fixture = Fixture::new([GOOD]).await;
    let large = noise(12 << 20);
    let files = vec![
        fixture.file("one", b"one"),
        fixture.file("same", b"one"),
        fixture.file("large", &large),
        fixture.file("empty", b""),
    ];
    assert!(files[2].chunks.len() > 1);
    let mut progress = Vec::new();
    let upload = fixture.client.upload_files(files.clone(), |now| progress.push(now));
    let sent = upload.await.unwrap();
    assert_eq!(sent.blobs, 2 + files[2].chunks.len() as u64);
    assert_eq!(sent.bytes, 3 + large.len() as u64);
    assert_eq!(fixture.uploaded().len() as u64, sent.blobs);
    let last = progress.last().unwrap();
    assert_eq!((last.sent_bytes, last.total_bytes), (sent.bytes, sent.bytes));
    assert!(progress.is_sorted_by_key(|now| now.sent_bytes));

    let mut files = files;
    files.push(fixture.file("new", b"new"));
    let sent = fixture.client.upload_files(files, |_| {}).await.unwrap();
    assert_eq!((sent.blobs, sent.bytes), (1, 3));
}

#[tokio::test]
async fn a_broken_upload_goes_on_with_what_had_not_arrived() {
    let store =
        FakeStore { breaks_after: Arc::new(Mutex::new(vec![1; 6])), ..FakeStore::default() };
    let fixture = Fixture::serve(store).await;
    let files = (0..40).map(|n| fixture.file(&format!("{n}"), format!("file {n}").as_bytes()));
    let sent = fixture.client.upload_files(files.collect::<Vec<_>>(), |_| {}).await.unwrap();
    assert_eq!(sent.blobs, 40);
    let mut uploaded = fixture.uploaded();
    uploaded.sort();
    uploaded.dedup();
    assert_eq!(uploaded.len(), 40);
    // What another stream was sending when one broke may go twice.
    assert!(fixture.uploaded().len() < 60, "{}", fixture.uploaded().len());
}

#[tokio::test]
async fn a_file_that_changed_is_named_and_the_others_are_kept() {
    let fixture = Fixture::new([GOOD]).await;
    let files = vec![fixture.file("one", b"one"), fixture.file("two", b"two")];
    for changed in ["TWO", "to", "two and more"] {
        fs::write(&files[1].path, changed).unwrap();
        let error = fixture.client.upload_files(files.clone(), |_| {}).await.unwrap_err();
        assert!(matches!(error, TransferError::Changed { .. }), "{error}");
        assert!(error.to_string().contains("two changed"), "{error}");
    }
    assert!(fixture.uploaded().iter().all(|blob| blob == b"one"));
}

#[tokio::test]
async fn blobs_from_files_and_from_memory_go_in_one_call() {
    let fixture = Fixture::new([GOOD]).await;
    let LocalFile { path, digest, size_bytes, .. } = fixture.file("0001.png", b"picture");
    let preview = Bytes::from_static(b"preview");
    let sources = [
        Source::File { path, digest, size_bytes },
        Source::Bytes { digest: Digest::of(&preview), bytes: preview },
    ];
    fixture.client.upload_all(sources).await.unwrap();
    let mut uploaded = fixture.uploaded();
    uploaded.sort();
    assert_eq!(uploaded, [b"picture", b"preview"]);
}

/// Bytes that do not repeat.
fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

#[tokio::test]
async fn a_refused_upload_says_who_refused_it_and_why() {
    let store = FakeStore { refusal: Some(Code::ResourceExhausted), ..FakeStore::default() };
    let fixture = Fixture::serve(store).await;
    let bytes = Bytes::from(vec![7; 8 << 20]);
    let digest = Digest::of(&bytes);
    let upload = fixture.client.upload_bytes(bytes, digest);
    let error = upload.await.unwrap_err();
    assert!(error.is_transient());
    let text = format!("cannot upload blob {digest}: the blob store says: refused");
    assert_eq!(error.to_string(), text);
}

#[tokio::test]
async fn a_store_that_is_not_there_is_transient_and_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let channel = Channel::from_shared(format!("http://{address}")).unwrap();
    let client = BlobClient::new(channel.connect_lazy());
    let error = client.find_missing(&[Digest::of(b"")]).await.unwrap_err();
    assert!(error.is_transient());
    let text = error.to_string();
    assert!(text.contains("no connection to the blob store"), "{text}");
}
