//! A job in a line, its failures in a few.

use std::time::Duration;

use framecrew_proto::v1::{FailureReason, Frame, FrameState, JobState};

use super::frame_lines::{frame_line, last_words, tail};
use framecrew_model::FrameRange;

use crate::{live::Live, state::JobView, words};

/// Failed frames that a summary names before it only counts them.
const FAILED_NAMED_MAX: usize = 10;

/// Failed frames that a summary lists with their reasons; it counts the others.
const FAILED_TOLD_MAX: usize = 3;

/// How the job stands, in one line: what remains of a watch.
#[must_use]
pub fn summary(view: &JobView) -> String {
    let job = view.job();
    let head = format!("job {}", words::title(job));
    let took_ms = job.ended_at_ms.saturating_sub(job.started_at_ms);
    let took = u64::try_from(took_ms).ok().filter(|ms| *ms > 0 && job.started_at_ms > 0);
    let took = took.map(Duration::from_millis);
    let mut text = match job.spec.as_ref().filter(|_| words::makes_movie(job)) {
        Some(spec) => format!("{head} {}", of_movie(view, spec.movie_of_job_id, took)),
        None => format!("{head} {}", of_frames(view, took)),
    };
    let warnings = view.warnings().len() as u64;
    if warnings > 0 {
        text += &format!(" · {}", words::plural(warnings, "warning"));
    }
    text
}

fn of_frames(view: &JobView, took: Option<Duration>) -> String {
    let counts = view.counts();
    let total = words::total(&counts);
    let done = || format!("{} of {} finished", counts.finished, words::frames(total));
    match view.state() {
        JobState::Finished => {
            let time = took.map_or_else(String::new, |took| {
                let per_minute = counts.finished as f64 * 60.0 / took.as_secs_f64();
                format!(" in {} ({})", words::duration(took), words::rate(per_minute))
            });
            format!("finished: {}{time}", words::frames(total))
        }
        JobState::Failed | JobState::Cancelled => {
            let after = took.map(|took| format!(" after {}", words::duration(took)));
            let state = words::job_state(view.state());
            let text = format!("{state}{}: {}", after.unwrap_or_default(), done());
            match view.state() {
                JobState::Failed => format!("{text}; failed: {}", failed_frames(view)),
                _ => text,
            }
        }
        state => format!("{}: {}", words::job_state(state), done()),
    }
}

fn of_movie(view: &JobView, source: u64, took: Option<Duration>) -> String {
    match view.state() {
        JobState::Finished => {
            let time = took.map(|took| format!(" in {}", words::duration(took)));
            format!("finished: the movie of job {source}{}", time.unwrap_or_default())
        }
        JobState::Failed | JobState::Cancelled => {
            format!("{}: there is no movie of job {source}", words::job_state(view.state()))
        }
        _ => format!("{}: the movie of job {source}", words::state(view.job())),
    }
}

/// Why frames failed, with Blender's last lines: of the first few, which rarely differ from the others.
#[must_use]
pub fn failures(view: &JobView) -> Vec<String> {
    let failed = view.troubled().filter(|frame| frame.state() == FrameState::Failed);
    let told = failed.take(FAILED_TOLD_MAX);
    told.flat_map(|frame| frame_line(view.job(), frame).into_iter().chain(last_words(frame)))
        .collect()
}

/// Whether another attempt at one of the failed frames may succeed.
#[must_use]
pub fn may_be_retried(view: &JobView) -> bool {
    let mut failed = view.troubled().filter(|frame| frame.state() == FrameState::Failed).peekable();
    let is_permanent = |frame: &Frame| {
        let failure = frame.failure.as_ref();
        failure.is_some_and(|failure| failure.reason() == FailureReason::Permanent)
    };
    failed.peek().is_none() || failed.any(|frame| !is_permanent(frame))
}

