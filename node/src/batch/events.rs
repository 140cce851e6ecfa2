//! The numbered events of one batch, kept so that a reader can resume. Reads no clock and waits for nothing.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use framecrew_proto::v1::{
    BatchEnd, BatchEnded, BatchEvent, LogLine, LogLines, SliceProgress, Warning, WarningKind,
    batch_event::Event,
};
use prost::Message as _;
use tokio::time::Instant;

/// Log lines a second that are passed on: more than anyone reads, few enough that a renderer that prints in a
/// loop costs nothing.
const LOG_LINES_PER_SECOND_MAX: u32 = 50;

/// Log lines that a batch keeps, about 200 KB of usual ones: its events stay in memory until they are settled.
const LOG_LINES_KEPT_MAX: usize = 2_000;

/// Log lines in one event, so that no message gets large.
const LOG_LINES_PER_EVENT_MAX: usize = 100;

/// Warnings that a batch tells: more than anyone reads, and few enough to be kept with the job for ever.
const WARNINGS_MAX: usize = 50;

/// Bytes of a warning: the protocol's bound.
const WARNING_BYTES_MAX: usize = 500;

/// Events in one message.
const EVENTS_PER_MESSAGE_MAX: usize = 64;

/// Bytes of the events in one message, unless it is one event alone: far below the 4 MiB that gRPC receivers
/// take by default. The largest events, full of the longest log lines, take 200 KB.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Events of a batch, by sequence. Everything is kept but progress, of which only the latest is.
#[derive(Debug, Default)]
pub(crate) struct EventLog {
    last_sequence: u64,
    kept: VecDeque<BatchEvent>,
    progress: Option<BatchEvent>,
    /// Highest sequence that a reader was given: events up to here do not change any more.
    read: u64,
    log_lines_kept: usize,
    log_second: Option<(Instant, u32)>,
    log_dropped: u64,
    /// Warnings that were told.
    warned: HashSet<(i32, String)>,
    ended: bool,
}

impl EventLog {
    /// Adds an event that must reach the reader. Whatever progress there was is over.
    pub(crate) fn push(&mut self, event: Event) {
        self.progress = None;
        let event = self.number(event);
        self.kept.push_back(event);
    }

    /// Replaces the latest progress: a slow reader skips what it had no time for.
    pub(crate) fn progress(&mut self, progress: SliceProgress) {
        self.progress = Some(self.number(Event::Progress(progress)));
    }

    /// Adds a line that the renderer wrote, or counts it as dropped when they come too fast.
    pub(crate) fn log(&mut self, now: Instant, line: LogLine) {
        let (begun, lines) = match self.log_second {
            Some((begun, lines)) if now - begun < Duration::from_secs(1) => (begun, lines),
            _ => (now, 0),
        };
        if lines >= LOG_LINES_PER_SECOND_MAX || self.log_lines_kept >= LOG_LINES_KEPT_MAX {
            self.log_dropped += 1;
            return;
        }
        self.log_second = Some((begun, lines + 1));
        self.log_lines_kept += 1;
        if self.log_dropped == 0
            && let Some(last) = self.kept.back_mut()
            && last.sequence > self.read
            && let Some(Event::Log(log)) = &mut last.event
            && log.lines.len() < LOG_LINES_PER_EVENT_MAX
        {
            log.lines.push(line);
            return;
        }
        self.push_log(vec![line]);
    }

    /// Adds a warning, unless it was told before. The last one that is told says so.
    pub(crate) fn warn(&mut self, mut warning: Warning) {
        if self.warned.len() >= WARNINGS_MAX {
            return;
        }
        warning.text.truncate(warning.text.floor_char_boundary(WARNING_BYTES_MAX));
        if self.warned.contains(&(warning.kind, warning.text.clone())) {
            return;
        }
        if self.warned.len() + 1 == WARNINGS_MAX {
            let kind = WarningKind::Unspecified.into();
            warning = Warning { kind, text: "there are more warnings, which are not told".into() };
        }
        self.warned.insert((warning.kind, warning.text.clone()));
        // Not `push`: a warning ends no progress.
        let event = self.number(Event::Warning(warning));
        self.kept.push_back(event);
    }

