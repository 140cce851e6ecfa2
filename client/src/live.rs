//! Pure: what a watcher sees beyond the job's own state: who works on it, how fast, and whether the link holds.
//!
//! Time is given as the time since the watch began.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use framecrew_proto::v1::{
    ActiveSlice, Failure, FailureReason, Frame, FrameState, Node, NodeState, WatchJobResponse,
    watch_job_response::Update,
};

use crate::{progress::FetchProgress, state::JobView, words};

/// How far back the rate looks: long enough to be steady, short enough to follow a node that joins.
const PACE_WINDOW: Duration = Duration::from_secs(60);
/// Steps kept even beyond the window, so that frames of ten minutes have a rate as well.
const PACE_STEPS_MIN: usize = 4;
/// Steps kept at most; older ones within the window are thinned out by dropping.
const PACE_STEPS_MAX: usize = 1_024;
/// Nodes that get a lane; far above what a terminal can show.
const LANES_MAX: usize = 1_000;

/// How fast frames finish.
#[derive(Debug, Clone, Default)]
pub struct Pace {
    steps: VecDeque<(Duration, u64)>,
}

impl Pace {
    /// Notes how many frames are finished now.
    pub fn observe(&mut self, now: Duration, finished: u64) {
        match self.steps.back() {
            Some((_, before)) if *before == finished => return,
            // The store was set back.
            Some((_, before)) if *before > finished => self.steps.clear(),
            _ => {}
        }
        self.steps.push_back((now, finished));
        let stale = |steps: &VecDeque<(Duration, u64)>| {
            let outside =
                steps.front().is_some_and(|(then, _)| now.saturating_sub(*then) > PACE_WINDOW);
            (outside && steps.len() > PACE_STEPS_MIN) || steps.len() > PACE_STEPS_MAX
        };
        while stale(&self.steps) {
            self.steps.pop_front();
        }
    }

    /// Frames per minute; `None` until one has finished under the watcher's eyes.
    #[must_use]
    pub fn frames_per_minute(&self, now: Duration) -> Option<f64> {
        let (first, last) = (self.steps.front()?, self.steps.back()?);
        let frames = last.1 - first.1;
        // Until the next frame, time goes by: a crew that stalls must not look fast. But up to the usual
        // gap between two frames nothing is late.
        let until_last = last.0.saturating_sub(first.0);
        let gap = until_last.checked_div(u32::try_from(self.steps.len() - 1).ok()?)?;
        let late = now.saturating_sub(last.0).saturating_sub(gap);
        let minutes = (until_last + late).as_secs_f64() / 60.0;
        (frames > 0 && minutes > 0.0).then(|| frames as f64 / minutes)
    }

    /// Time until `open` frames are done at this pace.
    #[must_use]
    pub fn time_left(&self, now: Duration, open: u64) -> Option<Duration> {
        let minutes = open as f64 / self.frames_per_minute(now)?;
        Duration::try_from_secs_f64(minutes * 60.0).ok()
    }
}

/// What one node does for the job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lane {
    /// Frames it finished while we watched.
    pub finished: u64,
    /// Whether the last that was heard of it is that it was lost.
    pub lost: bool,
}

/// Why a node that is there gets no work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rest {
    /// Its state: paused, in quarantine, silent or draining.
    pub state: NodeState,
    /// Why, in a sentence; may be empty.
    pub reason: String,
    /// Until when, in time since the watch began, where that is known.
    pub until: Option<Duration>,
}

/// Whether updates come in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Link {
    /// They do.
    #[default]
    Up,
    /// The connection is lost and being made again.
    Down {
        /// What broke it.
        reason: String,
        /// When, in time since the watch began.
        since: Duration,
    },
}

