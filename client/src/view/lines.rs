use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use framecrew_proto::v1::{
    Frame, FrameState, Job, JobChanges, JobState, WatchJobResponse, watch_job_response::Update,
};

use super::{
    frame_lines::{frame_line, last_words},
    summary::{failures, outlook, summary},
    warned::Warned,
};
use crate::{
    live::{Link, Live},
    state::JobView,
    words,
};

/// How often a slice that takes long is mentioned.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// Maximum number of remembered reasons, and of remembered failures. When it is reached they are forgotten, so
/// some may be repeated.
const TOLD_MAX: usize = 1_000;

/// A watch as plain lines, for pipes, files and terminals that can only print.
#[derive(Debug, Clone, Default)]
pub struct Lines {
    told: BTreeMap<(i32, u32), Duration>,
    warned: Warned,
    /// Why the job waits, as far as that was told.
    waiting: String,
    /// The reasons for waiting that were printed since the last frame finished. A node that alternates between
    /// pausing and trying again is one state.
    waited: BTreeSet<String>,
    /// How often each failure of an attempt occurred, by its line.
    failed: BTreeMap<String, u64>,
    down: bool,
}

impl Lines {
    /// What there is to say about `message`, which `live` has taken in already.
    pub fn update(
        &mut self,
        live: &Live,
        now: Duration,
        message: &WatchJobResponse,
    ) -> Vec<String> {
        let mut lines = Vec::new();
        if std::mem::take(&mut self.down) {
            lines.push("connected again".into());
        }
        let warnings = self.warned.fresh(live.view());
        match &message.update {
            // Of what failed before we came nothing else tells; of a job that is over, its end follows.
            Some(Update::Snapshot(_)) => {
                let ends = matches!(
                    live.view().state(),
                    JobState::Finished | JobState::Failed | JobState::Cancelled
                );
                lines.extend((!ends).then(|| summary(live.view())));
                lines.extend(warnings);
                lines.extend(failures(live.view()));
            }
            Some(Update::Changes(changes)) => {
                lines.extend(warnings);
                lines.extend(self.changes(live, now, changes));
            }
            Some(Update::Ended(_)) => {
                lines.extend(warnings);
                lines.push(summary(live.view()));
            }
            None => {}
        }
        lines.extend(self.waiting(live.view()));
        lines
    }

    /// Returns why the job waits, once for each reason until a frame finishes.
    fn waiting(&mut self, view: &JobView) -> Option<String> {
        let reason = if view.ended() { "" } else { view.job().waiting_reason.as_str() };
        if reason == self.waiting {
            return None;
        }
        reason.clone_into(&mut self.waiting);
        if reason.is_empty() || self.waited.contains(reason) {
            return None;
        }
        if self.waited.len() >= TOLD_MAX {
            self.waited.clear();
        }
        self.waited.insert(reason.to_owned());
        Some(format!("waiting: {}", words::printable(reason)))
    }

    /// Returns the line about a frame, if it is news. A repeated failure is printed again only when it has
    /// occurred ten times as often.
    fn frame(&mut self, job: &Job, frame: &Frame) -> Option<String> {
        let line = frame_line(job, frame)?;
        if frame.state() != FrameState::Open {
            return Some(line);
        }
        if self.failed.len() >= TOLD_MAX && !self.failed.contains_key(&line) {
            self.failed.clear();
        }
        let times = self.failed.entry(line.clone()).or_default();
        *times += 1;
        match *times {
            1 => Some(line),
            times if is_power_of_ten(times) => Some(format!("{line} ({times} times so far)")),
            _ => None,
        }
    }

    /// What there is to say about a lost connection: once, not for every attempt.
    pub fn disconnected(&mut self, live: &Live) -> Option<String> {
        let Link::Down { reason, .. } = live.link() else {
            return None;
        };
        let first = !std::mem::replace(&mut self.down, true);
        first.then(|| format!("reconnecting … ({reason})"))
    }

