//! Pure: folds the updates of a watch into a view of the job.

use std::collections::BTreeMap;

use framecrew_model::{FRAMES_MAX, FrameRange};
use framecrew_proto::v1::{
    ActiveSlice, Frame, FrameCounts, FrameState, Job, JobState, Warning, WatchJobResponse,
    watch_job_response::Update,
};

/// Frames with failed tries that a view keeps in full, the latest ones; as many as a snapshot carries.
pub const TROUBLED_MAX: usize = 1_000;

/// A job as its watcher knows it. Two views of the same revision are equal, however they came to it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobView {
    job: Job,
    revision: u64,
    store_id: String,
    /// By number. 8 bytes a frame, 8 MB in the largest job: cheaper than any set of runs once frames
    /// finish out of order, and never worse.
    frames: Vec<(i32, FrameState)>,
    troubled: BTreeMap<i32, Frame>,
    active: BTreeMap<(i32, u32), ActiveSlice>,
    ended: bool,
}

impl JobView {
    /// Takes in the next message of a watch.
    pub fn apply(&mut self, message: &WatchJobResponse) {
        match &message.update {
            Some(Update::Snapshot(snapshot)) => {
                *self = Self {
                    job: snapshot.job.clone().unwrap_or_default(),
                    frames: expanded(&snapshot.runs),
                    ..Self::default()
                };
                for frame in &snapshot.troubled {
                    self.troubled.insert(frame.frame, kept(frame));
                }
                self.add_active(&snapshot.active);
            }
            Some(Update::Changes(changes)) => {
                // Failed frames may be open again.
                self.ended = false;
                self.replace_job(changes.job.as_ref());
                for frame in &changes.frames {
                    self.change_frame(frame);
                }
                self.add_active(&changes.active);
            }
            Some(Update::Ended(ended)) => {
                self.replace_job(ended.job.as_ref());
                self.active.clear();
                self.ended = true;
            }
            None => {}
        }
        self.revision = message.revision;
        self.store_id.clone_from(&message.store_id);
    }

    /// Forgets what nodes are doing: after a lost connection nobody knows which of it is still true.
    pub fn forget_active(&mut self) {
        self.active.clear();
    }

    /// The job, its spec included once a snapshot has brought it.
    #[must_use]
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// Where the job stands.
    #[must_use]
    pub fn state(&self) -> JobState {
        self.job.state()
    }

    /// How its frames stand.
    #[must_use]
    pub fn counts(&self) -> FrameCounts {
        self.job.counts.unwrap_or_default()
    }

    /// Where to resume the watch.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether nothing follows.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// What is wrong with its frames although they are drawn, in the order in which it was told.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.job.warnings
    }

    /// Every frame's state as runs of neighbours (by number, whatever their distance) in the same state.
    pub fn runs(&self) -> impl Iterator<Item = (i32, i32, FrameState)> {
        self.frames
            .chunk_by(|a, b| a.1 == b.1)
            .filter_map(|run| Some((run.first()?.0, run.last()?.0, run.first()?.1)))
    }

    /// The state of one frame; `None` if it is not the job's.
    #[must_use]
    pub fn frame_state(&self, frame: i32) -> Option<FrameState> {
        let at = self.find(frame).ok()?;
        self.frames.get(at).map(|(_, state)| *state)
    }

    /// Frames with failed tries behind them, by number; the latest [`TROUBLED_MAX`].
    pub fn troubled(&self) -> impl DoubleEndedIterator<Item = &Frame> {
        self.troubled.values()
    }

    /// What nodes are doing, by frame.
    pub fn active(&self) -> impl Iterator<Item = &ActiveSlice> {
        self.active.values()
    }

    fn find(&self, frame: i32) -> Result<usize, usize> {
        self.frames.binary_search_by_key(&frame, |(number, _)| *number)
    }

    fn replace_job(&mut self, job: Option<&Job>) {
        let Some(job) = job else { return };
        if job.state() == JobState::Cancelled && self.job.state() != JobState::Cancelled {
            self.cancel_open_frames();
        }
        let spec = job.spec.clone().or_else(|| self.job.spec.take());
        self.job = Job { spec, ..job.clone() };
    }

    /// That a job is cancelled is said once for all of its open frames.
    fn cancel_open_frames(&mut self) {
        for (_, state) in &mut self.frames {
            if *state == FrameState::Open {
                *state = FrameState::Cancelled;
            }
        }
        for frame in self.troubled.values_mut() {
            if frame.state() == FrameState::Open {
                frame.set_state(FrameState::Cancelled);
            }
        }
        self.active.clear();
    }

    fn change_frame(&mut self, frame: &Frame) {
        let entry = (frame.frame, frame.state());
        match self.find(frame.frame) {
            Ok(at) => self.frames[at] = entry,
            Err(at) => self.frames.insert(at, entry),
        }
        // Whatever a node was doing to it led to this change, or came to nothing.
        let slices = (frame.frame, 0)..=(frame.frame, u32::MAX);
        let over: Vec<_> = self.active.range(slices).map(|(key, _)| *key).collect();
        for key in over {
            self.active.remove(&key);
        }
        if frame.failed_attempts == 0 && frame.state() != FrameState::Failed {
            self.troubled.remove(&frame.frame);
            return;
        }
        self.troubled.insert(frame.frame, kept(frame));
        if self.troubled.len() > TROUBLED_MAX {
            let oldest = self.troubled.values().min_by_key(|frame| frame.revision);
            if let Some(oldest) = oldest.map(|frame| frame.frame) {
                self.troubled.remove(&oldest);
            }
        }
    }

    fn add_active(&mut self, active: &[ActiveSlice]) {
        for slice in active {
            let key = slice.slice.unwrap_or_default();
            self.active.insert((key.frame, key.index), slice.clone());
        }
    }
}

