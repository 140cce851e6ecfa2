//! How fast a project travels: `cargo bench -p framecrew-orchestrator --bench upload`.
//!
//! A project of 5,000 files and 1 GB goes to a fresh orchestrator over a real socket, from reading its files to
//! the answer that all of it is durable. For comparison, `cp -r` and `b3sum` run in turn with it, on the same files
//! and the same disk. Then come the same project again, which moves nothing, a job of 100,000 files, and an upload that
//! is cut off in the middle and resumed. Medians of three. `TMPDIR` chooses the disk; 12 GB must be free. Without
//! `b3sum` there is no comparison.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Instant,
};

use framecrew_blobs::{BlobClient, FileDigest, LocalFile, Uploaded};
use framecrew_orchestrator::{Config, serve};
use framecrew_proto::v1 as proto;
use proto::orchestrator_client::OrchestratorClient;
use tempfile::{TempDir, tempdir};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tonic::transport::{Channel, Endpoint};

const FILES: usize = 5_000;
const BYTES: u64 = 1_000_000_000;
/// Bytes of its largest file.
const LARGEST_BYTES: u64 = 200_000_000;
/// Files of the largest project that there may be.
const MANY_FILES: usize = 100_000;
const RUNS: usize = 3;
/// The longest that an upload may take, as a multiple of `cp` and `b3sum`.
const TARGET: f64 = 1.5;
/// The longest that a submission may take whose blobs are all stored, in seconds.
const SECOND_TARGET: f64 = 1.0;

#[tokio::main]
async fn main() {
    let home = tempdir().unwrap();
    let project = home.path().join("project");
    println!("making {FILES} files, {BYTES} bytes, in {}", project.display());
    make(&project);
    let files = list(&project);
    let (mut by_hand, mut first, mut again, mut many) = (vec![], vec![], vec![], vec![]);
    let mut resumed = vec![];
    for run in 0..RUNS {
        // Nothing is removed before the end: ext4 creates files slowly just after many were removed.
        by_hand.extend(copy_and_hash(&project, &files, &home.path().join(format!("copy-{run}"))));
        settle();

        let store = Store::start(home.path()).await;
        let started = now();
        let read = read_all(&files).await;
        let hashed = started.elapsed();
        let sent = store.upload(&read).await;
        first.push(started.elapsed().as_secs_f64());
        println!("  of which reading and hashing took {:.2} s", hashed.as_secs_f64());
        assert_eq!(sent.bytes, BYTES);

        let started = now();
        let sent = store.upload(&read_all(&files).await).await;
        store.submit(&read, &project).await;
        again.push(started.elapsed().as_secs_f64());
        assert_eq!(sent, Uploaded::default());

        let started = now();
        store.submit_many(&read, &project).await;
        many.push(started.elapsed().as_secs_f64());
        store.stop().await;
        settle();

        resumed.push(cut_and_resume(home.path(), &read).await);
        settle();
    }
    println!("\n{:<52} {:>8} {:>8}", "", "seconds", "ratio");
    let hand = median(&mut by_hand);
    let first = median(&mut first);
    println!("{:<52} {hand:>8.2}", "cp -r, then b3sum");
    println!("{:<52} {first:>8.2} {:>8.2}  at most {TARGET}", "upload", first / hand);
    let again = median(&mut again);
    println!("{:<52} {again:>8.2} {:>8}  at most {SECOND_TARGET} s", "submitted again", "");
    println!("{:<52} {:>8.2}", format!("a job of {MANY_FILES} files submitted"), median(&mut many));
    let shares = resumed.iter().map(|(before, sent)| format!("{before} + {sent}"));
    println!(
        "\nbytes before the cut + after it, of {BYTES}: {}",
        shares.collect::<Vec<_>>().join(", ")
    );
}