/// A job under watch.
#[derive(Debug, Clone, Default)]
pub struct Live {
    view: JobView,
    pace: Pace,
    lanes: BTreeMap<String, Lane>,
    /// Those of the cluster's nodes that get no work.
    resting: BTreeMap<String, Rest>,
    /// When each active slice began, by the watcher's own clock.
    begun: BTreeMap<(i32, u32), Duration>,
    link: Link,
    fetched: Option<FetchProgress>,
}

impl Live {
    /// Takes in the next message of the watch. `unix_ms` is the wall clock: milliseconds since 1970 UTC.
    pub fn apply(&mut self, now: Duration, unix_ms: i64, message: &WatchJobResponse) {
        self.view.apply(message);
        self.link = Link::Up;
        self.pace.observe(now, self.view.counts().finished);
        // The orchestrator's clock may differ from ours: what starts under our eyes starts now; only what
        // had begun before we came is dated by its stamp.
        let joined = matches!(message.update, Some(Update::Snapshot(_)));
        if let Some(Update::Changes(changes)) = &message.update {
            let mut frames: Vec<_> = changes.frames.iter().collect();
            frames.sort_by_key(|frame| frame.revision);
            for frame in frames {
                self.begun.retain(|(number, _), _| *number != frame.frame);
                self.note_node(frame);
            }
            for slice in &changes.active {
                if let Some(lane) = lane(&mut self.lanes, &slice.node) {
                    lane.lost = false;
                }
            }
        }
        let active = self.view.active().map(|slice| (key(slice), slice));
        let mut begun = BTreeMap::new();
        for (key, slice) in active {
            lane(&mut self.lanes, &slice.node);
            let age_ms = if joined { unix_ms.saturating_sub(slice.started_at_ms) } else { 0 };
            let age = Duration::from_millis(u64::try_from(age_ms).unwrap_or(0));
            let start = self.begun.get(&key).copied().unwrap_or(now.saturating_sub(age));
            begun.insert(key, start);
        }
        self.begun = begun;
    }

    /// Takes in what a frame tells of the node that had it last.
    fn note_node(&mut self, frame: &Frame) {
        let reason = frame.failure.as_ref().map(Failure::reason);
        if frame.state() == FrameState::Finished {
            if let Some(lane) = lane(&mut self.lanes, &frame.node) {
                lane.finished += 1;
                lane.lost = false;
            }
        } else if let (Some(reason), Some(lane)) = (reason, self.lanes.get_mut(&frame.node)) {
            lane.lost = reason == FailureReason::NodeLost;
        }
    }

    /// Notes that the connection is lost.
    pub fn disconnected(&mut self, now: Duration, reason: String) {
        let since = match self.link {
            Link::Down { since, .. } => since,
            Link::Up => now,
        };
        self.link = Link::Down { reason, since };
        self.view.forget_active();
    }

    /// Takes in how the cluster's nodes stand. `unix_ms` is the wall clock, as the orchestrator's dates are.
    pub fn nodes(&mut self, now: Duration, unix_ms: i64, nodes: &[Node]) {
        let resting = nodes.iter().filter(|node| words::gets_nothing(node.state()));
        let rest = |node: &Node| {
            let left_ms = node.state_until_ms.saturating_sub(unix_ms);
            let left = u64::try_from(left_ms).ok().map(Duration::from_millis);
            let until =
                left.filter(|_| node.state_until_ms > 0).map(|left| now.saturating_add(left));
            let rest = Rest { state: node.state(), reason: node.state_reason.clone(), until };
            (node.name.clone(), rest)
        };
        self.resting = resting.take(LANES_MAX).map(rest).collect();
    }

    /// Why a node gets no work, if that is so.
    #[must_use]
    pub fn resting(&self, node: &str) -> Option<&Rest> {
        self.resting.get(node)
    }

    /// Notes how many outputs have been fetched.
    pub fn fetched(&mut self, progress: FetchProgress) {
        self.fetched = Some(progress);
    }

    /// The job itself.
    #[must_use]
    pub fn view(&self) -> &JobView {
        &self.view
    }

