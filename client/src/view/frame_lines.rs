//! A frame in a line, with the last lines of Blender's output.

use std::time::Duration;

use framecrew_proto::v1::{Failure, FailureReason, Frame, FrameState, Job};

use crate::words;

/// Lines of Blender's output shown for a frame that failed; `framecrew job` shows all that are kept.
const LAST_WORDS_MAX: usize = 5;

/// The last lines of Blender's output for a frame that has failed, indented.
pub(super) fn last_words(frame: &Frame) -> impl Iterator<Item = String> {
    let is_failed = frame.state() == FrameState::Failed;
    tail(frame).filter(move |_| is_failed)
}

/// The last lines of Blender's output from the frame's last failed attempt, indented.
pub(super) fn tail(frame: &Frame) -> impl Iterator<Item = String> {
    let tail = frame.failure.iter().flat_map(|failure| {
        let skipped = failure.log_tail.len().saturating_sub(LAST_WORDS_MAX);
        failure.log_tail.iter().skip(skipped)
    });
    tail.map(|line| format!("    {}", words::printable(line)))
}

/// What became of a frame; `None` where that is not worth a line.
pub(super) fn frame_line(job: &Job, frame: &Frame) -> Option<String> {
    let (piece, node) = (words::piece(job, frame.frame), words::printable(&frame.node));
    match (frame.state(), &frame.failure) {
        (FrameState::Finished, _) => {
            let took = Duration::try_from_secs_f64(frame.render_seconds).unwrap_or_default();
            Some(format!("{piece} finished on {node} in {}", words::duration(took)))
        }
        (FrameState::Failed, failure) => {
            let failure = failure.clone().unwrap_or_default();
            let (class, message) = (class(&failure), words::printable(&failure.message));
            Some(format!("{piece} failed on {node}{class}: {message}"))
        }
        (FrameState::Open, Some(failure)) => Some(format!(
            "{piece} did not succeed on {node}{} and is tried again: {}",
            class(failure),
            words::printable(&failure.message)
        )),
        _ => None,
    }
}

/// ` (out of memory)`; empty where the node did not say.
pub(super) fn class(failure: &Failure) -> String {
    match failure.reason() {
        FailureReason::Unspecified => String::new(),
        reason => format!(" ({})", words::failure_reason(reason)),
    }
}
