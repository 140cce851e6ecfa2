#![allow(clippy::unwrap_used)]

use std::sync::atomic::Ordering;

use bytes::Bytes;
use framecrew_blobs::Digest;
use futures::FutureExt as _;
use tempfile::TempDir;

use super::{
    leases::{DEFERRED_MAX, STALL},
    reports::WARNINGS_MAX,
    settle::HELD_SHOWN_AFTER,
    *,
};
use crate::{
    blobs::{Blobs, layout::blob_path},
    domain::{
        Blender, BlenderKind, BlenderVersion, FrameRange, FrameSet, FrameState, JobSpec, JobState,
        MovieFormat, MovieOf, NodeDescription, NodeState, Output, Preview, Rendered, Slice,
        Warning, WarningKind, Work,
    },
    feed::Update,
    mailbox::{
        AdoptError, Adoption, BatchReport, DriverHandle, MembershipError, NewJob, NoAnswer,
        Registration, RetryError, SubmitError, mailbox,
    },
    observe::history::History,
    store::{Archive as _, JobRecord, MemoryStore, Request},
};

/// A driver on a store in memory, with a node that accepts calls and never answers. Tests report in its place.
struct Fixture {
    dir: TempDir,
    store: Arc<MemoryStore>,
    feed: Arc<Feed>,
    driver: DriverHandle,
    /// The node's address. Nothing accepts its connections.
    node: std::net::TcpListener,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<Result<(), StoreError>>,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Fixture {
    async fn new() -> Self {
        Self::with_lease(Duration::from_secs(3_600)).await
    }

    /// With a commit that is held: the store cannot write a finished frame of node `a`.
    async fn with_a_held_commit() -> (Self, BatchId) {
        let fixture = Self::new().await;
        fixture.driver.submit(fixture.job("r")).await.unwrap();
        fixture.node().await;
        let batch = BatchId::first(fixture.feed.identity().epoch);
        fixture.store.faults.is_full.store(true, Ordering::SeqCst);
        fixture
            .driver
            .report(batch, vec![BatchReport::Finished(Slice::whole(1), rendered())])
            .await;
        fixture.refused().await;
        (fixture, batch)
    }

    async fn with_lease(lease: Duration) -> Self {
        let node = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        Self::on(MemoryStore::new(), tempfile::tempdir().unwrap(), node, lease).await
    }

    async fn on(
        store: MemoryStore,
        dir: TempDir,
        node: std::net::TcpListener,
        lease: Duration,
    ) -> Self {
        let store = Arc::new(store);
        let identity = store.identity();
        let stop = CancellationToken::new();
        let blobs = Blobs::open(&dir.path().join("blobs"), None).unwrap();
        let feed = Arc::new(Feed::new(store.clone(), identity.clone()));
        let (driver, mailbox) = mailbox(blobs.clone());
        let dispatch = Dispatch::new(driver.clone(), blobs, &identity, stop.clone());
        let history = History::append_to(&dir.path().join("history")).unwrap();
        let observers = Observers::default().with(history);
        let restored =
            Driver::restore(store.clone(), feed.clone(), dispatch, mailbox, lease, observers);
        let running = tokio::spawn(restored.await.unwrap().run(stop.clone()));
        Self { dir, store, feed, driver, node, stop, running }
    }

    /// The next incarnation on the same store, after this one crashed.
    async fn restart(mut self) -> Self {
        self.running.abort();
        let _ = (&mut self.running).await;
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap());
        crate::observe::history::replay(&dir.path().join("history")).unwrap();
        let node = self.node.try_clone().unwrap();
        let store = self.store.reopen();
        drop(self);
        Self::on(store, dir, node, Duration::from_secs(3_600)).await
    }

    /// The node's batch of a job.
    async fn batch(&self, job: JobId) -> BatchId {
        self.until(job, |record| record.status.state == JobState::Rendering).await;
        let batches = self.store.restore().await.unwrap().batches;
        batches.iter().find(|(_, record)| record.job == job).unwrap().0
    }