    /// How fast frames finish.
    #[must_use]
    pub fn pace(&self) -> &Pace {
        &self.pace
    }

    /// Whether updates come in.
    #[must_use]
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// How far the fetching of outputs is, where outputs are fetched.
    #[must_use]
    pub fn fetch_progress(&self) -> Option<FetchProgress> {
        self.fetched
    }

    /// Every node seen at work on the job, by name, with the slices it has now.
    #[must_use]
    pub fn lanes(&self) -> BTreeMap<&str, (&Lane, Vec<&ActiveSlice>)> {
        let mut lanes: BTreeMap<&str, (&Lane, Vec<&ActiveSlice>)> =
            self.lanes.iter().map(|(node, lane)| (node.as_str(), (lane, Vec::new()))).collect();
        for slice in self.view.active() {
            if let Some((_, slices)) = lanes.get_mut(slice.node.as_str()) {
                slices.push(slice);
            }
        }
        lanes
    }

    /// How long a slice has been in the making.
    #[must_use]
    pub fn elapsed(&self, now: Duration, slice: &ActiveSlice) -> Duration {
        let begun = self.begun.get(&key(slice)).copied().unwrap_or(now);
        now.saturating_sub(begun)
    }
}

/// The lane of a node, a new one if there is room.
fn lane<'a>(lanes: &'a mut BTreeMap<String, Lane>, node: &str) -> Option<&'a mut Lane> {
    if lanes.len() < LANES_MAX && !lanes.contains_key(node) {
        lanes.insert(node.to_owned(), Lane::default());
    }
    lanes.get_mut(node)
}

fn key(slice: &ActiveSlice) -> (i32, u32) {
    let slice = slice.slice.unwrap_or_default();
    (slice.frame, slice.index)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_frame_every_two_seconds_is_thirty_a_minute() {
        let mut pace = Pace::default();
        for step in 0..200_u32 {
            pace.observe(SECOND * 2 * step, u64::from(step));
        }
        let now = SECOND * 2 * 199;
        assert!((pace.frames_per_minute(now).unwrap() - 30.0).abs() < 0.01);
        assert_eq!(pace.time_left(now, 60).unwrap().as_secs(), 120);
    }

    #[test]
    fn a_store_that_was_set_back_begins_a_new_pace() {
        let mut pace = Pace::default();
        for step in 0..100_u32 {
            pace.observe(SECOND * step, u64::from(step));
        }
        pace.observe(SECOND * 100, 7);
        assert_eq!(pace.frames_per_minute(SECOND * 100), None);
        pace.observe(SECOND * 110, 8);
        assert!((pace.frames_per_minute(SECOND * 110).unwrap() - 6.0).abs() < 1e-9);
    }

    #[test]
    fn nobody_knows_the_pace_before_a_frame_has_finished() {
        let mut pace = Pace::default();
        assert_eq!(pace.frames_per_minute(SECOND), None);
        pace.observe(SECOND, 7);
        assert_eq!(pace.frames_per_minute(SECOND * 9), None);
        assert_eq!(pace.time_left(SECOND * 9, 3), None);
    }

    #[test]
    fn a_crew_that_stalls_gets_slower() {
        let mut pace = Pace::default();
        pace.observe(Duration::ZERO, 0);
        pace.observe(SECOND * 10, 1);
        let before = pace.frames_per_minute(SECOND * 10).unwrap();
        assert!((pace.frames_per_minute(SECOND * 20).unwrap() - before).abs() < 1e-9);
        assert!(pace.frames_per_minute(SECOND * 90).unwrap() < before / 4.0);
    }

    #[test]
    fn slow_frames_have_a_pace_too() {
        let mut pace = Pace::default();
        for step in 0..10_u32 {
            pace.observe(SECOND * 600 * step, u64::from(step));
        }
        assert!((pace.frames_per_minute(SECOND * 5400).unwrap() - 0.1).abs() < 1e-9);
    }
}
