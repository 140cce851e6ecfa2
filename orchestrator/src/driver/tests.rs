#![allow(clippy::unwrap_used)]

use std::sync::atomic::AtomicUsize;

use framecrew_blobs::Digest;
use futures::{FutureExt as _, future::BoxFuture};
use tempfile::TempDir;

use super::*;
use crate::{
    blobs::Blobs,
    domain::{
        Blender, BlenderVersion, FrameRange, FrameSet, JobSpec, Output, Project, RenderSettings,
    },
    feed::Update,
    store::{Snapshot, sqlite::SqliteStore},
};

/// A store whose disk is full whenever a test says so.
#[derive(Debug)]
struct FullableStore {
    inner: SqliteStore,
    is_full: AtomicBool,
    refused: AtomicUsize,
}

impl Store for FullableStore {
    fn commit<'a>(&'a self, group: &'a Group) -> BoxFuture<'a, Result<(), StoreError>> {
        if self.is_full.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return async { Err(StoreError::Full) }.boxed();
        }
        self.inner.commit(group)
    }

    fn remember(&self) -> BoxFuture<'_, Result<Remembered, StoreError>> {
        self.inner.remember()
    }

    fn find_request<'a>(
        &'a self,
        request_id: &'a str,
    ) -> BoxFuture<'a, Result<Option<(JobId, Request)>, StoreError>> {
        self.inner.find_request(request_id)
    }

    fn job(&self, job: JobId) -> BoxFuture<'_, Result<Option<JobRecord>, StoreError>> {
        self.inner.job(job)
    }

    fn jobs_before(
        &self,
        before: JobId,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<JobRecord>, StoreError>> {
        self.inner.jobs_before(before, limit)
    }

    fn frames_after(
        &self,
        job: JobId,
        after: i64,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<Frame>, StoreError>> {
        self.inner.frames_after(job, after, limit)
    }

    fn frames_changed(
        &self,
        job: JobId,
        after: u64,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<Frame>, StoreError>> {
        self.inner.frames_changed(job, after, limit)
    }

    fn snapshot(
        &self,
        job: JobId,
        troubled_max: u32,
    ) -> BoxFuture<'_, Result<Option<Snapshot>, StoreError>> {
        self.inner.snapshot(job, troubled_max)
    }

    fn log(
        &self,
        job: JobId,
        frame: Option<i32>,
        line: u64,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<LogRecord>, StoreError>> {
        self.inner.log(job, frame, line, limit)
    }

    fn next_log_line(&self, job: JobId) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.inner.next_log_line(job)
    }
}

/// A driver on a real database, with a node that takes calls and never answers: tests speak for it.
struct Fixture {
    _dir: TempDir,
    store: Arc<FullableStore>,
    feed: Arc<Feed>,
    driver: DriverHandle,
    /// Where the node would be: connections wait there for ever.
    node: std::net::TcpListener,
    stop: CancellationToken,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Fixture {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (inner, identity) = SqliteStore::open(&dir.path().join("db")).await.unwrap();
        let store = Arc::new(FullableStore {
            inner,
            is_full: AtomicBool::new(false),
            refused: AtomicUsize::new(0),
        });
        let stop = CancellationToken::new();
        let blobs = Blobs::open(&dir.path().join("blobs")).unwrap();
        let feed = Arc::new(Feed::new(store.clone(), identity.clone()));
        let (driver, mailbox) = mailbox();
        let dispatch = Dispatch::new(driver.clone(), blobs, identity.epoch, stop.clone());
        let lease = Duration::from_secs(3_600);
        let running = Driver::restore(store.clone(), feed.clone(), dispatch, mailbox, lease);
        tokio::spawn(running.await.unwrap().run(stop.clone()));
        let node = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        Self { _dir: dir, store, feed, driver, node, stop }
    }

    fn job(&self, request_id: &str) -> NewJob {
        let spec = JobSpec {
            name: "shot".to_owned(),
            project: Project { blend_path: String::new(), files: Vec::new() },
            frames: FrameSet::new(vec![FrameRange { first: 1, last: 9, step: 1 }]).unwrap(),
            settings: RenderSettings::default(),
            priority: 0,
            tags: Vec::new(),
            strict: false,
            movie: None,
            movie_of: None,
        };
        NewJob {
            request: Request { request_id: request_id.to_owned(), fingerprint: "f".to_owned() },
            spec: Arc::new(spec),
            file_version: version(),
        }
    }

    async fn node(&self) {
        let registration = Registration {
            node: "a".into(),
            incarnation: Incarnation(1),
            address: format!("http://{}", self.node.local_addr().unwrap()),
            description: NodeDescription {
                slots: 1,
                blenders: vec![Blender { version: Some(version()), kind: 1, path: String::new() }],
                ..NodeDescription::default()
            },
            batches: Vec::new(),
        };
        self.driver.register(registration).await.unwrap();
    }

    /// Waits until the driver has tried to commit while the disk was full.
    async fn refused(&self) {
        let before = self.store.refused.load(Ordering::SeqCst);
        while self.store.refused.load(Ordering::SeqCst) < before + 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn version() -> BlenderVersion {
    "3.4.1".parse().unwrap()
}

fn rendered() -> Rendered {
    Rendered {
        outputs: vec![Output {
            name: "0001.png".to_owned(),
            digest: Digest::of(b"1"),
            size_bytes: 1,
            width: 1,
            height: 1,
            channels: 4,
        }],
        render_seconds: 1.0,
        peak_memory_bytes: 0,
        preview: None,
    }
}

#[tokio::test]
async fn nothing_is_visible_before_it_is_durable() {
    let fixture = Fixture::new().await;
    let (job, _) = fixture.driver.submit(fixture.job("r")).await.unwrap();
    fixture.node().await;
    let batch = BatchId::first(fixture.feed.identity().epoch);
    let mut watch = fixture.feed.watch(job.job, 0, "").await.unwrap();
    loop {
        // Until the batch is known to be with the node: the job renders.
        match watch.next().await.unwrap().unwrap().1 {
            Update::Snapshot { snapshot, .. }
                if snapshot.job.standing.state == JobState::Rendering =>
            {
                break;
            }
            Update::Changes { standing, .. } if standing.state == JobState::Rendering => break,
            _ => {}
        }
    }

    fixture.store.is_full.store(true, Ordering::SeqCst);
    let slice = Slice::whole(1);
    fixture.driver.report(batch, vec![BatchNews::Finished(slice, rendered())]).await;
    fixture.refused().await;
    assert!(watch.next().now_or_never().is_none(), "the frame is not stored yet");

    fixture.store.is_full.store(false, Ordering::SeqCst);
    let (_, update) = watch.next().await.unwrap().unwrap();
    let Update::Changes { frames, standing, .. } = update else { panic!("{update:?}") };
    assert_eq!(frames[0].state, FrameState::Finished);
    assert_eq!(standing.counts.finished, 1);
    assert_eq!(fixture.store.job(job.job).await.unwrap().unwrap().standing.counts.finished, 1);
}

#[tokio::test]
async fn a_job_that_does_not_fit_on_the_disk_is_refused_and_leaves_nothing() {
    let fixture = Fixture::new().await;
    fixture.store.is_full.store(true, Ordering::SeqCst);
    let error = fixture.driver.submit(fixture.job("r")).await.unwrap_err();
    assert!(matches!(error, SubmitError::StoreFailing), "{error}");
    fixture.store.is_full.store(false, Ordering::SeqCst);
    assert!(fixture.store.jobs_before(JobId(u64::MAX), 9).await.unwrap().is_empty());
    // It heals by itself, and the same request makes the job then.
    let (_, existed) = fixture.driver.submit(fixture.job("r")).await.unwrap();
    assert!(!existed);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_ever_while_the_store_fails() {
    // A mailbox that nobody reads, as while a commit is held.
    let (driver, _mailbox) = mailbox();
    let error = driver.cancel(JobId(1)).await.unwrap_err();
    assert!(matches!(error, NoAnswer::Late), "{error}");
}
