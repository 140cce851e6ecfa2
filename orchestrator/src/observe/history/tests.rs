#![allow(clippy::unwrap_used)]

use std::{fs, path::PathBuf};

use framecrew_blobs::Digest;
use tempfile::TempDir;

use super::*;
use crate::domain::{
    Attempts, BatchId, Epoch, FrameCounts, FrameState, JobState, Output, Rendered, Slice,
};

const JOB: JobId = JobId(1);
const BATCH: BatchId = BatchId(1 << 32 | 1);

struct Written {
    _dir: TempDir,
    path: PathBuf,
    history: History,
}

impl Written {
    /// The history of a store in which a node has a batch of two frames.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history");
        let mut this = Self { _dir: dir, history: History::append_to(&path).unwrap(), path };
        this.open(1, 0);
        let frames = FrameSet::new(vec![crate::domain::FrameRange { first: 1, last: 2, step: 1 }]);
        this.history.records.push(Record::Submitted { job: JOB, frames: frames.unwrap() });
        this.commit(&[]);
        this.history.registering(&"a".into(), Incarnation(1), 1);
        this.history.acted(&Action::NodeChanged { node: "a".into() });
        this.history.registered();
        let slices = vec![Slice::whole(1), Slice::whole(2)];
        let (node, incarnation) = ("a".into(), Incarnation(1));
        this.commit(&[Action::StartBatch { batch: BATCH, job: JOB, node, incarnation, slices }]);
        this
    }

    fn open(&mut self, epoch: u32, commits: u64) {
        self.history = History::append_to(&self.path).unwrap();
        let store_id = "store".into();
        self.history.opened(&Identity { store_id, epoch: Epoch(epoch) }, commits);
    }

    fn announce(&mut self, actions: &[Action]) {
        actions.iter().for_each(|action| self.history.acted(action));
        self.history.announced(true);
    }

    fn commit(&mut self, actions: &[Action]) {
        self.announce(actions);
        self.history.durable();
    }

    fn replay(&self) -> Result<Replayed, ReplayError> {
        replay(&self.path)
    }
}

fn finish(frame: i32, revision: u64) -> Action {
    let digest = Digest::of(b"a frame");
    let output =
        Output { name: "1.png".into(), digest, size_bytes: 7, width: 1, height: 1, channels: 3 };
    Action::FinishSlice {
        job: JOB,
        slice: Slice::whole(frame),
        node: "a".into(),
        batch: Some(BATCH),
        attempts: Attempts::default(),
        rendered: Rendered {
            outputs: vec![output],
            render_seconds: 1.0,
            peak_memory_bytes: 0,
            preview: None,
        },
        revision,
    }
}

fn stand(state: JobState, open: u64, finished: u64, revision: u64) -> Action {
    let counts = FrameCounts { open, finished, ..FrameCounts::default() };
    Action::UpdateJob { job: JOB, state, counts, revision }
}

#[test]
fn a_frame_that_is_finished_twice_is_noticed_with_its_line() {
    let mut written = Written::new();
    written.commit(&[finish(1, 2), stand(JobState::Rendering, 1, 1, 2)]);
    written.replay().unwrap();
    written.commit(&[finish(1, 3)]);
    let error = written.replay().unwrap_err();
    let ReplayError::Violation { line, record, invariant, .. } = error else {
        panic!("{error}");
    };
    assert_eq!((line, record), (8, 1));
    assert!(invariant.starts_with("I5"), "{invariant}");
}

#[test]
fn a_commit_that_never_became_durable_is_dropped() {
    let mut written = Written::new();
    written.announce(&[finish(1, 2), stand(JobState::Rendering, 1, 1, 2)]);
    // The commit never reached the store; the next incarnation was killed while it announced one.
    written.open(2, 2);
    let whole = fs::read(&written.path).unwrap();
    fs::write(&written.path, [&whole[..], b"{\"announced\":{\"comm"].concat()).unwrap();
    written.open(3, 2);
    // Finishing the frame again is right, because the first time never became visible.
    written.commit(&[finish(1, 2), finish(2, 3), stand(JobState::Finished, 0, 2, 3)]);
    let replayed = written.replay().unwrap();
    assert_eq!((replayed.lives, replayed.commits), (3, 3));
    assert_eq!((replayed.dropped, replayed.torn), (1, 1));
    assert_eq!(replayed.invariants.frames(JOB, FrameState::Finished), [1, 2]);
    assert!(replayed.invariants.all_over());
}

#[test]
fn a_commit_that_the_store_counted_is_durable_without_its_mark() {
    let mut written = Written::new();
    written.announce(&[finish(1, 2), stand(JobState::Rendering, 1, 1, 2)]);
    written.open(2, 3);
    let replayed = written.replay().unwrap();
    assert_eq!((replayed.commits, replayed.dropped), (3, 0));
    assert_eq!(replayed.invariants.frames(JOB, FrameState::Finished), [1]);
}

#[test]
fn a_store_that_lost_commits_is_noticed() {
    let mut written = Written::new();
    written.open(2, 1);
    let error = written.replay().unwrap_err();
    assert!(matches!(error, ReplayError::Lost { said: 1, known: 2, .. }), "{error}");
}

#[test]
fn a_history_with_a_gap_or_without_a_beginning_is_not_replayed() {
    let mut written = Written::new();
    written.open(2, 4);
    let error = written.replay().unwrap_err();
    assert!(matches!(error, ReplayError::OutOfStep { said: 4, known: 2, .. }), "{error}");
    fs::write(&written.path, "").unwrap();
    assert!(matches!(written.replay().unwrap_err(), ReplayError::Empty(_)));
}
