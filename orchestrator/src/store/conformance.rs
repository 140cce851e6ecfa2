//! The behaviour that every kind of store shows: each test runs on each kind.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use bytes::Bytes;
use framecrew_blobs::Digest;
use tempfile::TempDir;

use super::{
    BatchRecord, Group, JobRecord, LOG_LINES_MAX, Location, LogRecord, MemoryStore, NodeRecord,
    Opened, Options, Request, StoreError, open,
};
use crate::domain::{
    Attempts, BatchId, Chunk, Failure, FailureReason, Frame, FrameSet, FrameState, Incarnation,
    JobId, JobSpec, JobState, NodeDescription, Output, Preview, Project, ProjectFile, Rendered,
    Slice, Warning, WarningKind,
};

/// One store that is opened again and again.
enum Subject {
    Sqlite(TempDir),
    Memory(MemoryStore),
}

impl Subject {
    fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().unwrap())
    }

    fn memory() -> Self {
        Self::Memory(MemoryStore::new())
    }

    /// Opens the store in a new epoch, beside the handles that are open.
    async fn open(&self) -> Opened {
        match self {
            Self::Sqlite(dir) => {
                let location = Location::Sqlite(dir.path().join("db"));
                open(&location, Options::default()).await.unwrap()
            }
            Self::Memory(store) => {
                let store = Arc::new(store.reopen());
                let identity = store.identity();
                Opened { ledger: store.clone(), archive: store, identity }
            }
        }
    }
}

macro_rules! on_each_kind {
    ($($test:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::Subject::sqlite()).await;
            })*
        }
        mod memory {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::Subject::memory()).await;
            })*
        }
    };
}

on_each_kind!(
    a_job_is_found_by_its_number_and_by_its_request,
    jobs_are_listed_without_their_projects_and_shown_with_them,
    frames_are_read_by_number_and_by_revision,
    a_later_state_replaces_a_frame_and_no_preview_keeps_its_bytes,
    a_snapshot_has_each_state_and_the_latest_failures,
    warnings_are_added_and_no_new_status_drops_them,
    a_log_keeps_its_latest_lines,
    a_restart_goes_on_from_what_is_open,
    a_superseded_orchestrator_writes_nothing,
    an_epoch_rises_and_the_name_of_the_store_stays,
    each_blob_that_a_job_needs_is_pinned,
    uses_of_blobs_are_saved_replaced_and_forgotten,
    a_crash_leaves_the_uses_of_blobs_incomplete,
);