    /// Adds the last event. Later ones would be a bug, and are ignored.
    pub(crate) fn end(&mut self, end: BatchEnd) {
        if self.log_dropped > 0 {
            self.push_log(Vec::new());
        }
        self.push(Event::Ended(BatchEnded { end: end.into() }));
        self.ended = true;
    }

    /// Whether the last event is there.
    pub(crate) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Sequence of the latest event; 0: none yet.
    pub(crate) fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    /// The events after `sequence`, oldest first, as many as fit in one message; empty: none yet.
    pub(crate) fn after(&mut self, sequence: u64) -> Vec<BatchEvent> {
        let first = self.kept.partition_point(|event| event.sequence <= sequence);
        let mut bytes = 0;
        let fits = |event: &&BatchEvent| {
            let alone = bytes == 0;
            bytes += event.encoded_len();
            alone || bytes <= MESSAGE_BYTES_MAX
        };
        let next = self.kept.range(first..).take(EVENTS_PER_MESSAGE_MAX);
        let mut events: Vec<_> = next.take_while(fits).cloned().collect();
        let all = first + events.len() == self.kept.len();
        if let Some(progress) = &self.progress
            && all
            && progress.sequence > sequence
        {
            // A log line may have come after the latest progress.
            let at = events.partition_point(|event| event.sequence < progress.sequence);
            events.insert(at, progress.clone());
        }
        if let Some(last) = events.last() {
            self.read = self.read.max(last.sequence);
        }
        events
    }

    fn push_log(&mut self, lines: Vec<LogLine>) {
        let dropped = std::mem::take(&mut self.log_dropped);
        // Not `push`: a line ends no progress.
        let event = self.number(Event::Log(LogLines { lines, dropped }));
        self.kept.push_back(event);
    }

    fn number(&mut self, event: Event) -> BatchEvent {
        self.last_sequence += 1;
        BatchEvent { sequence: self.last_sequence, event: Some(event) }
    }
}

#[cfg(test)]
mod tests {
    use framecrew_proto::v1::{Slice, SliceStarted};

    use super::*;

    fn started(frame: i32) -> Event {
        Event::Started(SliceStarted { slice: Some(Slice { frame, index: 0 }) })
    }

    fn progress(samples_done: u32) -> SliceProgress {
        SliceProgress { samples_done, ..SliceProgress::default() }
    }

    fn line(text: &str) -> LogLine {
        LogLine { text: text.into(), ..LogLine::default() }
    }

    fn sequences(events: &[BatchEvent]) -> Vec<u64> {
        events.iter().map(|event| event.sequence).collect()
    }

    #[test]
    fn a_slow_reader_skips_only_progress() {
        let mut log = EventLog::default();
        log.push(started(1));
        for samples in 1..=9 {
            log.progress(progress(samples));
        }
        assert_eq!(sequences(&log.after(0)), [1, 10]);
        log.push(started(2));
        assert_eq!(sequences(&log.after(1)), [11], "progress is over");
        assert!(log.after(11).is_empty());
    }

    #[test]
    fn a_reader_that_resumes_anywhere_gets_everything_that_is_kept() {
        let mut log = EventLog::default();
        for frame in 0..500 {
            log.push(started(frame));
        }
        log.end(BatchEnd::Complete);
        for from in [0, 1, 63, 64, 65, 499, 500] {
            let mut at = from;
            let mut seen = 0;
            loop {
                let events = log.after(at);
                let Some(last) = events.last() else { break };
                assert_eq!(events[0].sequence, at + 1);
                at = last.sequence;
                seen += events.len() as u64;
            }
            assert_eq!(seen, 501 - from);
        }
    }

