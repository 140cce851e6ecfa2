#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use framecrew_proto::v1::{
    DownloadRequest, DownloadResponse, FindMissingRequest, FindMissingResponse, UploadRequest,
    UploadResponse,
    blob_store_server::{BlobStore, BlobStoreServer},
    download_request::Source,
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_stream::{Iter, iter, wrappers::TcpListenerStream};
use tokio_util::task::AbortOnDropHandle;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Channel, Server},
};

use super::{
    cache::{blobs, finished},
    *,
};

/// A store that notes what is downloaded. One blob may be withheld.
#[derive(Clone, Default)]
struct FakeStore {
    blobs: Arc<Mutex<HashMap<Digest, Bytes>>>,
    downloads: Arc<Mutex<Vec<Digest>>>,
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
        _: Request<Streaming<UploadRequest>>,
    ) -> Result<Response<UploadResponse>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    type DownloadStream = Iter<std::vec::IntoIter<Result<DownloadResponse, Status>>>;

    async fn download(
        &self,
        request: Request<DownloadRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        let DownloadRequest { source, offset } = request.into_inner();
        let Some(Source::Digest(digest)) = source else { panic!("{source:?}") };
        let digest = digest.parse().unwrap();
        self.downloads.lock().unwrap().push(digest);
        let blob = self.blobs.lock().unwrap().get(&digest).cloned();
        let blob = blob.ok_or_else(|| Status::not_found("withheld"))?;
        let size_bytes = blob.len() as u64;
        let data = blob.slice(offset as usize..);
        Ok(Response::new(iter(vec![Ok(DownloadResponse { size_bytes, data })])))
    }
}

struct Fixture {
    folder: TempDir,
    store: FakeStore,
    projects: Projects,
    channel: Channel,
    _server: AbortOnDropHandle<()>,
}

impl Fixture {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let store = FakeStore::default();
        let service = BlobStoreServer::new(store.clone());
        let server = tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let server = Server::builder().add_service(service);
            server.serve_with_incoming(incoming).await.unwrap();
        });
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        let folder = tempfile::tempdir().unwrap();
        let projects =
            Projects::new(folder.path().to_owned(), BlobClient::new(channel.clone()), u64::MAX);
        Self { folder, store, projects, channel, _server: AbortOnDropHandle::new(server) }
    }

    /// The node's next life.
    fn restart(&mut self) {
        let blobs = BlobClient::new(self.channel.clone());
        self.projects = Projects::new(self.folder.path().to_owned(), blobs, u64::MAX);
    }

    /// Stores bytes as one blob.
    fn whole(&self, bytes: &[u8]) -> FileDigest {
        let digest = Digest::of(bytes);
        self.store.blobs.lock().unwrap().insert(digest, Bytes::copy_from_slice(bytes));
        FileDigest { digest, size_bytes: bytes.len() as u64, chunks: Vec::new() }
    }

    /// Stores these pieces of a file.
    fn pieces(&self, pieces: &[&[u8]]) -> FileDigest {
        let chunks = pieces.iter().map(|piece| {
            let FileDigest { digest, size_bytes, .. } = self.whole(piece);
            Chunk { digest, size_bytes }
        });
        let chunks: Vec<_> = chunks.collect();
        let whole = pieces.concat();
        FileDigest { digest: Digest::of(&whole), size_bytes: whole.len() as u64, chunks }
    }

    async fn lay_out(&self, files: &[(&str, &FileDigest)]) -> Result<Arc<Layout>, LayoutError> {
        self.projects.lay_out(&project(files)).await
    }

    /// What was downloaded since the last time, in order.
    fn downloaded(&self) -> Vec<Digest> {
        std::mem::take(&mut *self.store.downloads.lock().unwrap())
    }
}

fn project(files: &[(&str, &FileDigest)]) -> Project {
    let file = |(path, content): &(&str, &FileDigest)| (path.parse().unwrap(), (*content).clone());
    Project { blend: files[0].0.parse().unwrap(), files: files.iter().map(file).collect() }
}

fn read(layout: &Layout, path: &str) -> Vec<u8> {
    fs::read(layout.path(&path.parse().unwrap())).unwrap()
}

fn digests(pieces: &[&[u8]]) -> Vec<Digest> {
    pieces.iter().map(|piece| Digest::of(piece)).collect()
}