fn digest(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

fn job(id: u64) -> (Request, JobRecord) {
    let blend = ProjectFile {
        path: "\"shot\" é\n.blend".to_owned(),
        digest: digest("blend"),
        size_bytes: 5,
        chunks: Vec::new(),
    };
    let chunks = vec![Chunk { digest: digest("chunk"), size_bytes: 9 }];
    let cache =
        ProjectFile { path: "cache".to_owned(), digest: digest("cache"), size_bytes: 9, chunks };
    let spec = JobSpec {
        project: Project { blend_path: blend.path.clone(), files: vec![blend, cache] },
        ..JobSpec::for_test(FrameSet::one(1))
    };
    let request = Request { request_id: format!("r{id}"), fingerprint: "f".to_owned() };
    (request, JobRecord::submitted(JobId(id), Arc::new(spec), "3.4".parse().unwrap(), 7))
}

fn open_frame(frame: i32, revision: u64) -> Frame {
    Frame {
        frame,
        state: FrameState::Open,
        revision,
        attempts: Attempts::default(),
        rendered: None,
        failure: None,
        node: None,
    }
}

fn failed_frame(frame: i32, revision: u64) -> Frame {
    let failure = Failure {
        reason: FailureReason::Renderer,
        message: "Blender crashed".to_owned(),
        log_tail: vec!["Segmentation fault".to_owned()],
    };
    Frame {
        state: FrameState::Failed,
        attempts: Attempts { renderer: 3, failed_on: vec!["a".into()], ..Attempts::default() },
        failure: Some(failure),
        node: Some("a".into()),
        ..open_frame(frame, revision)
    }
}

fn finished_frame(frame: i32, revision: u64) -> Frame {
    let preview = Preview {
        digest: digest("preview"),
        size_bytes: 4,
        width: 2,
        height: 2,
        data: Bytes::from_static(b"jpeg"),
    };
    let output = Output {
        name: "0001.png".to_owned(),
        digest: digest("output"),
        size_bytes: 6,
        width: 4,
        height: 4,
        channels: 4,
    };
    let rendered = Rendered {
        outputs: vec![output],
        render_seconds: 1.5,
        peak_memory_bytes: 1 << 40,
        preview: Some(preview),
    };
    Frame {
        state: FrameState::Finished,
        rendered: Some(rendered),
        node: Some("b".into()),
        ..open_frame(frame, revision)
    }
}

fn line(line: u64, frame: Option<i32>) -> LogRecord {
    LogRecord { line, frame, node: "a".into(), at_ms: 1, text: format!("line {line}") }
}

fn with_jobs(ids: impl IntoIterator<Item = u64>) -> Group {
    Group { new_jobs: ids.into_iter().map(job).collect(), ..Group::default() }
}

fn with_frames(frames: impl IntoIterator<Item = Frame>) -> Group {
    let frames = frames.into_iter().map(|it| ((JobId(1), Slice::whole(it.frame)), Arc::new(it)));
    Group { frames: frames.collect(), ..Group::default() }
}

/// A store with job 1.
async fn with_a_job(subject: &Subject) -> Opened {
    let opened = subject.open().await;
    opened.ledger.commit(&with_jobs([1])).await.unwrap();
    opened
}

async fn a_job_is_found_by_its_number_and_by_its_request(subject: Subject) {
    let Opened { archive, .. } = with_a_job(&subject).await;
    let found = archive.job(JobId(1)).await.unwrap().unwrap();
    let (_, sent) = job(1);
    assert_eq!((&found.spec, &found.status), (&sent.spec, &sent.status));
    assert_eq!((found.file_version, found.submitted_at_ms), (sent.file_version, 7));
    let (id, request) = archive.find_request("r1").await.unwrap().unwrap();
    assert_eq!((id, &*request.fingerprint), (JobId(1), "f"));
    assert!(archive.find_request("r2").await.unwrap().is_none());
    assert!(archive.job(JobId(2)).await.unwrap().is_none());
}

async fn jobs_are_listed_without_their_projects_and_shown_with_them(subject: Subject) {
    let Opened { ledger, archive, .. } = with_a_job(&subject).await;
    ledger.commit(&with_jobs([2, 3])).await.unwrap();
    let listed = archive.jobs_before(JobId(u64::MAX), 2).await.unwrap();
    assert_eq!(listed.iter().map(|it| it.job.0).collect::<Vec<_>>(), [3, 2]);
    let (_, sent) = job(1);
    assert_eq!(*listed[0].spec, sent.spec.without_project());
    let brief = archive.job_without_project(JobId(1)).await.unwrap().unwrap();
    assert_eq!(*brief.spec, sent.spec.without_project());
    assert_eq!(archive.job(JobId(1)).await.unwrap().unwrap().spec, sent.spec);
    for unknown in [JobId(0), JobId(4), JobId(i64::MAX as u64)] {
        assert!(archive.job_without_project(unknown).await.unwrap().is_none());
    }
}

async fn frames_are_read_by_number_and_by_revision(subject: Subject) {
    let Opened { ledger, archive, .. } = with_a_job(&subject).await;
    let group = with_frames([open_frame(-3, 4), open_frame(5, 2), open_frame(20, 3)]);
    ledger.commit(&group).await.unwrap();
    let numbers = |frames: Vec<Frame>| frames.iter().map(|it| it.frame).collect::<Vec<_>>();
    let job = JobId(1);
    assert_eq!(numbers(archive.frames_after(job, i64::MIN, 9).await.unwrap()), [-3, 5, 20]);
    assert_eq!(numbers(archive.frames_after(job, -3, 1).await.unwrap()), [5]);
    assert_eq!(numbers(archive.frames_changed(job, 0, 9).await.unwrap()), [5, 20, -3]);
    assert_eq!(numbers(archive.frames_changed(job, 2, 1).await.unwrap()), [20]);
    assert_eq!(numbers(archive.frames_after(JobId(2), i64::MIN, 9).await.unwrap()), [0; 0]);
}

async fn a_later_state_replaces_a_frame_and_no_preview_keeps_its_bytes(subject: Subject) {
    let Opened { ledger, archive, .. } = with_a_job(&subject).await;
    ledger.commit(&with_frames([failed_frame(1, 2)])).await.unwrap();
    assert_eq!(archive.frames_after(JobId(1), 0, 9).await.unwrap(), [failed_frame(1, 2)]);
    ledger.commit(&with_frames([finished_frame(1, 3)])).await.unwrap();
    let mut expected = finished_frame(1, 3);
    let preview = expected.rendered.as_mut().and_then(|it| it.preview.as_mut()).unwrap();
    preview.data = Bytes::new();
    assert_eq!(archive.frames_after(JobId(1), 0, 9).await.unwrap(), [expected]);
}

async fn a_snapshot_has_each_state_and_the_latest_failures(subject: Subject) {
    let Opened { ledger, archive, .. } = with_a_job(&subject).await;
    let frames = [finished_frame(1, 2), failed_frame(2, 5), failed_frame(3, 3), failed_frame(4, 4)];
    ledger.commit(&with_frames(frames)).await.unwrap();
    let snapshot = archive.snapshot(JobId(1), 2).await.unwrap().unwrap();
    assert_eq!(*snapshot.job.spec, job(1).1.spec.without_project());
    let failed = |frame| (frame, FrameState::Failed);
    assert_eq!(snapshot.states, [(1, FrameState::Finished), failed(2), failed(3), failed(4)]);
    assert_eq!(snapshot.troubled, [failed_frame(2, 5), failed_frame(4, 4)]);
    assert!(archive.snapshot(JobId(2), 2).await.unwrap().is_none());
}

async fn warnings_are_added_and_no_new_status_drops_them(subject: Subject) {
    let Opened { ledger, archive, .. } = with_a_job(&subject).await;
    let warning = |text: &str| Warning { kind: WarningKind::MissingFile, text: text.to_owned() };
    let mut status = job(1).1.status;
    for (number, text) in ["a", "b"].into_iter().enumerate() {
        status.revision += 1;
        let mut group = Group::default();
        group.warnings.insert(JobId(1), vec![(number, warning(text))]);
        group.jobs.insert(JobId(1), status.clone());
        ledger.commit(&group).await.unwrap();
    }
    status.warnings = [warning("a"), warning("b")].into();
    status.state = JobState::Rendering;
    status.started_at_ms = 8;
    status.movie_job = Some(JobId(9));
    let jobs = [(JobId(1), status.clone())].into();
    ledger.commit(&Group { jobs, ..Group::default() }).await.unwrap();
    for record in [
        archive.job(JobId(1)).await.unwrap().unwrap(),
        archive.job_without_project(JobId(1)).await.unwrap().unwrap(),
        archive.snapshot(JobId(1), 0).await.unwrap().unwrap().job,
        ledger.restore().await.unwrap().open_jobs.remove(0).0,
    ] {
        assert_eq!(record.status, status);
    }
}

async fn a_log_keeps_its_latest_lines(subject: Subject) {
    let Opened { ledger, archive, .. } = with_a_job(&subject).await;
    let append = async |lines: Vec<LogRecord>| {
        let log = [(JobId(1), lines)].into();
        ledger.commit(&Group { log, ..Group::default() }).await.unwrap();
    };
    append(vec![line(1, Some(1)), line(2, None), line(3, Some(2))]).await;
    let read = async |frame, from| {
        let lines = archive.log(JobId(1), frame, from, 2).await.unwrap();
        lines.iter().map(|it| it.line).collect::<Vec<_>>()
    };
    assert_eq!(read(None, 1).await, [1, 2]);
    assert_eq!(read(None, 3).await, [3]);
    assert_eq!(read(Some(2), 1).await, [3]);
    let text = &archive.log(JobId(1), None, 2, 1).await.unwrap()[0].text;
    assert_eq!(text, "line 2");
    append((4..=LOG_LINES_MAX + 2).map(|number| line(number, None)).collect()).await;
    assert_eq!(read(None, 1).await, [3, 4], "the first two are dropped");
}

async fn a_restart_goes_on_from_what_is_open(subject: Subject) {
    let Opened { ledger, .. } = with_a_job(&subject).await;
    let mut group = with_frames([finished_frame(1, 2), failed_frame(2, 3)]);
    group.new_jobs = vec![job(2)];
    let over = job(2).1.status;
    group.jobs.insert(JobId(2), crate::store::JobStatus { state: JobState::Cancelled, ..over });
    group.log.insert(JobId(1), vec![line(1, None)]);
    let record = NodeRecord {
        incarnation: Incarnation(5),
        address: "http://127.0.0.1:9".to_owned(),
        description: NodeDescription { slots: 2, ..NodeDescription::default() },
    };
    group.nodes.insert("a".into(), Some(record.clone()));
    group.nodes.insert("b".into(), Some(record));
    let slices = vec![Slice::whole(3)];
    for batch in [7, 8] {
        let batch_record = BatchRecord {
            job: JobId(1),
            node: "a".into(),
            slices: slices.clone(),
            log_sequence: 0,
        };
        group.started_batches.insert(BatchId(batch), batch_record);
    }
    ledger.commit(&group).await.unwrap();
    let mut group = Group::default();
    group.log_sequences.insert(BatchId(7), 3);
    group.ended_batches.insert(BatchId(8));
    group.nodes.insert("b".into(), None);
    ledger.commit(&group).await.unwrap();

    let restored = subject.open().await.ledger.restore().await.unwrap();
    let (record, progress) = &restored.open_jobs[0];
    assert_eq!((restored.open_jobs.len(), &record.spec), (1, &job(1).1.spec));
    assert_eq!(progress.finished, [1]);
    let attempts = failed_frame(2, 3).attempts;
    assert_eq!(progress.tried, [(2, FrameState::Failed, attempts)]);
    assert_eq!(progress.next_log_line, 2);
    let (batch, record) = &restored.batches[0];
    assert_eq!((restored.batches.len(), *batch, record.log_sequence), (1, BatchId(7), 3));
    assert_eq!((record.job, &*record.node, &record.slices), (JobId(1), "a", &slices));
    let (name, node) = &restored.nodes[0];
    assert_eq!((restored.nodes.len(), &**name, node.incarnation), (1, "a", Incarnation(5)));
    assert_eq!(node.description.slots, 2);
    assert_eq!((restored.last_job, restored.commits), (2, 3));
}

async fn a_superseded_orchestrator_writes_nothing(subject: Subject) {
    let former = with_a_job(&subject).await;
    former.ledger.check_epoch().await.unwrap();
    let latest = subject.open().await;
    let error = former.ledger.commit(&with_jobs([2])).await.unwrap_err();
    assert!(matches!(error, StoreError::Superseded), "{error}");
    let error = former.ledger.check_epoch().await.unwrap_err();
    assert!(matches!(error, StoreError::Superseded), "{error}");
    assert!(latest.archive.job(JobId(2)).await.unwrap().is_none());
    latest.ledger.commit(&with_jobs([2])).await.unwrap();
    assert_eq!(latest.ledger.restore().await.unwrap().commits, 2);
}

async fn an_epoch_rises_and_the_name_of_the_store_stays(subject: Subject) {
    let first = subject.open().await.identity;
    let second = subject.open().await.identity;
    assert_eq!(first.store_id, second.store_id);
    assert!(second.epoch > first.epoch);
    // Some time in 2020: the epoch follows the clock, so that it rises across stores.
    assert!(first.epoch.0 > 1_600_000_000);
}

async fn each_blob_that_a_job_needs_is_pinned(subject: Subject) {
    let Opened { ledger, archive, .. } = with_a_job(&subject).await;
    ledger.commit(&with_frames([finished_frame(1, 2)])).await.unwrap();
    let mut pins = Vec::new();
    archive.pins(&mut |digest| pins.push(digest)).await.unwrap();
    for needed in ["blend", "chunk", "output", "preview"] {
        assert!(pins.contains(&digest(needed)), "{needed}");
    }
}

async fn uses_of_blobs_are_saved_replaced_and_forgotten(subject: Subject) {
    let Opened { ledger, archive, .. } = subject.open().await;
    let uses = async || {
        let mut uses = Vec::new();
        archive.blob_uses(&mut |digest, at_ms| uses.push((digest, at_ms))).await.unwrap();
        uses.sort_unstable();
        uses
    };
    let (a, b) = (digest("a"), digest("b"));
    ledger.save_blob_uses(&[(a, 1), (b, 2)]).await.unwrap();
    ledger.save_blob_uses(&[(a, 3)]).await.unwrap();
    let mut expected = [(a, 3), (b, 2)];
    expected.sort_unstable();
    assert_eq!(uses().await, expected);
    ledger.forget_blob_uses(&[a, digest("unknown")]).await.unwrap();
    assert_eq!(uses().await, [(b, 2)]);
    let many: Vec<_> = (0..2_500_u32).map(|n| (Digest::of(&n.to_le_bytes()), 9)).collect();
    ledger.save_blob_uses(&many).await.unwrap();
    assert_eq!(uses().await.len(), 2_501);
    ledger
        .forget_blob_uses(&many.iter().map(|(digest, _)| *digest).collect::<Vec<_>>())
        .await
        .unwrap();
    assert_eq!(uses().await, [(b, 2)]);

    let latest = subject.open().await.ledger;
    let error = ledger.save_blob_uses(&[(a, 4)]).await.unwrap_err();
    assert!(matches!(error, StoreError::Superseded), "{error}");
    let error = ledger.forget_blob_uses(&[b]).await.unwrap_err();
    assert!(matches!(error, StoreError::Superseded), "{error}");
    assert_eq!(uses().await, [(b, 2)]);
    assert_eq!(latest.restore().await.unwrap().commits, 0, "the history counts none of this");
}

async fn a_crash_leaves_the_uses_of_blobs_incomplete(subject: Subject) {
    let ledger = subject.open().await.ledger;
    assert!(ledger.mark_blob_uses(false).await.unwrap(), "a new store has no unsaved uses");
    let crashed = subject.open().await.ledger;
    assert!(!crashed.mark_blob_uses(false).await.unwrap());
    crashed.mark_blob_uses(true).await.unwrap();
    let stopped = subject.open().await.ledger;
    assert!(stopped.mark_blob_uses(false).await.unwrap());
}
