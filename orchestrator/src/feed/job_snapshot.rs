//! The first message to a watcher of a job: all of its state, in few bytes.

use crate::{
    domain::{Frame, FrameRange, FrameState, JobState},
    store::{JobRecord, Snapshot},
};

/// The whole state of a job at one revision.
#[derive(Debug)]
pub(crate) struct JobSnapshot {
    pub(crate) job: JobRecord,
    /// Every frame's state, in runs of ascending numbers.
    pub(crate) runs: Vec<(FrameRange, FrameState)>,
    /// The latest frames with failed attempts.
    pub(crate) troubled: Vec<Frame>,
}

impl JobSnapshot {
    /// Costs some ten milliseconds for a million frames.
    pub(super) fn of(snapshot: Snapshot) -> Self {
        let Snapshot { job, states, troubled } = snapshot;
        let of_job = job.status.state;
        let mut frames: Vec<i32> = job.spec.frames.iter().collect();
        frames.sort_unstable();
        let mut states = states.iter().peekable();
        let mut runs: Vec<(FrameRange, FrameState)> = Vec::new();
        for frame in frames {
            let stored = states.next_if(|(number, _)| *number == frame);
            let state = shown(stored.map_or(FrameState::Open, |(_, state)| *state), of_job);
            if let Some((run, of)) = runs.last_mut()
                && *of == state
            {
                let gap = frame.abs_diff(run.last);
                if run.first == run.last {
                    (run.step, run.last) = (gap, frame);
                    continue;
                }
                if run.step == gap {
                    run.last = frame;
                    continue;
                }
            }
            runs.push((FrameRange { first: frame, last: frame, step: 1 }, state));
        }
        let show = |frame: Frame| Frame { state: shown(frame.state, of_job), ..frame };
        Self { runs, troubled: troubled.into_iter().map(show).collect(), job }
    }
}

/// The state of a frame as people see it. Cancelling a job cancels its open frames without writing each of them.
pub(crate) fn shown(frame: FrameState, job: JobState) -> FrameState {
    match (frame, job) {
        (FrameState::Open, JobState::Cancelled) => FrameState::Cancelled,
        _ => frame,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;
    use crate::{
        domain::{FrameSet, JobId, JobSpec},
        store::JobRecord,
    };

    fn snapshot(ranges: Vec<FrameRange>, states: Vec<(i32, FrameState)>) -> Snapshot {
        let spec = JobSpec::for_test(FrameSet::new(ranges).unwrap());
        let version = "3.4".parse().unwrap();
        let job = JobRecord::submitted(JobId(1), Arc::new(spec), version, 0);
        Snapshot { job, states, troubled: Vec::new() }
    }

    fn flat(snapshot: Snapshot) -> Vec<(i32, i32, u32, FrameState)> {
        let runs = JobSnapshot::of(snapshot).runs.into_iter();
        runs.map(|(range, state)| (range.first, range.last, range.step, state)).collect()
    }

    use FrameState::{Cancelled as CANCELLED, Finished as FINISHED, Open as OPEN};

    #[test]
    fn a_job_that_nothing_happened_to_is_one_run() {
        let whole = FrameRange { first: -5, last: 1_000, step: 5 };
        assert_eq!(flat(snapshot(vec![whole], vec![])), [(-5, 1_000, 5, OPEN)]);
    }

    #[test]
    fn a_finished_stretch_parts_the_open_ones() {
        let whole = FrameRange { first: 1, last: 9, step: 1 };
        let states = vec![(4, FrameState::Finished), (5, FrameState::Finished)];
        assert_eq!(
            flat(snapshot(vec![whole], states)),
            [(1, 3, 1, OPEN), (4, 5, 1, FINISHED), (6, 9, 1, OPEN)]
        );
    }

    #[test]
    fn open_frames_of_a_cancelled_job_show_as_cancelled() {
        let whole = FrameRange { first: 1, last: 3, step: 1 };
        let mut snapshot = snapshot(vec![whole], vec![(2, FrameState::Finished)]);
        snapshot.job.status.state = JobState::Cancelled;
        assert_eq!(
            flat(snapshot),
            [(1, 1, 1, CANCELLED), (2, 2, 1, FINISHED), (3, 3, 1, CANCELLED)]
        );
    }
}