#[tokio::test]
async fn a_project_is_laid_out_from_whole_files_and_from_chunks() {
    let fixture = Fixture::new().await;
    let blend = fixture.pieces(&[b"one", b"two", b"one", b"one", b"three"]);
    let (wood, empty) = (fixture.whole(b"wood"), fixture.whole(b""));
    let files = [
        ("shot.blend", &blend),
        ("tex/wood.png", &wood),
        ("tex/same.png", &wood),
        ("tex/nothing", &empty),
    ];
    let layout = fixture.lay_out(&files).await.unwrap();
    assert_eq!(read(&layout, "shot.blend"), b"onetwooneonethree");
    assert_eq!(read(&layout, "tex/same.png"), b"wood");
    assert_eq!(read(&layout, "tex/nothing"), b"");
    let mut downloaded = fixture.downloaded();
    downloaded.sort();
    let mut once = digests(&[b"one", b"two", b"three", b"wood"]);
    once.sort();
    // An empty file needs no bytes.
    assert_eq!(downloaded, once);
    let pieces = entries(&fixture.folder.path().join(PIECES)).unwrap();
    assert!(pieces.is_empty(), "{pieces:?}");
    let blend = fs::metadata(layout.path(&"shot.blend".parse().unwrap())).unwrap();
    assert!(blend.permissions().readonly());
}

#[tokio::test]
async fn of_a_file_that_changed_only_what_is_new_is_fetched_also_after_a_restart() {
    let mut fixture = Fixture::new().await;
    let before = fixture.pieces(&[b"one", b"two", b"three"]);
    let layout = fixture.lay_out(&[("shot.blend", &before)]).await.unwrap();
    fixture.downloaded();
    drop(layout);
    for middle in [&b"TWO"[..], b"zwei"] {
        fixture.restart();
        let after = fixture.pieces(&[b"one", middle, b"three"]);
        let layout = fixture.lay_out(&[("shot.blend", &after)]).await.unwrap();
        assert_eq!(read(&layout, "shot.blend"), [b"one", middle, b"three"].concat());
        assert_eq!(fixture.downloaded(), digests(&[middle]));
    }
}

#[tokio::test]
async fn a_cached_file_that_was_damaged_is_not_copied_from() {
    let fixture = Fixture::new().await;
    let before = fixture.pieces(&[b"one", b"two"]);
    drop(fixture.lay_out(&[("shot.blend", &before)]).await.unwrap());
    let cached = fixture.projects.blob_path(before.digest);
    fs::remove_file(&cached).unwrap();
    fs::write(&cached, "oneTWO").unwrap();
    fixture.downloaded();
    let after = fixture.pieces(&[b"new", b"two", b"one"]);
    let layout = fixture.lay_out(&[("shot.blend", &after)]).await.unwrap();
    assert_eq!(read(&layout, "shot.blend"), b"newtwoone");
    assert_eq!(fixture.downloaded(), digests(&[b"new", b"two"]));
}

#[tokio::test]
async fn a_large_file_that_was_cut_off_goes_on_where_it_was() {
    let mut fixture = Fixture::new().await;
    let blend = fixture.pieces(&[b"one", b"two", b"three", b"four"]);
    let withheld = fixture.store.blobs.lock().unwrap().remove(&Digest::of(b"three")).unwrap();
    let error = fixture.lay_out(&[("shot.blend", &blend)]).await.unwrap_err();
    assert!(matches!(error, LayoutError::Transfer(_)), "{error}");
    fixture.downloaded();
    fixture.restart();
    fixture.store.blobs.lock().unwrap().insert(Digest::of(b"three"), withheld);
    let layout = fixture.lay_out(&[("shot.blend", &blend)]).await.unwrap();
    assert_eq!(read(&layout, "shot.blend"), b"onetwothreefour");
    let again = fixture.downloaded();
    assert!(!again.contains(&Digest::of(b"one")) && !again.contains(&Digest::of(b"two")));
}

#[tokio::test]
async fn chunks_that_are_not_the_file_are_refused_with_its_name() {
    let fixture = Fixture::new().await;
    let right = fixture.pieces(&[b"one", b"two"]);
    let wrong = FileDigest { digest: Digest::of(b"onetwo!"), ..right };
    let error = fixture.lay_out(&[("tex/wood.png", &wrong)]).await.unwrap_err();
    assert!(error.to_string().contains("the chunks of tex/wood.png are not that file"), "{error}");
    assert_eq!(error.reason(), FailureReason::Permanent, "no node can make it right");
    assert_eq!(blobs(fixture.folder.path()).unwrap().len(), 0, "nothing is left");
}

#[tokio::test]
async fn a_project_larger_than_the_cache_or_the_disk_is_refused_in_words() {
    let mut fixture = Fixture::new().await;
    let blend = fixture.whole(&[1; 2_000]);
    fixture.projects.bytes_max = 1_000;
    let error = fixture.lay_out(&[("shot.blend", &blend)]).await.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("the project has 2000 bytes, more than the 1000"), "{text}");
    assert_eq!(error.reason(), FailureReason::Permanent, "it is so on every node");

    fixture.projects.bytes_max = u64::MAX;
    let huge = FileDigest { size_bytes: u64::MAX, ..blend };
    let error = fixture.lay_out(&[("shot.blend", &huge)]).await.unwrap_err();
    assert!(error.to_string().starts_with("the node's disk is too full"), "{error}");
    assert_eq!(error.reason(), FailureReason::Infrastructure, "another node may have room");
    assert_eq!(fixture.downloaded(), []);
}

