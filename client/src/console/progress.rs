use std::io::{self, IsTerminal as _, Write as _};

use framecrew::view::words::{bytes, percent};

use super::note;

/// Percent between two lines where nothing can be overwritten.
const STEP_PERCENT: u64 = 25;

/// How far something is that counts in bytes: a line on stderr that overwrites itself, or one for every quarter
/// where that is not a terminal.
#[derive(Debug, Default)]
pub(crate) struct ProgressLine {
    /// What is shown now: of what, and its percent in whole steps.
    shown: Option<(&'static str, u64)>,
}

impl ProgressLine {
    /// Shows how far it is, where that has changed.
    pub(crate) fn show(&mut self, what: &'static str, done_bytes: u64, total_bytes: u64) {
        let draws = io::stderr().is_terminal();
        let step = if draws { 1 } else { STEP_PERCENT };
        let percent = percent(done_bytes, total_bytes).min(100);
        let now = (what, percent / step * step);
        // What is estimated may fall back; what is shown does not.
        if self.shown.is_some_and(|shown| shown.0 == what && shown.1 >= now.1) {
            return;
        }
        self.shown = Some(now);
        let text = format!("{what}: {} of {} ({percent} %)", bytes(done_bytes), bytes(total_bytes));
        if draws {
            let mut stderr = io::stderr().lock();
            let _ = write!(stderr, "\r{text:70}").and_then(|()| stderr.flush());
        } else {
            note(text);
        }
    }

    /// Takes the line away.
    pub(crate) fn clear(&mut self) {
        if self.shown.take().is_some() && io::stderr().is_terminal() {
            let mut stderr = io::stderr().lock();
            let _ = write!(stderr, "\r{:70}\r", "").and_then(|()| stderr.flush());
        }
    }
}