/// A frame without its small picture, which comes only as the frame is finished: views that come to a revision in
/// different ways must be equal.
fn kept(frame: &Frame) -> Frame {
    let mut frame = frame.clone();
    if let Some(preview) = &mut frame.preview {
        preview.data.clear();
    }
    frame
}

/// One entry for each frame of the runs, by number; no more than a job may have.
fn expanded(runs: &[framecrew_proto::v1::FrameRun]) -> Vec<(i32, FrameState)> {
    let mut frames: Vec<(i32, FrameState)> = runs
        .iter()
        .filter_map(|run| Some((FrameRange::try_from(run.frames?).ok()?, run.state())))
        .flat_map(|(range, state)| range.iter().map(move |frame| (frame, state)))
        .take(usize::try_from(FRAMES_MAX).unwrap_or(usize::MAX))
        .collect();
    frames.sort_unstable_by_key(|(frame, _)| *frame);
    frames
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use framecrew_proto::v1::{
        Failure, FrameRun, JobChanges, JobEnded, JobSnapshot, JobSpec, Slice, SliceProgress,
    };
    use proptest::prelude::*;

    use super::*;

    /// What an orchestrator would remember, and how it would tell it.
    #[derive(Clone, Default)]
    struct Server {
        frames: BTreeMap<i32, Frame>,
        active: BTreeMap<i32, ActiveSlice>,
        /// When each active slice last got further; not a revision, as it is not durable.
        told: BTreeMap<i32, u64>,
        clock: u64,
        revision: u64,
    }

    impl Server {
        fn new(frames: i32) -> Self {
            let frame = |number| Frame {
                frame: number,
                state: FrameState::Open.into(),
                ..Frame::default()
            };
            Self {
                frames: (1..=frames).map(|number| (number, frame(number))).collect(),
                revision: 1,
                ..Self::default()
            }
        }

        fn progress(&mut self, frame: i32, samples: u32) {
            if self.frames[&frame].state() != FrameState::Open {
                return;
            }
            let slice = Slice { frame, index: 0 };
            let progress = SliceProgress {
                slice: Some(slice),
                samples_done: samples,
                ..SliceProgress::default()
            };
            let active = ActiveSlice {
                slice: Some(slice),
                node: "n".into(),
                progress: Some(progress),
                ..ActiveSlice::default()
            };
            self.clock += 1;
            self.told.insert(frame, self.clock);
            self.active.insert(frame, active);
        }

        fn change(&mut self, number: i32, state: FrameState, failed: bool) {
            let frame = self.frames.get_mut(&number).unwrap();
            if frame.state() != FrameState::Open {
                return;
            }
            self.revision += 1;
            frame.revision = self.revision;
            frame.set_state(state);
            if failed {
                frame.failed_attempts += 1;
                frame.failure = Some(Failure::default());
            }
            self.active.remove(&number);
        }

        fn job(&self) -> Job {
            let count = |state| {
                let frames = self.frames.values();
                frames.filter(|frame| frame.state() == state).count() as u64
            };
            Job {
                job_id: 1,
                state: JobState::Rendering.into(),
                revision: self.revision,
                counts: Some(FrameCounts {
                    open: count(FrameState::Open),
                    finished: count(FrameState::Finished),
                    failed: count(FrameState::Failed),
                    cancelled: 0,
                }),
                ..Job::default()
            }
        }

        fn message(&self, update: Update) -> WatchJobResponse {
            WatchJobResponse { revision: self.revision, store_id: "s".into(), update: Some(update) }
        }

        fn snapshot(&self) -> WatchJobResponse {
            let run = |frame: &Frame| FrameRun {
                frames: Some(framecrew_proto::v1::FrameRange {
                    first: frame.frame,
                    last: frame.frame,
                    step: 1,
                }),
                state: frame.state,
            };
            self.message(Update::Snapshot(JobSnapshot {
                job: Some(Job { spec: Some(JobSpec::default()), ..self.job() }),
                runs: self.frames.values().map(run).collect(),
                troubled: self.frames.values().filter(|f| f.failed_attempts > 0).cloned().collect(),
                active: self.active.values().cloned().collect(),
            }))
        }

        /// Changes after a revision; `since` says what progress the watcher has been told.
        fn changes(&self, after: u64, since: u64) -> WatchJobResponse {
            let fresh = |frame: &&i32| self.told[*frame] > since;
            self.message(Update::Changes(JobChanges {
                job: Some(self.job()),
                frames: self.frames.values().filter(|f| f.revision > after).cloned().collect(),
                active: self.active.keys().filter(fresh).map(|f| self.active[f].clone()).collect(),
            }))
        }
    }

    /// A step of the world or of one watcher.
    #[derive(Debug, Clone)]
    enum Step {
        Progress(i32, u32),
        Finish(i32),
        Retry(i32),
        Fail(i32),
        Read,
        Resume,
        JoinAgain,
    }

    fn step() -> impl Strategy<Value = Step> {
        let frame = 1..=12;
        prop_oneof![
            (frame.clone(), 0_u32..9).prop_map(|(frame, samples)| Step::Progress(frame, samples)),
            frame.clone().prop_map(Step::Finish),
            frame.clone().prop_map(Step::Retry),
            frame.prop_map(Step::Fail),
            Just(Step::Read),
            Just(Step::Read),
            Just(Step::Resume),
            Just(Step::JoinAgain),
        ]
    }

    proptest! {
        #[test]
        fn a_watcher_that_resumes_ends_equal_to_one_that_joins_afresh(
            steps in prop::collection::vec(step(), 0..80),
        ) {
            let mut server = Server::new(12);
            let mut view = JobView::default();
            view.apply(&server.snapshot());
            let mut told = server.clock;
            for step in steps.into_iter().chain([Step::Read]) {
                match step {
                    Step::Progress(frame, samples) => server.progress(frame, samples),
                    Step::Finish(frame) => server.change(frame, FrameState::Finished, false),
                    Step::Retry(frame) => server.change(frame, FrameState::Open, true),
                    Step::Fail(frame) => server.change(frame, FrameState::Failed, true),
                    Step::Read => {
                        view.apply(&server.changes(view.revision(), told));
                        told = server.clock;
                    }
                    Step::Resume => {
                        view.forget_active();
                        view.apply(&server.changes(view.revision(), 0));
                        told = server.clock;
                    }
                    Step::JoinAgain => {
                        view.apply(&server.snapshot());
                        told = server.clock;
                    }
                }
            }
            let mut afresh = JobView::default();
            afresh.apply(&server.snapshot());
            prop_assert_eq!(view, afresh);
        }

        #[test]
        fn a_message_that_comes_twice_changes_nothing(
            steps in prop::collection::vec((1_i32..=6, any::<bool>()), 1..20),
        ) {
            let mut server = Server::new(6);
            let mut view = JobView::default();
            view.apply(&server.snapshot());
            for (frame, finish) in steps {
                if finish {
                    server.change(frame, FrameState::Finished, false);
                } else {
                    server.progress(frame, 3);
                }
                let message = server.changes(view.revision(), 0);
                view.apply(&message);
                let once = view.clone();
                view.apply(&message);
                prop_assert_eq!(&view, &once);
            }
        }
    }

    #[test]
    fn a_frame_that_changes_drops_what_was_active_for_it() {
        let mut server = Server::new(3);
        server.progress(1, 5);
        server.progress(2, 5);
        let mut view = JobView::default();
        view.apply(&server.snapshot());
        assert_eq!(view.active().count(), 2);
        server.change(1, FrameState::Finished, false);
        view.apply(&server.changes(view.revision(), server.clock));
        let left: Vec<_> = view.active().map(|a| a.slice.unwrap().frame).collect();
        assert_eq!(left, [2]);
    }

    #[test]
    fn neighbours_in_the_same_state_are_one_run() {
        let mut server = Server::new(6);
        let mut view = JobView::default();
        for frame in [1, 2, 5] {
            server.change(frame, FrameState::Finished, false);
        }
        view.apply(&server.snapshot());
        let runs: Vec<_> = view.runs().collect();
        assert_eq!(
            runs,
            [
                (1, 2, FrameState::Finished),
                (3, 4, FrameState::Open),
                (5, 5, FrameState::Finished),
                (6, 6, FrameState::Open)
            ]
        );
        assert_eq!(view.frame_state(5), Some(FrameState::Finished));
        assert_eq!(view.frame_state(7), None);
    }

    #[test]
    fn the_spec_survives_changes_that_leave_it_out() {
        let server = Server::new(1);
        let mut view = JobView::default();
        view.apply(&server.snapshot());
        view.apply(&server.changes(0, 0));
        assert!(view.job().spec.is_some());
    }

    #[test]
    fn open_frames_of_a_job_that_is_cancelled_are_cancelled_without_being_listed() {
        let mut server = Server::new(3);
        server.change(2, FrameState::Finished, false);
        server.progress(1, 1);
        let mut view = JobView::default();
        view.apply(&server.snapshot());
        let mut cancelled = server.job();
        cancelled.set_state(JobState::Cancelled);
        let changes = JobChanges { job: Some(cancelled), ..JobChanges::default() };
        view.apply(&server.message(Update::Changes(changes)));
        let runs: Vec<_> = view.runs().collect();
        assert_eq!(
            runs,
            [
                (1, 1, FrameState::Cancelled),
                (2, 2, FrameState::Finished),
                (3, 3, FrameState::Cancelled)
            ]
        );
        assert_eq!(view.active().count(), 0);
    }

    #[test]
    fn a_job_that_ended_has_nothing_active() {
        let mut server = Server::new(1);
        server.progress(1, 1);
        let mut view = JobView::default();
        view.apply(&server.snapshot());
        view.apply(&server.message(Update::Ended(JobEnded { job: Some(server.job()) })));
        assert!(view.ended());
        assert_eq!(view.active().count(), 0);
    }

    #[test]
    fn the_latest_troubled_frames_are_kept() {
        let frames = i32::try_from(TROUBLED_MAX).unwrap() + 5;
        let mut server = Server::new(frames);
        let mut view = JobView::default();
        view.apply(&server.snapshot());
        for frame in 1..=frames {
            server.change(frame, FrameState::Failed, true);
            view.apply(&server.changes(view.revision(), 0));
        }
        assert_eq!(view.troubled().count(), TROUBLED_MAX);
        assert_eq!(view.troubled().next().unwrap().frame, 6);
    }

    #[test]
    fn a_job_that_is_retried_after_its_end_is_open_again() {
        let mut server = Server::new(3);
        let mut view = JobView::default();
        view.apply(&server.snapshot());
        for (frame, state) in
            [(1, FrameState::Finished), (2, FrameState::Failed), (3, FrameState::Finished)]
        {
            server.change(frame, state, state == FrameState::Failed);
        }
        view.apply(&server.changes(view.revision(), 0));
        let over = Job { state: JobState::Failed.into(), ended_at_ms: 9, ..server.job() };
        view.apply(&server.message(Update::Ended(JobEnded { job: Some(over) })));
        assert!(view.ended());

        server.revision += 1;
        let revision = server.revision;
        let frame = server.frames.get_mut(&2).unwrap();
        *frame = Frame { frame: 2, revision, state: FrameState::Open.into(), ..Frame::default() };
        view.apply(&server.changes(view.revision(), 0));
        assert!(!view.ended() && view.troubled().next().is_none());
        assert_eq!((view.state(), view.counts().open), (JobState::Rendering, 1));
        let mut afresh = JobView::default();
        afresh.apply(&server.snapshot());
        assert_eq!(view, afresh);
    }

    #[test]
    fn runs_beyond_a_million_frames_are_cut_off() {
        let run = |first, last| FrameRun {
            frames: Some(framecrew_proto::v1::FrameRange { first, last, step: 1 }),
            state: FrameState::Open.into(),
        };
        assert_eq!(expanded(&[run(i32::MIN, i32::MAX)]).len(), 1_000_000);
        assert_eq!(expanded(&[run(5, 1), run(1, 2)]).len(), 2);
    }
}