#[tokio::test]
async fn what_the_next_project_needs_is_not_evicted_for_it() {
    let mut fixture = Fixture::new().await;
    fixture.projects.bytes_max = 2_500;
    let [old, shared, new] =
        [[1; 1_000], [2; 1_000], [3; 1_000]].map(|bytes| fixture.whole(&bytes));
    drop(fixture.lay_out(&[("a.blend", &old), ("shared", &shared)]).await.unwrap());
    fixture.downloaded();
    let layout = fixture.lay_out(&[("a.blend", &new), ("shared", &shared)]).await.unwrap();
    assert_eq!(fixture.downloaded(), [new.digest]);
    assert_eq!(read(&layout, "shared"), [2; 1_000]);
    assert!(!fixture.projects.blob_path(old.digest).exists());
}

#[test]
fn unfinished_files_are_known_by_the_file_that_they_become() {
    let digest = Digest::of(b"frame").to_string();
    let folder = Path::new("blobs/ab");
    for name in [digest.clone(), format!(".{digest}"), format!(".{digest}.0123456789abcdef.part")] {
        assert_eq!(finished(&folder.join(name)), folder.join(&digest));
    }
}

fn store(folder: &Path, content: &[u8]) -> PathBuf {
    let name = Digest::of(content).to_string();
    let blob = folder.join(BLOBS).join(&name[..2]).join(&name);
    fs::create_dir_all(blob.parent().unwrap()).unwrap();
    fs::write(&blob, content).unwrap();
    blob
}

fn layout(folder: &Path, key: &str, blobs: &[&PathBuf]) -> PathBuf {
    let root = folder.join(LAYOUTS).join(key);
    let files: Vec<_> = blobs
        .iter()
        .enumerate()
        .map(|(n, blob)| (format!("sub/{n}").parse().unwrap(), (*blob).clone()))
        .collect();
    link_all(&files, &folder.join(LAYOUTS), &root).unwrap();
    root
}

#[test]
fn a_layout_that_is_there_already_is_as_good_as_one_just_made() {
    let folder = tempfile::tempdir().unwrap();
    let blob = store(folder.path(), &[1; 10]);
    let first = layout(folder.path(), "same", &[&blob]);
    assert_eq!(layout(folder.path(), "same", &[&blob]), first);
    assert!(first.join("sub/0").exists());
    assert_eq!(entries(&folder.path().join(LAYOUTS)).unwrap().len(), 1, "no leftovers");
}

#[tokio::test]
async fn work_on_the_disk_keeps_its_guard_when_nobody_waits_for_it() {
    let making = Arc::new(tokio::sync::Mutex::default());
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let (go_on, may_go_on) = std::sync::mpsc::channel();
    let work = blocking(making.clone().lock_owned().await, move || {
        begun.send(()).unwrap();
        may_go_on.recv().map_err(io::Error::other)
    });
    let mut work = Box::pin(work);
    tokio::select! {
        _ = &mut work => panic!("nobody let it go on"),
        begun = has_begun => begun.unwrap(),
    }
    drop(work);
    assert!(making.try_lock().is_err());
    go_on.send(()).unwrap();
    let _ = making.lock().await;
}

#[test]
fn what_was_not_used_for_longest_goes_first_and_what_is_in_use_stays() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (shared, old, new) =
        (store(folder, &[1; 1_000]), store(folder, &[2; 1_000]), store(folder, &[3; 1_000]));
    let first = layout(folder, "old", &[&shared, &old]);
    let key = Digest::of(b"new");
    let second = layout(folder, &key.to_string(), &[&shared, &new]);
    let (used, none) = (Mutex::new(Used::new()), HashSet::new());
    let long_ago = SystemTime::UNIX_EPOCH;
    fs::File::open(&first).unwrap().set_modified(long_ago).unwrap();

    evict(folder, &used, 3_000, &none).unwrap();
    assert!(first.exists() && second.exists(), "all of it fits");
    evict(folder, &used, 2_000, &none).unwrap();
    assert!(!first.exists() && !old.exists());
    assert!(second.exists() && shared.exists() && new.exists());
    let in_use = Arc::new(Layout { root: second.clone() });
    used.lock().unwrap().insert(key, Arc::downgrade(&in_use));
    evict(folder, &used, 0, &none).unwrap();
    assert!(second.exists() && shared.exists() && new.exists());
    drop(in_use);
    evict(folder, &used, 0, &none).unwrap();
    assert!(!second.exists() && !shared.exists() && !new.exists());
}
