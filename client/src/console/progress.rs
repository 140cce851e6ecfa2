use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use framecrew::words::{self, bytes, percent};
use tokio::time::Instant;

use super::note;

/// Percent between two lines where nothing can be overwritten.
const STEP_PERCENT: u64 = 25;
/// Time between two drawings of the line.
const REDRAW_EVERY: Duration = Duration::from_millis(100);
/// How long a transfer must last before its speed means something, and before it is worth a line that stays.
const SPEED_AFTER: Duration = Duration::from_secs(1);
/// Cells that the line takes at most.
const CELLS_MAX: usize = 79;

/// How far something is that counts in bytes: a line on stderr that overwrites itself, or, where that is not a
/// terminal, one for every quarter of what takes long.
#[derive(Debug, Default)]
pub(crate) struct ProgressLine {
    shown: Option<Shown>,
}

/// What is shown now.
#[derive(Debug)]
struct Shown {
    what: String,
    done_bytes: u64,
    /// When this began, and what was done then.
    began: (Instant, u64),
    drawn: Instant,
}

impl ProgressLine {
    /// Shows how far it is, where that has changed.
    pub(crate) fn show(&mut self, what: &str, done_bytes: u64, total_bytes: u64) {
        self.show_at(Instant::now(), what, done_bytes, total_bytes);
    }

    fn show_at(&mut self, now: Instant, what: &str, done_bytes: u64, total_bytes: u64) {
        let draws = io::stderr().is_terminal();
        let before = self.shown.take().filter(|shown| shown.what == what);
        let Some(before) = before else {
            let (what, began) = (what.to_owned(), (now, done_bytes));
            self.shown = Some(Shown { what, done_bytes, began, drawn: now });
            if draws {
                self.write(now, total_bytes);
            }
            return;
        };
        let step = |done| percent(done, total_bytes).min(100) / STEP_PERCENT;
        let is_news = match draws {
            true => now.duration_since(before.drawn) >= REDRAW_EVERY || done_bytes >= total_bytes,
            false => {
                let lasts = now.duration_since(before.began.0) >= SPEED_AFTER;
                lasts && step(done_bytes) > step(before.done_bytes)
            }
        };
        // What is estimated may fall back; what is shown does not.
        if !is_news || done_bytes <= before.done_bytes {
            self.shown = Some(before);
            return;
        }
        self.shown = Some(Shown { done_bytes, drawn: now, ..before });
        self.write(now, total_bytes);
    }

    fn write(&self, now: Instant, total_bytes: u64) {
        let Some(shown) = &self.shown else { return };
        let text = words::printable(&text(shown, now, total_bytes));
        if io::stderr().is_terminal() {
            let mut stderr = io::stderr().lock();
            let _ = write!(stderr, "\r{text:CELLS_MAX$.CELLS_MAX$}").and_then(|()| stderr.flush());
        } else {
            note(text);
        }
    }

    /// Takes the line away.
    pub(crate) fn clear(&mut self) {
        if self.shown.take().is_some() && io::stderr().is_terminal() {
            let mut stderr = io::stderr().lock();
            let _ = write!(stderr, "\r{:CELLS_MAX$}\r", "").and_then(|()| stderr.flush());
        }
    }
}

/// `uploading: 412.0 MB of 1.0 GB (41 %), 95.0 MB/s`.
fn text(shown: &Shown, now: Instant, total_bytes: u64) -> String {
    let Shown { what, done_bytes, began, .. } = shown;
    let share = percent(*done_bytes, total_bytes).min(100);
    let mut text = format!("{what}: {} of {} ({share} %)", bytes(*done_bytes), bytes(total_bytes));
    let took = now.duration_since(began.0);
    if took >= SPEED_AFTER {
        let per_second = (done_bytes - began.1) as f64 / took.as_secs_f64();
        text += &format!(", {}/s", bytes(per_second as u64));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_that_lasts_has_a_speed() {
        let now = Instant::now();
        let shown = |done_bytes, began: (Instant, u64)| Shown {
            what: "uploading".into(),
            done_bytes,
            began,
            drawn: now,
        };
        let begun = shown(2_000_000, (now, 2_000_000));
        assert_eq!(text(&begun, now, 8_000_000), "uploading: 2.0 MB of 8.0 MB (25 %)");
        let later = shown(6_000_000, (now, 2_000_000));
        let line = text(&later, now + Duration::from_secs(2), 8_000_000);
        assert_eq!(line, "uploading: 6.0 MB of 8.0 MB (75 %), 2.0 MB/s");
    }

    #[tokio::test]
    async fn what_is_shown_never_falls_back() {
        let mut line = ProgressLine::default();
        let mut now = Instant::now();
        for (done, shown) in [(10, 10), (90, 90), (50, 90), (100, 100)] {
            now += Duration::from_secs(1);
            line.show_at(now, "uploading", done, 100);
            assert_eq!(line.shown.as_ref().map(|shown| shown.done_bytes), Some(shown));
        }
    }
}
