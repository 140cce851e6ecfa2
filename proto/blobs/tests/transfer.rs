//! The blob client against a store that misbehaves on order.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use framecrew_blobs::{BlobClient, Digest, TransferError};
use framecrew_proto::v1::{
    DownloadRequest, DownloadResponse, FindMissingRequest, FindMissingResponse, UploadRequest,
    UploadResponse,
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
    uploaded: Arc<Mutex<Vec<u8>>>,
    refusal: Option<Code>,
}

#[tonic::async_trait]
impl BlobStore for FakeStore {
    async fn find_missing(
        &self,
        _: Request<FindMissingRequest>,
    ) -> Result<Response<FindMissingResponse>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn upload(
        &self,
        request: Request<Streaming<UploadRequest>>,
    ) -> Result<Response<UploadResponse>, Status> {
        if let Some(code) = self.refusal {
            return Err(Status::new(code, "refused"));
        }
        let mut parts = request.into_inner();
        let mut bytes = Vec::new();
        while let Some(message) = parts.message().await? {
            match message.part {
                Some(Part::Chunk(chunk)) => {
                    assert_eq!(chunk.offset, bytes.len() as u64);
                    bytes.extend_from_slice(&chunk.data);
                }
                Some(Part::Commit(_)) => {
                    *self.uploaded.lock().unwrap() = bytes;
                    return Ok(Response::new(UploadResponse { existed: false }));
                }
                _ => {}
            }
        }
        Err(Status::aborted("no commit"))
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
    assert_eq!(*fixture.store.uploaded.lock().unwrap(), bytes);
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
        assert_eq!(*fixture.store.uploaded.lock().unwrap(), b"");
    }
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