/// An orchestrator in this process, on a fresh folder.
struct Store {
    channel: Channel,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Store {
    async fn start(home: &Path) -> Self {
        let data = TempDir::new_in(home).unwrap().keep();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let config = Config::new(data);
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(async {
            let stopped = async { drop(stopped.await) };
            serve(listener, config, stopped).await.unwrap();
        });
        let channel = Endpoint::from_shared(url).unwrap().connect().await.unwrap();
        Self { channel, stop, serving }
    }

    fn blobs(&self) -> BlobClient {
        BlobClient::new(self.channel.clone())
    }

    async fn upload(&self, files: &[LocalFile]) -> Uploaded {
        self.blobs().upload_files(files.to_vec(), |_| {}).await.unwrap()
    }

    async fn submit(&self, files: &[LocalFile], root: &Path) {
        let files = files.iter().map(|file| project_file(file, root));
        self.submit_files("project", files.collect()).await;
    }

    /// All of them are the .blend.
    async fn submit_many(&self, files: &[LocalFile], root: &Path) {
        let files = files.iter().map(|file| project_file(file, root));
        let blend = files.into_iter().find(|file| file.path == "shot.blend").unwrap();
        let copy = |n| {
            let path = format!("scenes/a folder of some length/{n:06}.blend");
            proto::ProjectFile { path, ..blend.clone() }
        };
        let files = (1..MANY_FILES).map(copy).chain([blend.clone()]);
        self.submit_files("many", files.collect()).await;
    }

    async fn submit_files(&self, request_id: &str, files: Vec<proto::ProjectFile>) {
        let project = proto::Project { blend_path: "shot.blend".into(), files };
        let spec = proto::JobSpec {
            name: "upload".into(),
            project: Some(project),
            frames: vec![proto::FrameRange { first: 1, last: 1, step: 1 }],
            ..proto::JobSpec::default()
        };
        let request = proto::SubmitJobRequest { request_id: request_id.into(), spec: Some(spec) };
        OrchestratorClient::new(self.channel.clone()).submit_job(request).await.unwrap();
    }

    async fn stop(self) {
        drop(self.channel);
        let _ = self.stop.send(());
        self.serving.await.unwrap();
    }
}

fn project_file(file: &LocalFile, root: &Path) -> proto::ProjectFile {
    let chunk = |chunk: &framecrew_blobs::Chunk| proto::Chunk {
        digest: chunk.digest.to_string(),
        size_bytes: chunk.size_bytes,
    };
    proto::ProjectFile {
        path: file.path.strip_prefix(root).unwrap().to_str().unwrap().into(),
        digest: file.digest.to_string(),
        size_bytes: file.size_bytes,
        chunks: file.chunks.iter().map(chunk).collect(),
    }
}

/// Drops an upload halfway and uploads again. Returns the bytes that were stored before, and sent again.
async fn cut_and_resume(home: &Path, files: &[LocalFile]) -> (u64, u64) {
    let store = Store::start(home).await;
    let (half, is_half) = oneshot::channel();
    let mut half = Some(half);
    let blobs = store.blobs();
    let first = blobs.upload_files(files.to_vec(), |progress| {
        if progress.sent_bytes > progress.total_bytes / 2
            && let Some(half) = half.take()
        {
            half.send(()).unwrap();
        }
    });
    tokio::select! {
        _ = first => panic!("it was not cut off"),
        _ = is_half => {}
    }
    let sent = store.upload(files).await;
    assert!(sent.bytes < BYTES * 6 / 10, "{} were sent again", sent.bytes);
    store.stop().await;
    (BYTES - sent.bytes, sent.bytes)
}

/// Hashes and cuts all files, as many at a time as there are processors.
async fn read_all(files: &[PathBuf]) -> Vec<LocalFile> {
    let files = files.to_vec();
    tokio::task::spawn_blocking(move || {
        let next = AtomicUsize::new(0);
        let threads = thread::available_parallelism().unwrap().get();
        let read = || {
            let mine = std::iter::from_fn(|| files.get(next.fetch_add(1, Ordering::Relaxed)));
            let read =
                |path: &PathBuf| LocalFile::new(path.clone(), FileDigest::of_file(path).unwrap());
            mine.map(read).collect::<Vec<_>>()
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(read)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        })
    })
    .await
    .unwrap()
}

/// The baseline on one machine: copy the files, and hash them.
fn copy_and_hash(project: &Path, files: &[PathBuf], copy: &Path) -> Option<f64> {
    let started = now();
    assert!(Command::new("cp").arg("-r").args([project, copy]).status().unwrap().success());
    let mut hash = Command::new("xargs");
    let hash = hash.args(["-0", "b3sum"]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut hashing = hash.spawn().unwrap();
    let mut names = hashing.stdin.take().unwrap();
    for file in files {
        let name = copy.join(file.strip_prefix(project).unwrap());
        write!(names, "{}\0", name.display()).unwrap();
    }
    drop(names);
    let is_hashed = hashing.wait().unwrap().success();
    let seconds = started.elapsed().as_secs_f64();
    is_hashed.then_some(seconds)
}

/// Waits until earlier writes are on the disk, so that no measurement pays for them.
fn settle() {
    let _ = Command::new("sync").status();
}

/// Textures, caches and one large file, with bytes that do not compress; and a .blend's first bytes.
fn make(project: &Path) {
    let small = FILES as u64 - 2;
    // Sizes rise with the cube of a file's number, as they do in projects: many small files, few large ones.
    let weight = |n: u64| (n + 1).pow(3) / 1_000_000 + 1;
    let weights: u64 = (0..small).map(weight).sum();
    let blend = blend();
    let mut left = BYTES - LARGEST_BYTES - blend.len() as u64;
    let bytes = left;
    for n in 0..small {
        let folder = project.join(format!("textures/{:02}", n % 50));
        fs::create_dir_all(&folder).unwrap();
        let size = if n + 1 == small { left } else { bytes * weight(n) / weights };
        left -= size;
        write_noise(&folder.join(format!("{n:04}.png")), n, size);
    }
    write_noise(&project.join("cache.vdb"), small, LARGEST_BYTES);
    fs::write(project.join("shot.blend"), blend).unwrap();
}

fn blend() -> Vec<u8> {
    [b"BLENDER-v405".as_slice(), &[0; 1_000], b"ENDB", &[0; 20]].concat()
}

fn write_noise(path: &Path, seed: u64, size_bytes: u64) {
    let mut noise = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut file = fs::File::create(path).unwrap();
    let mut block = vec![0; 1 << 20];
    let mut left = size_bytes as usize;
    while left > 0 {
        let some = left.min(block.len());
        noise.fill(&mut block[..some]);
        file.write_all(&block[..some]).unwrap();
        left -= some;
    }
}

fn list(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(list(&path)) } else { files.push(path) }
    }
    files
}

/// A benchmark reads the clock.
#[allow(clippy::disallowed_methods)]
fn now() -> Instant {
    Instant::now()
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}