    fn changes(&mut self, live: &Live, now: Duration, changes: &JobChanges) -> Vec<String> {
        let job = live.view().job();
        let counts = live.view().counts();
        let total = words::total(&counts);
        if changes.frames.iter().any(|frame| frame.state() == FrameState::Finished) {
            self.waited.clear();
        }
        let mut lines: Vec<_> =
            changes.frames.iter().filter_map(|frame| self.frame(job, frame)).collect();
        if let Some(last) = lines.last_mut()
            && changes.frames.iter().any(|frame| frame.state() == FrameState::Finished)
            && !words::makes_movie(job)
        {
            let percent = words::percent(counts.finished, total);
            *last += &format!(" · {}/{total} ({percent} %)", counts.finished);
            let outlook = outlook(live, now);
            if !outlook.is_empty() {
                *last += &format!(" · {outlook}");
            }
        }
        lines.extend(changes.frames.iter().flat_map(last_words));
        let mut told = BTreeMap::new();
        for slice in live.view().active() {
            let key = slice.slice.map(|slice| (slice.frame, slice.index)).unwrap_or_default();
            let elapsed = live.elapsed(now, slice);
            let since = self.told.get(&key).copied().unwrap_or(now.saturating_sub(elapsed));
            let progress = slice.progress.as_ref().map(|progress| words::progress(job, progress));
            let progress = progress.unwrap_or_default();
            if now.saturating_sub(since) < PROGRESS_EVERY || progress.is_empty() {
                told.insert(key, since);
                continue;
            }
            told.insert(key, now);
            lines.push(format!(
                "{} on {}: {progress}, {}",
                words::piece(job, key.0),
                words::printable(&slice.node),
                words::duration(elapsed)
            ));
        }
        self.told = told;
        lines
    }
}

