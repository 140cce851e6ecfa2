#![allow(clippy::unwrap_used)]
use super::{log_reader::LINES_IN_MESSAGE, *};
use crate::{
    domain::{Attempts, Failure, FailureReason, FrameSet, FrameState, JobSpec, JobState},
    store::{Group, Ledger as _, LogRecord, MemoryStore, Request},
};

/// Job 1, of one frame, in a store of its own, as the driver would commit and publish it.
struct Fixture {
    store: Arc<MemoryStore>,
    feed: Arc<Feed>,
    record: JobRecord,
}

impl Fixture {
    async fn new() -> Self {
        let store = Arc::new(MemoryStore::new());
        let identity = store.identity();
        let spec = JobSpec::for_test(FrameSet::one(1));
        let version = "3.4".parse().unwrap();
        let record = JobRecord::submitted(JobId(1), Arc::new(spec), version, 0);
        let request = Request { request_id: "r".to_owned(), fingerprint: "f".to_owned() };
        let new_jobs = vec![(request, record.clone())];
        store.commit(&Group { new_jobs, ..Group::default() }).await.unwrap();
        let feed = Arc::new(Feed::new(store.clone(), identity));
        feed.open_job(&record);
        Self { store, feed, record }
    }

    /// What the driver commits next, before it is published.
    async fn commit(&mut self, state: JobState) -> JobChange {
        let status = &mut self.record.status;
        status.state = state;
        status.revision += 1;
        let jobs = [(JobId(1), status.clone())].into();
        self.store.commit(&Group { jobs, ..Group::default() }).await.unwrap();
        let status = self.record.status.clone();
        JobChange { status, frames: Vec::new(), previews: Vec::new(), active: Vec::new() }
    }
}

#[tokio::test]
async fn frames_that_fail_at_length_are_kept_for_watchers_by_their_bytes() {
    let fixture = Fixture::new().await;
    let failure = Failure {
        reason: FailureReason::Renderer,
        message: "Blender crashed".to_owned(),
        log_tail: vec!["x".repeat(2_000); 20],
    };
    let failed = |revision| {
        Arc::new(Frame {
            frame: 1,
            state: FrameState::Open,
            revision,
            attempts: Attempts::default(),
            rendered: None,
            failure: Some(failure.clone()),
            node: None,
        })
    };
    let feed = lock(&fixture.feed.jobs)[&JobId(1)].clone();
    let mut now = lock(&feed.now);
    (2..1_000).for_each(|revision| now.keep(failed(revision)));
    let frame_bytes = bytes_of(&now.recent[0]);
    assert_eq!(now.recent.len(), RECENT_BYTES / frame_bytes);
    assert_eq!(now.recent_bytes, now.recent.len() * frame_bytes);
    assert_eq!(now.recent_above + 1, now.recent[0].revision, "others are read from the store");
}

#[tokio::test]
async fn a_reader_of_one_frame_s_log_reads_each_other_line_once() {
    let mut fixture = Fixture::new().await;
    let mut reader = fixture.feed.read_log(JobId(1), Some(1), true).await.unwrap();
    let line = |line: u64, frame| LogRecord {
        line,
        frame: Some(frame),
        node: "a".into(),
        at_ms: 0,
        text: "Saved".to_owned(),
    };
    let others = u64::from(2 * LINES_IN_MESSAGE);
    let mut lines: Vec<_> = (1..=others).map(|number| line(number, 2)).collect();
    lines.push(line(others + 1, 1));
    lines.push(line(others + 2, 2));
    let log = [(JobId(1), lines)].into();
    fixture.store.commit(&Group { log, ..Group::default() }).await.unwrap();
    let (lines, lost) = reader.next().await.unwrap().unwrap();
    assert_eq!((lines.len(), lines[0].line, lost), (1, others + 1, 0));
    assert_eq!(reader.next, others + 3, "it skips the last line");
    let news = fixture.commit(JobState::Finished).await;
    fixture.feed.publish_job(&fixture.record, news);
    assert!(reader.next().await.unwrap().is_none());
}

#[tokio::test]
async fn a_watch_of_an_open_job_reads_no_job_from_the_store() {
    let mut fixture = Fixture::new().await;
    let reads = || fixture.store.faults.reads.load(Ordering::SeqCst);
    let before = reads();
    let watch = fixture.feed.watch(JobId(1), 1, "").await.unwrap();
    assert!(Arc::ptr_eq(&watch.record().spec, &fixture.record.spec));
    fixture.feed.read_log(JobId(1), None, true).await.unwrap();
    assert_eq!(reads(), before);
    // A client may know a revision that is not published yet, and may watch from it.
    let news = fixture.commit(JobState::Rendering).await;
    let mut watch = fixture.feed.watch(JobId(1), 2, "").await.unwrap();
    fixture.feed.publish_job(&fixture.record, news);
    assert_eq!(watch.next().await.unwrap().unwrap().0, 2);
    let error = fixture.feed.watch(JobId(1), 3, "").await.unwrap_err();
    assert!(matches!(error, WatchError::FutureRevision { after: 3, current: 2 }), "{error}");
}

#[tokio::test]
async fn a_watch_of_a_failed_job_continues_when_it_is_retried() {
    let mut fixture = Fixture::new().await;
    let mut joins = fixture.feed.watch(JobId(1), 0, "").await.unwrap();
    let mut resumes = fixture.feed.watch(JobId(1), 1, "").await.unwrap();
    let news = fixture.commit(JobState::Failed).await;
    fixture.feed.publish_job(&fixture.record, news);
    fixture.commit(JobState::Queued).await;
    fixture.feed.open_job(&fixture.record);
    let over = fixture.commit(JobState::Failed).await;
    // Readable, and not published yet.
    let joins = tokio::spawn(async move {
        let first = joins.next().await.unwrap().unwrap();
        (first.0, joins.next().await.unwrap().unwrap().0)
    });
    // It waits for the new feed.
    let waits = || lock(&fixture.feed.jobs)[&JobId(1)].changed.receiver_count() > 0;
    let waiting = async {
        while !waits() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap();
    assert!(!joins.is_finished());
    fixture.feed.publish_job(&fixture.record, over);
    assert_eq!(joins.await.unwrap(), (4, 4));
    // From the first feed it gets only the end.
    let (revision, update) = resumes.next().await.unwrap().unwrap();
    assert!(matches!(update, Update::Changes { .. }) && revision == 2);
}