    /// Watches a job until `wanted` accepts it.
    async fn until(&self, job: JobId, wanted: impl Fn(&JobRecord) -> bool) -> JobRecord {
        let mut watch = self.feed.watch(job, 0, "").await.unwrap();
        loop {
            let seen = watch.next().await.unwrap();
            let record = self.store.job(job).await.unwrap().unwrap();
            if wanted(&record) {
                return record;
            }
            assert!(seen.is_some(), "the job is over: {:?}", record.status);
        }
    }

    fn job(&self, request_id: &str) -> NewJob {
        let spec = JobSpec::for_test(
            FrameSet::new(vec![FrameRange { first: 1, last: 9, step: 1 }]).unwrap(),
        );
        NewJob {
            request: Request { request_id: request_id.to_owned(), fingerprint: "f".to_owned() },
            spec: Arc::new(spec),
            file_version: version(),
        }
    }

    /// A job of one frame, with a movie that follows.
    fn movie(&self, request_id: &str) -> NewJob {
        let job = self.job(request_id);
        let spec = JobSpec {
            frames: FrameSet::one(7),
            work: Work::Frames { movie: Some(MovieFormat::Mp4) },
            ..(*job.spec).clone()
        };
        NewJob { spec: Arc::new(spec), ..job }
    }

    async fn node(&self) {
        let registration = Registration {
            node: "a".into(),
            incarnation: Incarnation(1),
            address: format!("http://{}", self.node.local_addr().unwrap()),
            description: NodeDescription {
                slots: 1,
                ffmpeg: "6.0".to_owned(),
                blenders: vec![Blender {
                    version: Some(version()),
                    kind: BlenderKind::Executable,
                    ..Blender::default()
                }],
                ..NodeDescription::default()
            },
            batches: Vec::new(),
            neighbour: None,
            replaces: None,
        };
        self.driver.register(registration).await.unwrap();
    }