fn is_power_of_ten(number: u64) -> bool {
    number > 0 && 10_u64.checked_pow(number.ilog10()) == Some(number)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use framecrew_proto::v1::{
        ActiveSlice, Failure, FailureReason, FrameCounts, JobEnded, JobSnapshot, JobSpec, Slice,
        SliceProgress, Warning,
    };

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    struct Watcher {
        live: Live,
        lines: Lines,
    }

    impl Watcher {
        fn new() -> Self {
            Self { live: Live::default(), lines: Lines::default() }
        }

        fn hears(&mut self, now: Duration, update: Update) -> Vec<String> {
            let message = WatchJobResponse { update: Some(update), ..WatchJobResponse::default() };
            self.live.apply(now, 0, &message);
            self.lines.update(&self.live, now, &message)
        }
    }

    fn job(finished: u64) -> Option<Job> {
        let counts = FrameCounts { open: 10 - finished, finished, ..FrameCounts::default() };
        Some(Job { job_id: 7, counts: Some(counts), ..Job::default() })
    }

    fn changes(finished: u64, frames: Vec<Frame>, samples: Option<u32>) -> Update {
        let slice = Some(Slice { frame: 3, index: 0 });
        let active = samples.map(|samples_done| ActiveSlice {
            slice,
            node: "a".into(),
            progress: Some(SliceProgress {
                slice,
                samples_done,
                samples_total: 64,
                ..SliceProgress::default()
            }),
            ..ActiveSlice::default()
        });
        Update::Changes(JobChanges {
            job: job(finished),
            frames,
            active: active.into_iter().collect(),
        })
    }

    fn frame(state: FrameState, message: Option<&str>) -> Frame {
        Frame {
            frame: 2,
            state: state.into(),
            node: "a".into(),
            render_seconds: 1.5,
            failure: message
                .map(|message| Failure { message: message.into(), ..Failure::default() }),
            ..Frame::default()
        }
    }

    #[test]
    fn a_job_that_waits_says_why_once_for_each_reason() {
        let mut watcher = Watcher::new();
        let waits = |reason: &str| {
            let job = job(0).map(|job| Job { waiting_reason: reason.into(), ..job });
            Update::Changes(JobChanges { job, ..JobChanges::default() })
        };
        let mut told = |reason| watcher.hears(SECOND, waits(reason));
        assert_eq!(told("no node is registered"), ["waiting: no node is registered"]);
        assert!(told("no node is registered").is_empty());
        assert_eq!(told("a is paused"), ["waiting: a is paused"]);
        assert!(told("").is_empty());
        assert!(told("a is paused").is_empty(), "it is the same state");
        assert!(told("no node is registered").is_empty());
        watcher.hears(SECOND, changes(1, vec![frame(FrameState::Finished, None)], None));
        assert_eq!(watcher.hears(SECOND, waits("a is paused")), ["waiting: a is paused"]);
    }

    #[test]
    fn a_repeated_failure_is_not_printed_every_time() {
        let mut watcher = Watcher::new();
        let mut said = Vec::new();
        for _ in 0..25 {
            let tried = vec![frame(FrameState::Open, Some("it does not start"))];
            said.extend(watcher.hears(SECOND, changes(0, tried, None)));
        }
        let line = "frame 2 did not succeed on a and is tried again: it does not start";
        assert_eq!(said, [line.to_owned(), format!("{line} (10 times so far)")]);
        let other = vec![frame(FrameState::Open, Some("the disk is full"))];
        assert_eq!(watcher.hears(SECOND, changes(0, other, None)).len(), 1);
    }

    #[test]
    fn frames_are_told_as_they_finish_with_how_far_the_job_is() {
        let mut watcher = Watcher::new();
        let snapshot = JobSnapshot { job: job(1), ..JobSnapshot::default() };
        watcher.hears(SECOND, Update::Snapshot(snapshot));
        let said =
            watcher.hears(SECOND * 3, changes(2, vec![frame(FrameState::Finished, None)], None));
        assert_eq!(
            said,
            ["frame 2 finished on a in 1.5 s · 2/10 (20 %) · 30.0 frames/min · 16 s left"]
        );
    }

    #[test]
    fn a_failed_try_is_told_with_its_reason() {
        let mut watcher = Watcher::new();
        let said = watcher
            .hears(SECOND, changes(0, vec![frame(FrameState::Open, Some("no\x1bmemory"))], None));
        assert_eq!(said, ["frame 2 did not succeed on a and is tried again: no memory"]);
        let said = watcher
            .hears(SECOND, changes(0, vec![frame(FrameState::Failed, Some("no memory"))], None));
        assert_eq!(said, ["frame 2 failed on a: no memory"]);
    }

    #[test]
    fn what_blender_said_last_is_told_with_the_kind_of_failure() {
        let mut watcher = Watcher::new();
        let mut failed = frame(FrameState::Failed, Some("Blender crashed"));
        let failure = failed.failure.as_mut().unwrap();
        failure.set_reason(FailureReason::Renderer);
        failure.log_tail = (1..=9).map(|n| format!("line\t{n}")).collect();
        let said = watcher.hears(SECOND, changes(0, vec![failed], None));
        assert_eq!(said[0], "frame 2 failed on a (renderer): Blender crashed");
        assert_eq!(said[1..], (5..=9).map(|n| format!("    line {n}")).collect::<Vec<_>>());
    }

    #[test]
    fn a_long_frame_is_mentioned_every_five_seconds() {
        let mut watcher = Watcher::new();
        let mut said = Vec::new();
        for second in 0..12 {
            said.extend(watcher.hears(SECOND * second, changes(0, Vec::new(), Some(second))));
        }
        assert_eq!(
            said,
            ["frame 3 on a: 5/64 samples, 5.0 s", "frame 3 on a: 10/64 samples, 10 s"]
        );
    }

    #[test]
    fn the_share_of_a_frame_is_told_where_it_is_known() {
        let mut watcher = Watcher::new();
        let changes = |samples_done| {
            let mut update = changes(0, Vec::new(), Some(samples_done));
            if let Update::Changes(changes) = &mut update {
                let progress = changes.active[0].progress.as_mut().unwrap();
                (progress.fraction, progress.remaining_seconds) = (Some(0.63), Some(12.0));
            }
            update
        };
        watcher.hears(SECOND, changes(0));
        let said = watcher.hears(SECOND * 6, changes(1));
        assert_eq!(said, ["frame 3 on a: 63 % (1/64 samples) · 12 s left, 5.0 s"]);
    }

    #[test]
    fn a_job_that_is_over_is_told_once_with_what_failed() {
        let mut watcher = Watcher::new();
        let over = || Job { state: JobState::Failed.into(), ..job(9).unwrap() };
        let snapshot = JobSnapshot {
            job: Some(over()),
            troubled: vec![frame(FrameState::Failed, Some("no memory"))],
            ..JobSnapshot::default()
        };
        let mut said = watcher.hears(SECOND, Update::Snapshot(snapshot));
        said.extend(watcher.hears(SECOND, Update::Ended(JobEnded { job: Some(over()) })));
        assert_eq!(said.len(), 2, "{said:?}");
        assert_eq!(said[0], "frame 2 failed on a: no memory");
        assert!(said[1].starts_with("job 7 failed"), "{said:?}");
    }

    #[test]
    fn a_warning_is_told_once_and_counted_at_the_end() {
        let mut watcher = Watcher::new();
        let warned = |finished, warnings: &[&str]| {
            let warning = |text: &&str| Warning { text: (*text).into(), ..Warning::default() };
            Some(Job { warnings: warnings.iter().map(warning).collect(), ..job(finished).unwrap() })
        };
        let snapshot = JobSnapshot { job: warned(0, &["no wood.png"]), ..JobSnapshot::default() };
        let said = watcher.hears(SECOND, Update::Snapshot(snapshot));
        assert_eq!(said[1..], ["warning: no wood.png"]);
        let more = warned(0, &["no wood.png", "a script\x1b was not run"]);
        let changes = JobChanges { job: more.clone(), ..JobChanges::default() };
        let said = watcher.hears(SECOND, Update::Changes(changes.clone()));
        assert_eq!(said, ["warning: a script  was not run"]);
        assert!(watcher.hears(SECOND, Update::Changes(changes)).is_empty());
        let said = watcher.hears(SECOND, Update::Ended(JobEnded { job: more }));
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].ends_with(" · 2 warnings"), "{said:?}");
    }

    #[test]
    fn a_job_that_makes_a_movie_counts_the_frames_in_it() {
        let mut watcher = Watcher::new();
        let spec = JobSpec { name: "sunrise".into(), movie_of_job_id: 7, ..JobSpec::default() };
        let counts = FrameCounts { open: 1, ..FrameCounts::default() };
        let job = Job { job_id: 8, counts: Some(counts), spec: Some(spec), ..Job::default() };
        let snapshot = JobSnapshot { job: Some(job.clone()), ..JobSnapshot::default() };
        watcher.hears(SECOND, Update::Snapshot(snapshot));
        watcher.hears(SECOND, changes(0, Vec::new(), Some(0)));
        let said = watcher.hears(SECOND * 7, changes(0, Vec::new(), Some(40)));
        assert_eq!(said, ["the movie on a: 40/64 frames, 6.0 s"]);
        let said =
            watcher.hears(SECOND * 9, changes(1, vec![frame(FrameState::Finished, None)], None));
        assert_eq!(said, ["the movie finished on a in 1.5 s"]);
        let over = Job { state: JobState::Finished.into(), spec: None, ..job };
        let said = watcher.hears(SECOND * 9, Update::Ended(JobEnded { job: Some(over) }));
        assert_eq!(said, ["job 8 · sunrise finished: the movie of job 7"]);
    }

    #[test]
    fn a_lost_connection_is_told_once() {
        let mut watcher = Watcher::new();
        watcher.live.disconnected(SECOND, "refused".into());
        let said = watcher.lines.disconnected(&watcher.live);
        assert_eq!(said.as_deref(), Some("reconnecting … (refused)"));
        assert_eq!(watcher.lines.disconnected(&watcher.live), None);
        assert_eq!(watcher.hears(SECOND, changes(0, Vec::new(), None)), ["connected again"]);
    }
}