/// Returns why open frames failed in their last attempt, the latest first, with Blender's last lines.
#[must_use]
pub fn retried(view: &JobView) -> Vec<String> {
    let is_retried = |frame: &&Frame| frame.state() == FrameState::Open && frame.failure.is_some();
    let mut frames: Vec<_> = view.troubled().filter(is_retried).collect();
    frames.sort_by_key(|frame| std::cmp::Reverse(frame.revision));
    let more = frames.len().saturating_sub(FAILED_TOLD_MAX);
    let told = frames.into_iter().take(FAILED_TOLD_MAX).flat_map(|frame| {
        let line = frame_line(view.job(), frame);
        line.into_iter().chain(tail(frame))
    });
    let mut told: Vec<_> = told.collect();
    if more > 0 {
        told.push(format!("{} did not succeed either", words::plural(more as u64, "more frame")));
    }
    told
}

/// `13, 20-25 and 7 more`.
fn failed_frames(view: &JobView) -> String {
    let runs = view.runs().filter(|(_, _, state)| *state == FrameState::Failed);
    let mut names: Vec<String> = runs
        .filter_map(|(first, last, _)| FrameRange::new(first, last, 1).ok())
        .map(|range| range.to_string())
        .collect();
    let more = names.len().saturating_sub(FAILED_NAMED_MAX);
    names.truncate(FAILED_NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", names.join(", "))
}

/// `24.0 frames/min · 5 min 20 s left`; empty until that is known.
pub(super) fn outlook(live: &Live, now: Duration) -> String {
    let Some(rate) = live.pace().frames_per_minute(now) else {
        return String::new();
    };
    let open = live.view().counts().open;
    let left = live.pace().time_left(now, open).filter(|_| open > 0);
    let left = left.map_or_else(String::new, |left| format!(" · {} left", words::duration(left)));
    format!("{}{left}", words::rate(rate))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use framecrew_proto::v1::{
        Failure, Job, JobSnapshot, WatchJobResponse, watch_job_response::Update,
    };

    use super::*;

    #[test]
    fn frames_that_no_attempt_can_draw_are_not_to_be_retried() {
        let failed_for = |reasons: &[FailureReason]| {
            let frame = |(number, reason): (i32, &FailureReason)| Frame {
                frame: number,
                state: FrameState::Failed.into(),
                failure: Some(Failure { reason: (*reason).into(), ..Failure::default() }),
                ..Frame::default()
            };
            let snapshot = JobSnapshot {
                job: Some(Job { job_id: 7, ..Job::default() }),
                troubled: (1..).zip(reasons).map(frame).collect(),
                ..JobSnapshot::default()
            };
            let mut view = JobView::default();
            let update = Some(Update::Snapshot(snapshot));
            view.apply(&WatchJobResponse { update, ..WatchJobResponse::default() });
            may_be_retried(&view)
        };
        use FailureReason::{Permanent, Renderer};
        assert!(!failed_for(&[Permanent, Permanent]));
        assert!(failed_for(&[Permanent, Renderer]));
        assert!(failed_for(&[]), "nothing is known of them");
    }

    #[test]
    fn retried_frames_are_listed_latest_first() {
        let failed = |number: i32, state: FrameState, message: &str| Frame {
            frame: number,
            state: state.into(),
            node: "six".into(),
            revision: u64::from(number.unsigned_abs()),
            failure: Some(Failure {
                reason: FailureReason::Infrastructure.into(),
                message: message.into(),
                log_tail: vec!["the last line".into()],
            }),
            ..Frame::default()
        };
        let snapshot = JobSnapshot {
            job: Some(Job { job_id: 7, ..Job::default() }),
            troubled: (1..=5)
                .map(|number| failed(number, FrameState::Open, "no disk"))
                .chain([failed(9, FrameState::Failed, "no memory")])
                .collect(),
            ..JobSnapshot::default()
        };
        let mut view = JobView::default();
        let update = Some(Update::Snapshot(snapshot));
        view.apply(&WatchJobResponse { update, ..WatchJobResponse::default() });
        let told = retried(&view);
        let first = "frame 5 did not succeed on six (infrastructure) and is tried again: no disk";
        assert_eq!(told[..2], [first.to_owned(), "    the last line".to_owned()]);
        assert_eq!(told.len(), 2 * FAILED_TOLD_MAX + 1);
        assert_eq!(told.last().unwrap(), "2 more frames did not succeed either");
    }
}