    /// Waits until the driver has tried to commit while the disk was full.
    async fn refused(&self) {
        let before = self.store.faults.refused.load(Ordering::SeqCst);
        while self.store.faults.refused.load(Ordering::SeqCst) < before + 2 {
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
        // The job renders once the node has the batch.
        match watch.next().await.unwrap().unwrap().1 {
            Update::Snapshot { snapshot, .. }
                if snapshot.job.status.state == JobState::Rendering =>
            {
                break;
            }
            Update::Changes { status, .. } if status.state == JobState::Rendering => break,
            _ => {}
        }
    }

    fixture.store.faults.is_full.store(true, Ordering::SeqCst);
    let slice = Slice::whole(1);
    fixture.driver.report(batch, vec![BatchReport::Finished(slice, rendered())]).await;
    fixture.refused().await;
    assert!(watch.next().now_or_never().is_none(), "the frame is not stored yet");

    fixture.store.faults.is_full.store(false, Ordering::SeqCst);
    let (_, update) = watch.next().await.unwrap().unwrap();
    let Update::Changes { frames, status, .. } = update else { panic!("{update:?}") };
    assert_eq!(frames[0].0.state, FrameState::Finished);
    assert_eq!(status.counts.finished, 1);
    assert_eq!(fixture.store.job(job.job).await.unwrap().unwrap().status.counts.finished, 1);
}

#[tokio::test]
async fn a_job_that_does_not_fit_on_the_disk_is_refused_and_leaves_nothing() {
    let fixture = Fixture::new().await;
    fixture.store.faults.is_full.store(true, Ordering::SeqCst);
    let error = fixture.driver.submit(fixture.job("r")).await.unwrap_err();
    assert!(matches!(error, SubmitError::StoreFailing), "{error}");
    fixture.store.faults.is_full.store(false, Ordering::SeqCst);
    assert!(fixture.store.jobs_before(JobId(u64::MAX), 9).await.unwrap().is_empty());
    // The store recovers, and the same request makes the job.
    let (_, existed) = fixture.driver.submit(fixture.job("r")).await.unwrap();
    assert!(!existed);
}

#[tokio::test(start_paused = true)]
async fn no_caller_waits_for_ever_while_the_store_fails() {
    // A mailbox that no driver reads, as while a commit is held.
    let dir = tempfile::tempdir().unwrap();
    let (driver, _mailbox) = mailbox(Blobs::open(dir.path(), None).unwrap());
    let error = driver.cancel(JobId(1)).await.unwrap_err();
    assert!(matches!(error, NoAnswer::Late), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_change_that_cannot_be_written_is_refused_with_that_reason() {
    let dir = tempfile::tempdir().unwrap();
    let (driver, mailbox) = mailbox(Blobs::open(dir.path(), None).unwrap());
    mailbox.store_health.failed();
    let error = driver.cancel(JobId(1)).await.unwrap_err();
    assert!(matches!(error, NoAnswer::Held), "{error}");
    assert_eq!(tonic::Status::from(error).code(), tonic::Code::ResourceExhausted);
}

#[tokio::test]
async fn a_paused_node_shows_the_reason() {
    let fixture = Fixture::new().await;
    let (record, _) = fixture.driver.submit(fixture.job("r")).await.unwrap();
    fixture.node().await;
    let batch = fixture.batch(record.job).await;
    let why = "1 byte is free on the node's disk".to_owned();
    fixture.driver.report(batch, vec![BatchReport::Refused(Some(why.clone()))]).await;
    let said = loop {
        let nodes = fixture.feed.nodes();
        match nodes.iter().find(|node| node.state == NodeState::Paused) {
            Some(node) => break node.state_reason.clone(),
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    assert!(said.contains(&why), "{said}");
}

fn warning(text: &str) -> BatchReport {
    BatchReport::Warning(Warning { kind: WarningKind::MissingFile, text: text.to_owned() })
}

fn texts(status: &crate::store::JobStatus) -> Vec<&str> {
    status.warnings.iter().map(|warning| &*warning.text).collect()
}

#[tokio::test]
async fn a_warning_is_shown_once_and_survives_a_restart() {
    let fixture = Fixture::new().await;
    let (job, _) = fixture.driver.submit(fixture.job("r")).await.unwrap();
    fixture.node().await;
    let batch = fixture.batch(job.job).await;
    let before = fixture.store.job(job.job).await.unwrap().unwrap().status.revision;
    fixture.driver.report(batch, vec![warning("a"), warning("b"), warning("a")]).await;
    let record = fixture.until(job.job, |record| record.status.warnings.len() == 2).await;
    assert_eq!(texts(&record.status), ["a", "b"]);
    assert_eq!(record.status.revision, before + 2);

    // A watcher that has the first warning gets the second, from the store and from memory.
    let mut watch = fixture.feed.watch(job.job, before + 1, "").await.unwrap();
    let (revision, update) = watch.next().await.unwrap().unwrap();
    let Update::Changes { status, frames, .. } = update else { panic!("{update:?}") };
    assert_eq!((revision, frames.len()), (before + 2, 0));
    assert_eq!(status, record.status);

    let fixture = fixture.restart().await;
    let batch = fixture.batch(job.job).await;
    fixture.driver.report(batch, vec![warning("b"), warning("c")]).await;
    let after = fixture.until(job.job, |record| record.status.warnings.len() > 2).await;
    assert_eq!(texts(&after.status), ["a", "b", "c"]);
    assert_eq!(after.status.revision, record.status.revision + 1);
    let mut watch = fixture.feed.watch(job.job, 0, "").await.unwrap();
    let (_, update) = watch.next().await.unwrap().unwrap();
    let Update::Snapshot { snapshot, .. } = update else { panic!("{update:?}") };
    assert_eq!(snapshot.job.status, after.status);
    let listed = fixture.store.jobs_before(JobId(u64::MAX), 9).await.unwrap();
    assert_eq!(listed[0].status, after.status);
}

#[tokio::test]
async fn a_warning_is_not_visible_before_it_is_durable() {
    let fixture = Fixture::new().await;
    let (job, _) = fixture.driver.submit(fixture.job("r")).await.unwrap();
    fixture.node().await;
    let batch = fixture.batch(job.job).await;
    let revision = fixture.store.job(job.job).await.unwrap().unwrap().status.revision;
    let mut watch = fixture.feed.watch(job.job, revision, "").await.unwrap();
    watch.next().await.unwrap();
    fixture.store.faults.is_full.store(true, Ordering::SeqCst);
    fixture.driver.report(batch, vec![warning("a")]).await;
    fixture.refused().await;
    assert!(watch.next().now_or_never().is_none(), "the warning is not stored yet");
    fixture.store.faults.is_full.store(false, Ordering::SeqCst);
    let (_, update) = watch.next().await.unwrap().unwrap();
    let Update::Changes { status, .. } = update else { panic!("{update:?}") };
    assert_eq!(texts(&status), ["a"]);
}

#[tokio::test]
async fn a_hundred_warnings_are_kept_and_the_last_says_there_are_more() {
    let fixture = Fixture::new().await;
    let (job, _) = fixture.driver.submit(fixture.job("r")).await.unwrap();
    fixture.node().await;
    let batch = fixture.batch(job.job).await;
    let many = (0..300).map(|n| warning(&n.to_string())).collect();
    fixture.driver.report(batch, many).await;
    fixture.driver.report(batch, vec![BatchReport::Finished(Slice::whole(1), rendered())]).await;
    let record = fixture.until(job.job, |record| record.status.counts.finished == 1).await;
    assert_eq!(record.status.warnings.len(), WARNINGS_MAX);
    assert_eq!(record.status.warnings[98].text, "98");
    assert!(record.status.warnings[99].text.contains("more warnings"));
}

#[tokio::test]
async fn a_preview_is_stored_without_its_bytes_which_the_feed_keeps_for_a_while() {
    let fixture = Fixture::new().await;
    let (job, _) = fixture.driver.submit(fixture.job("r")).await.unwrap();
    fixture.node().await;
    let batch = fixture.batch(job.job).await;
    let data = Bytes::from_static(b"a small picture");
    let preview = Preview {
        digest: Digest::of(&data),
        size_bytes: 15,
        width: 9,
        height: 5,
        data: data.clone(),
    };
    let drawn = Rendered { preview: Some(preview.clone()), ..rendered() };
    fixture.driver.report(batch, vec![BatchReport::Finished(Slice::whole(1), drawn)]).await;
    let record = fixture.until(job.job, |record| record.status.counts.finished == 1).await;
    let stored = Preview { data: Bytes::new(), ..preview };
    let frames = fixture.store.frames_after(job.job, 0, 9).await.unwrap();
    assert_eq!(frames[0].rendered.as_ref().unwrap().preview.as_ref(), Some(&stored));

    let changed = async |feed: &Arc<Feed>| {
        let mut watch = feed.watch(job.job, record.status.revision - 1, "").await.unwrap();
        let (_, update) = watch.next().await.unwrap().unwrap();
        let Update::Changes { mut frames, .. } = update else { panic!("{update:?}") };
        frames.remove(0)
    };
    let (frame, bytes) = changed(&fixture.feed).await;
    assert_eq!(frame.rendered.as_ref().unwrap().preview.as_ref(), Some(&stored));
    assert_eq!(bytes, data);
    let fixture = fixture.restart().await;
    let (again, bytes) = changed(&fixture.feed).await;
    assert_eq!(again, frame);
    assert!(bytes.is_empty(), "it is downloaded then");
}

#[tokio::test]
async fn a_movie_s_job_is_in_the_commit_that_ends_its_source() {
    let fixture = Fixture::new().await;
    let (source, _) = fixture.driver.submit(fixture.movie("r")).await.unwrap();
    fixture.node().await;
    let batch = fixture.batch(source.job).await;
    fixture.store.faults.is_full.store(true, Ordering::SeqCst);
    let done = || vec![BatchReport::Finished(Slice::whole(7), rendered()), BatchReport::Ended];
    fixture.driver.report(batch, done()).await;
    fixture.refused().await;
    assert_eq!(fixture.store.jobs_before(JobId(u64::MAX), 9).await.unwrap().len(), 1);

    // A crash before anything was written: the node reports everything again.
    let fixture = fixture.restart().await;
    assert_eq!(fixture.store.jobs_before(JobId(u64::MAX), 9).await.unwrap().len(), 1);
    fixture.driver.report(batch, done()).await;
    let is_over = |record: &JobRecord| record.status.state.is_final();
    let ended = fixture.until(source.job, is_over).await;
    let movie = ended.status.movie_job.unwrap();
    let record = fixture.store.job(movie).await.unwrap().unwrap();
    let Work::Movie { of, .. } = &record.spec.work else { panic!("{:?}", record.spec.work) };
    assert_eq!(of.job, source.job);
    assert_eq!(record.spec.project.files[0].path, format!("{}/000001.png", MovieOf::FOLDER));
    assert_eq!(record.spec.project.files[0].digest, Digest::of(b"1"));

    // A crash right after: the movie's job exists once, and goes to the node.
    let fixture = fixture.restart().await;
    assert_eq!(fixture.store.jobs_before(JobId(u64::MAX), 9).await.unwrap().len(), 2);
    let batch = fixture.batch(movie).await;
    let done = vec![BatchReport::Finished(Slice::whole(1), rendered()), BatchReport::Ended];
    fixture.driver.report(batch, done).await;
    let ended = fixture.until(movie, is_over).await;
    assert_eq!((ended.status.state, ended.status.movie_job), (JobState::Finished, None));
    assert_eq!(fixture.store.jobs_before(JobId(u64::MAX), 9).await.unwrap().len(), 2);
}

#[tokio::test]
async fn frames_finished_before_a_restart_are_in_the_movie() {
    let fixture = Fixture::new().await;
    let job = fixture.movie("r");
    let frames = FrameSet::new(vec![FrameRange { first: 1, last: 2, step: 1 }]).unwrap();
    let spec = Arc::new(JobSpec { frames, ..(*job.spec).clone() });
    let (source, _) = fixture.driver.submit(NewJob { spec, ..job }).await.unwrap();
    fixture.node().await;
    let batch = fixture.batch(source.job).await;
    let finish =
        |frame| vec![BatchReport::Finished(Slice::whole(frame), rendered()), BatchReport::Ended];
    fixture.driver.report(batch, finish(1)).await;
    fixture.until(source.job, |record| record.status.counts.finished == 1).await;
    let fixture = fixture.restart().await;
    let batch = fixture.batch(source.job).await;
    fixture.driver.report(batch, finish(2)).await;
    let ended = fixture.until(source.job, |record| record.status.state.is_final()).await;
    let movie = fixture.store.job(ended.status.movie_job.unwrap()).await.unwrap().unwrap();
    assert_eq!(movie.spec.project.files.len(), 2);
}

#[tokio::test]
async fn no_movie_follows_from_a_failed_or_cancelled_job() {
    let fixture = Fixture::new().await;
    let (failing, _) = fixture.driver.submit(fixture.movie("a")).await.unwrap();
    let (cancelled, _) = fixture.driver.submit(fixture.movie("b")).await.unwrap();
    fixture.driver.cancel(cancelled.job).await.unwrap();
    fixture.node().await;
    let batch = fixture.batch(failing.job).await;
    let failure = crate::domain::Failure {
        reason: crate::domain::FailureReason::Permanent,
        message: String::new(),
        log_tail: Vec::new(),
    };
    fixture.driver.report(batch, vec![BatchReport::Failed(Slice::whole(7), failure)]).await;
    for job in [failing.job, cancelled.job] {
        let record = fixture.until(job, |record| record.status.state.is_final()).await;
        assert_eq!(record.status.movie_job, None);
    }
    assert_eq!(fixture.store.jobs_before(JobId(u64::MAX), 9).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_node_keeps_its_lease_while_a_commit_is_held() {
    let (fixture, batch) = Fixture::with_a_held_commit().await;
    // Only the registered node gets an answer while nothing can be written.
    let beat = |node: &str, life| {
        fixture.driver.heartbeat(node.into(), Incarnation(life), vec![batch], BatchId(0), false)
    };
    assert_eq!(beat("a", 1).await.unwrap(), []);
    let unknown = beat("b", 1);
    let mut unknown = std::pin::pin!(unknown);
    assert!(unknown.as_mut().now_or_never().is_none());
    assert_eq!(beat("a", 1).await.unwrap(), []);
    fixture.store.faults.is_full.store(false, Ordering::SeqCst);
    let error = unknown.await.unwrap_err();
    assert!(matches!(error, MembershipError::NotRegistered(_)), "{error}");
}

#[tokio::test]
async fn a_job_says_that_it_waits_for_the_disk_while_a_commit_is_held() {
    let (fixture, _) = Fixture::with_a_held_commit().await;
    let requirements = crate::domain::Requirements::of_file("3.4".parse().unwrap());
    let is_told = || {
        let reason = fixture.feed.waiting_reason(JobId(1), &requirements);
        reason.contains("cannot write to its store")
    };
    assert!(!is_told(), "it may be over in a moment");
    tokio::time::pause();
    tokio::time::advance(HELD_SHOWN_AFTER).await;
    tokio::time::resume();
    while !is_told() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    fixture.store.faults.is_full.store(false, Ordering::SeqCst);
    while is_told() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_driver_that_lost_its_store_stops_before_it_acts() {
    let mut fixture = Fixture::new().await;
    fixture.driver.submit(fixture.job("r")).await.unwrap();
    let other = fixture.store.reopen();
    let error = fixture.store.check_epoch().await.unwrap_err();
    assert!(matches!(error, StoreError::Superseded), "{error}");
    // A submission is enough to find out.
    let error = fixture.driver.submit(fixture.job("late")).await.unwrap_err();
    assert!(matches!(error, SubmitError::NoAnswer(NoAnswer::ShuttingDown)), "{error}");
    let ended = (&mut fixture.running).await.unwrap();
    assert!(matches!(ended, Err(StoreError::Superseded)), "{ended:?}");
    assert_eq!(other.jobs_before(JobId(u64::MAX), 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_driver_that_lost_its_store_notices_without_a_commit() {
    let mut fixture = Fixture::with_lease(Duration::from_secs(3)).await;
    let _other = fixture.store.reopen();
    let ended = tokio::time::timeout(Duration::from_secs(30), &mut fixture.running).await;
    let ended = ended.expect("it goes on").unwrap();
    assert!(matches!(ended, Err(StoreError::Superseded)), "{ended:?}");
}

#[tokio::test]
async fn after_a_gap_nodes_are_answered_although_the_commit_is_still_held() {
    let (fixture, batch) = Fixture::with_a_held_commit().await;
    tokio::time::pause();
    tokio::time::advance(STALL * 2).await;
    tokio::time::resume();
    let answer =
        fixture.driver.heartbeat("a".into(), Incarnation(1), vec![batch], BatchId(0), false).await;
    assert_eq!(answer.unwrap(), []);
    assert!(fixture.store.faults.is_full.load(Ordering::SeqCst));
}

#[tokio::test]
async fn nodes_that_wait_for_a_held_commit_do_not_delay_others() {
    let (fixture, _) = Fixture::with_a_held_commit().await;
    let beat = |node: &str| {
        let driver = fixture.driver.clone();
        let node = node.into();
        async move { driver.heartbeat(node, Incarnation(1), Vec::new(), BatchId(0), false).await }
            .boxed()
    };
    let mut strangers = Vec::new();
    for number in 0..=DEFERRED_MAX {
        let mut stranger = beat(&format!("stranger-{number}"));
        assert!((&mut stranger).now_or_never().is_none());
        strangers.push(stranger);
        tokio::task::yield_now().await;
    }
    assert_eq!(beat("a").await.unwrap(), []);
    // Heartbeats whose senders gave up make room.
    drop(strangers);
    let mut late = beat("b");
    assert!((&mut late).now_or_never().is_none());
    assert_eq!(beat("a").await.unwrap(), []);
    fixture.store.faults.is_full.store(false, Ordering::SeqCst);
    let error = late.await.unwrap_err();
    assert!(matches!(error, MembershipError::NotRegistered(_)), "{error}");
}

#[tokio::test]
async fn a_node_that_gave_up_during_a_held_commit_is_not_registered() {
    let (fixture, _) = Fixture::with_a_held_commit().await;
    let registration = Registration {
        node: "b".into(),
        incarnation: Incarnation(1),
        address: "http://127.0.0.1:9".to_owned(),
        description: NodeDescription::default(),
        batches: Vec::new(),
        neighbour: None,
        replaces: None,
    };
    assert!(fixture.driver.register(registration).now_or_never().is_none());
    fixture.store.faults.is_full.store(false, Ordering::SeqCst);
    // Cancelling comes after it, and waits for the commit.
    fixture.driver.cancel(JobId(99)).await.unwrap();
    let nodes = fixture.store.restore().await.unwrap().nodes;
    assert_eq!(nodes.iter().map(|(node, _)| &**node).collect::<Vec<_>>(), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_held_commit_is_remembered_for_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let (driver, mailbox) = mailbox(Blobs::open(dir.path(), None).unwrap());
    let hour = Duration::from_secs(3_600);
    assert!(!mailbox.store_health.recovered());
    assert!(!driver.store_failed_within(hour));
    mailbox.store_health.failed();
    tokio::time::advance(hour * 2).await;
    assert!(driver.store_failed_within(hour));
    assert!(mailbox.store_health.recovered());
    tokio::time::advance(hour / 2).await;
    assert!(driver.store_failed_within(hour));
    tokio::time::advance(hour / 2).await;
    assert!(!driver.store_failed_within(hour));
}

/// Fails a frame permanently.
async fn fail(fixture: &Fixture, batch: BatchId, frame: i32) {
    let failure = crate::domain::Failure {
        reason: crate::domain::FailureReason::Permanent,
        message: "the file is damaged".to_owned(),
        log_tail: Vec::new(),
    };
    fixture.driver.report(batch, vec![BatchReport::Failed(Slice::whole(frame), failure)]).await;
}

#[tokio::test]
async fn a_failed_job_that_is_retried_continues_and_its_movie_follows() {
    let fixture = Fixture::new().await;
    let (job, _) = fixture.driver.submit(fixture.movie("r")).await.unwrap();
    fixture.node().await;
    let batch = fixture.batch(job.job).await;
    fail(&fixture, batch, 7).await;
    fixture.driver.report(batch, vec![BatchReport::Ended]).await;
    let over = fixture.until(job.job, |record| record.status.state == JobState::Failed).await;
    // Also after a restart, with the job from the store.
    let fixture = fixture.restart().await;
    let none = fixture.driver.retry_frames(job.job, Some(FrameSet::one(8))).await.unwrap();
    assert_eq!((none.1, none.0.status.state), (0, JobState::Failed));
    let (record, reopened) = fixture.driver.retry_frames(job.job, None).await.unwrap();
    assert_eq!((reopened, record.status.counts.open), (1, 1));
    assert_eq!(record.status.ended_at_ms, 0);
    assert!(record.status.revision > over.status.revision);
    let stored = fixture.store.job(job.job).await.unwrap().unwrap();
    assert!(!stored.status.state.is_final(), "{:?}", stored.status);
    let again = fixture.driver.retry_frames(job.job, None).await.unwrap();
    assert_eq!(again.1, 0);

    let latest = fixture.batch(job.job).await;
    assert!(latest > batch);
    let done = vec![BatchReport::Finished(Slice::whole(7), rendered())];
    fixture.driver.report(latest, done).await;
    let over = fixture.until(job.job, |record| record.status.state.is_final()).await;
    assert_eq!(over.status.state, JobState::Finished);
    assert!(over.status.movie_job.is_some());
    let error = fixture.driver.retry_frames(JobId(99), None).await.unwrap_err();
    assert!(matches!(error, RetryError::NotFound), "{error}");
}

#[tokio::test]
async fn a_finished_frame_is_adopted_once_its_outputs_are_stored() {
    let fixture = Fixture::new().await;
    let (job, _) = fixture.driver.submit(fixture.job("r")).await.unwrap();
    fixture.node().await;
    let offer = |frame, job| {
        let frames = vec![(job, Slice::whole(frame), rendered())];
        fixture.driver.adopt("a".into(), Incarnation(1), frames)
    };
    assert_eq!(offer(5, job.job).await.unwrap(), [Adoption::BlobsMissing]);
    assert_eq!(offer(50, job.job).await.unwrap(), [Adoption::Unwanted]);
    assert_eq!(offer(5, JobId(9)).await.unwrap(), [Adoption::Unwanted]);
    let blob = fixture
        .dir
        .path()
        .join("blobs")
        .join(blob_path(std::path::Path::new(""), Digest::of(b"1")));
    std::fs::write(blob, b"1").unwrap();
    assert_eq!(offer(5, job.job).await.unwrap(), [Adoption::Adopted]);
    let record = fixture.store.job(job.job).await.unwrap().unwrap();
    assert_eq!(record.status.counts.finished, 1);
    // The same call again, before and after a restart.
    assert_eq!(offer(5, job.job).await.unwrap(), [Adoption::Adopted]);
    let other = Rendered { outputs: vec![], ..rendered() };
    let frames = vec![(job.job, Slice::whole(5), other)];
    let answer = fixture.driver.adopt("a".into(), Incarnation(1), frames).await.unwrap();
    assert_eq!(answer, [Adoption::Unwanted]);
    let error = fixture.driver.adopt("b".into(), Incarnation(1), Vec::new()).await.unwrap_err();
    assert!(matches!(error, AdoptError::Membership(MembershipError::NotRegistered(_))), "{error}");
}

#[tokio::test]
async fn when_the_disk_runs_low_new_jobs_are_refused_and_frames_continue() {
    let fixture = Fixture::new().await;
    let (job, _) = fixture.driver.submit(fixture.job("r")).await.unwrap();
    fixture.node().await;
    let batch = fixture.batch(job.job).await;
    fixture.store.faults.is_low.store(true, Ordering::SeqCst);
    let error = fixture.driver.submit(fixture.job("s")).await.unwrap_err();
    assert!(matches!(error, SubmitError::Store(StoreError::Low { .. })), "{error}");
    // A repeated request is answered.
    assert!(fixture.driver.submit(fixture.job("r")).await.unwrap().1);
    fixture.driver.report(batch, vec![BatchReport::Finished(Slice::whole(1), rendered())]).await;
    fixture.until(job.job, |record| record.status.counts.finished == 1).await;
}

#[tokio::test]
async fn a_driver_that_shuts_down_accepts_no_more_jobs() {
    let fixture = Fixture::new().await;
    fixture.driver.close();
    let error = fixture.driver.submit(fixture.job("r")).await.unwrap_err();
    assert!(matches!(error, SubmitError::NoAnswer(NoAnswer::ShuttingDown)), "{error}");
}