    #[test]
    fn long_lines_are_spread_over_messages_and_none_is_lost() {
        let mut log = EventLog::default();
        let begun = Instant::now();
        for second in 0..40 {
            for _ in 0..LOG_LINES_PER_SECOND_MAX {
                log.log(begun + Duration::from_secs(second), line(&"x".repeat(2_000)));
            }
        }
        let (mut at, mut messages, mut lines) = (0, 0, 0);
        loop {
            let events = log.after(at);
            let Some(last) = events.last() else { break };
            at = last.sequence;
            messages += 1;
            let bytes: usize = events.iter().map(prost::Message::encoded_len).sum();
            assert!(bytes <= MESSAGE_BYTES_MAX, "{bytes}");
            for event in &events {
                if let Some(Event::Log(log)) = &event.event {
                    lines += log.lines.len();
                }
            }
        }
        assert_eq!(lines, LOG_LINES_KEPT_MAX);
        assert!(messages > 3, "{messages}");
    }

    #[test]
    fn lines_that_come_too_fast_are_counted() {
        let mut log = EventLog::default();
        let now = Instant::now();
        for _ in 0..LOG_LINES_PER_SECOND_MAX + 7 {
            log.log(now, line("again"));
        }
        log.log(now + Duration::from_secs(2), line("later"));
        log.end(BatchEnd::Complete);
        let (mut lines, mut dropped) = (0, 0);
        for event in log.after(0) {
            if let Some(Event::Log(log)) = event.event {
                lines += log.lines.len();
                dropped += log.dropped;
            }
        }
        assert_eq!(lines, LOG_LINES_PER_SECOND_MAX as usize + 1);
        assert_eq!(dropped, 7);
    }

    #[test]
    fn lines_dropped_at_the_very_end_are_counted_too() {
        let mut log = EventLog::default();
        let now = Instant::now();
        for _ in 0..=LOG_LINES_PER_SECOND_MAX {
            log.log(now, line("again"));
        }
        log.end(BatchEnd::Complete);
        let dropped: u64 = log
            .after(0)
            .into_iter()
            .filter_map(|event| match event.event {
                Some(Event::Log(log)) => Some(log.dropped),
                _ => None,
            })
            .sum();
        assert_eq!(dropped, 1);
    }

    #[test]
    fn an_event_that_was_read_does_not_change_any_more() {
        let mut log = EventLog::default();
        let now = Instant::now();
        log.log(now, line("one"));
        assert_eq!(sequences(&log.after(0)), [1]);
        log.log(now, line("two"));
        assert_eq!(sequences(&log.after(1)), [2]);
    }

    #[test]
    fn a_warning_is_told_once_is_short_and_there_are_not_too_many() {
        let mut log = EventLog::default();
        log.progress(progress(3));
        let warn = |log: &mut EventLog, text: String| {
            log.warn(Warning { kind: WarningKind::MissingFile.into(), text });
        };
        for _ in 0..3 {
            warn(&mut log, "é".repeat(400));
        }
        assert_eq!(sequences(&log.after(0)), [1, 2], "progress goes on");
        for n in 0..WARNINGS_MAX * 2 {
            warn(&mut log, n.to_string());
        }
        let told: Vec<_> = log.after(1).into_iter().filter_map(|event| event.event).collect();
        assert_eq!(told.len(), WARNINGS_MAX);
        let texts: Vec<_> = told
            .iter()
            .map(|event| match event {
                Event::Warning(warning) => warning.text.as_str(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(texts[0], "é".repeat(WARNING_BYTES_MAX / 2));
        assert!(texts[WARNINGS_MAX - 1].contains("more warnings"));
    }

    #[test]
    fn a_line_does_not_end_the_progress() {
        let mut log = EventLog::default();
        log.progress(progress(3));
        log.log(Instant::now(), line("a warning"));
        assert_eq!(sequences(&log.after(0)), [1, 2]);
    }
}
