use std::time::Duration;

use framecrew_proto::v1::{ActiveSlice, Frame, FrameState, JobState};
use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::Widget,
};

use super::summary::outlook;
use crate::{
    live::{Lane, Link, Live, Rest},
    words,
};

/// Failed frames shown, the latest ones; the summary names the others.
const FAILURES_SHOWN: usize = 3;
/// Cells of a lane's bar.
const LANE_BAR_CELLS: usize = 16;
/// Cells of the job's bar: with them, all that matters fits into 80.
const JOB_BAR_CELLS: usize = 20;
/// Longest node name shown whole, in cells.
const NAME_CELLS_MAX: usize = 24;

/// A job under watch as a block of lines: how far, who works, what is wrong.
#[derive(Debug, Clone, Copy)]
pub struct Panel<'a> {
    live: &'a Live,
    now: Duration,
    color: bool,
}

impl<'a> Panel<'a> {
    /// The panel at a moment, in time since the watch began.
    #[must_use]
    pub fn new(live: &'a Live, now: Duration) -> Self {
        Self { live, now, color: true }
    }

    /// Whether to use colours; bold and dim text remain without them.
    #[must_use]
    pub fn color(mut self, color: bool) -> Self {
        self.color = color;
        self
    }

    /// Lines it would like to have.
    #[must_use]
    pub fn height(&self) -> u16 {
        let lines = 2 + self.live.lanes().len() + self.failures().len();
        u16::try_from(lines).unwrap_or(u16::MAX)
    }

    /// Its lines, `rows` at most: lanes that do not fit are counted in the last one.
    #[must_use]
    pub fn lines(&self, rows: usize) -> Vec<Line<'static>> {
        let mut lines = vec![self.head(), self.progress()];
        let failures = self.failures();
        let lanes = self.live.lanes();
        let room = rows.saturating_sub(lines.len() + failures.len());
        let shown = if lanes.len() > room { room.saturating_sub(1) } else { lanes.len() };
        let name_cells = lanes.keys().map(|name| Span::raw(*name).width()).max().unwrap_or(0);
        let name_cells = name_cells.min(NAME_CELLS_MAX);
        for (name, (lane, slices)) in lanes.iter().take(shown) {
            lines.push(self.lane(name, name_cells, lane, slices));
        }
        let hidden = lanes.len() - shown;
        if hidden > 0 && room > 0 {
            let more = format!("  … and {}", words::plural(hidden as u64, "more node"));
            lines.push(Line::styled(more, self.dim()));
        }
        lines.extend(failures.into_iter().map(|frame| self.failure(frame)));
        lines.truncate(rows);
        lines
    }

    fn head(&self) -> Line<'static> {
        let view = self.live.view();
        let job = view.job();
        let mut spans = vec![
            Span::styled(
                format!("job {}", words::title(job)),
                Style::new().add_modifier(Modifier::BOLD),
            ),
            Span::raw(" · "),
            Span::styled(words::state(job), self.fg(state_color(view.state()))),
        ];
        if let Link::Down { reason, since } = self.live.link() {
            let time = words::duration(self.now.saturating_sub(*since));
            spans.push(Span::styled(
                format!(" · reconnecting … {time} ({})", words::printable(reason)),
                self.fg(Color::Yellow),
            ));
        } else if !job.waiting_reason.is_empty() && !view.ended() {
            let reason = words::printable(&job.waiting_reason);
            spans.push(Span::styled(format!(" · {reason}"), self.fg(Color::Yellow)));
        }
        Line::from(spans)
    }

    fn progress(&self) -> Line<'static> {
        let view = self.live.view();
        let counts = view.counts();
        let (part, whole) = self.frames_done();
        let [done, rest] = self.bar(part as f64 / whole.max(1) as f64, JOB_BAR_CELLS);
        let percent = words::percent(part, whole);
        let mut text = match whole {
            0 => String::new(),
            _ => format!("  {part}/{} {percent} %", words::frames(whole)),
        };
        if counts.failed > 0 {
            text += &format!(" · {} failed", counts.failed);
        }
        let warnings = view.warnings().len() as u64;
        if warnings > 0 {
            text += &format!(" · {}", words::plural(warnings, "warning"));
        }
        let outlook = outlook(self.live, self.now);
        if !outlook.is_empty() {
            text += &format!(" · {outlook}");
        }
        if let Some(fetched) = self.live.fetch_progress() {
            text += &format!(" · {} here", words::plural(fetched.fetched + fetched.kept, "file"));
        }
        Line::from(vec![Span::raw("  "), done, rest, Span::raw(text)])
    }

    /// How many frames are finished, and of how many; in a movie, as far as that is known.
    fn frames_done(&self) -> (u64, u64) {
        let view = self.live.view();
        if !words::makes_movie(view.job()) {
            return (view.counts().finished, words::total(&view.counts()));
        }
        let progress = view.active().find_map(|slice| slice.progress).unwrap_or_default();
        (progress.samples_done.into(), progress.samples_total.into())
    }

    fn lane(
        &self,
        name: &str,
        cells: usize,
        lane: &Lane,
        slices: &[&ActiveSlice],
    ) -> Line<'static> {
        let shown = padded(&words::printable(name), cells);
        let mut spans = vec![Span::styled(format!("  {shown}  "), self.fg(Color::Cyan))];
        let Some((slice, others)) = slices.split_first() else {
            // What a node does that does nothing for this job is not told; nor anything while the
            // connection is lost.
            let (state, style) = match (self.live.link(), self.rest(name), lane.lost) {
                (Link::Down { .. }, ..) => ("…".into(), self.dim()),
                (Link::Up, Some(rest), _) => (rest, self.fg(Color::Yellow)),
                (Link::Up, None, true) => ("lost".into(), self.fg(Color::Red)),
                (Link::Up, None, false) => ("–".into(), self.dim()),
            };
            spans.push(Span::styled(state, style));
            if lane.finished > 0 {
                let finished = format!(" · {} finished", words::frames(lane.finished));
                spans.push(Span::styled(finished, self.dim()));
            }
            return Line::from(spans);
        };
        let job = self.live.view().job();
        let piece = words::piece(job, slice.slice.unwrap_or_default().frame);
        let elapsed = words::duration(self.live.elapsed(self.now, slice));
        spans.push(Span::raw(format!("{piece:<11} ")));
        let progress = slice.progress.unwrap_or_default();
        if let Some(fraction) = words::fraction(&progress) {
            spans.extend(self.bar(fraction, LANE_BAR_CELLS));
            spans.push(Span::raw(format!("  {}  ", words::progress(job, &progress))));
        }
        spans.push(Span::raw(elapsed));
        if !others.is_empty() {
            let more = words::frames(others.len() as u64);
            spans.push(Span::styled(format!(" · and {more} more"), self.dim()));
        }
        if let Some(rest) = self.rest(name) {
            spans.push(Span::styled(format!(" · {rest}"), self.fg(Color::Yellow)));
        }
        Line::from(spans)
    }

    /// `quarantined for 3 min 20 s more (every try on it failed)`.
    fn rest(&self, node: &str) -> Option<String> {
        let Rest { state, reason, until } = self.live.resting(node)?;
        let mut text = words::node_state(*state).to_owned();
        if let Some(until) = until {
            let left = words::duration(until.saturating_sub(self.now));
            text += &format!(" for {left} more");
        }
        if !reason.is_empty() {
            text += &format!(" ({})", words::printable(reason));
        }
        Some(text)
    }

    /// The latest frames that failed for good, then those that are tried again, by the revision of it.
    fn failures(&self) -> Vec<&'a Frame> {
        let is_trouble = |frame: &&Frame| frame.state() != FrameState::Finished;
        let mut frames: Vec<_> = self.live.view().troubled().filter(is_trouble).collect();
        frames
            .sort_by_key(|frame| (frame.state() != FrameState::Failed, u64::MAX - frame.revision));
        frames.truncate(FAILURES_SHOWN);
        frames
    }

    fn failure(&self, frame: &Frame) -> Line<'static> {
        let (mark, what, color) = match frame.state() {
            FrameState::Failed => ("✗", "failed", Color::Red),
            FrameState::Cancelled => ("✗", "cancelled", Color::Yellow),
            _ => ("↻", "is tried again", Color::Yellow),
        };
        let piece = words::piece(self.live.view().job(), frame.frame);
        // Its node died since: what that said of the frame is no longer the latest word.
        let why = frame.failure.as_ref().map_or_else(String::new, |failure| {
            let message = words::printable(&failure.message);
            let reason = words::failure_reason(failure.reason());
            format!(": {message} ({reason}, {})", words::printable(&frame.node))
        });
        Line::from(vec![
            Span::styled(format!("  {mark} {piece} {what}"), self.fg(color)),
            Span::raw(why),
        ])
    }

    fn bar(&self, fraction: f64, cells: usize) -> [Span<'static>; 2] {
        let done = (fraction.clamp(0.0, 1.0) * cells as f64) as usize;
        [
            Span::styled("█".repeat(done), self.fg(Color::Green)),
            Span::styled("░".repeat(cells - done), self.dim()),
        ]
    }

    fn fg(&self, color: Color) -> Style {
        if self.color { Style::new().fg(color) } else { Style::new() }
    }

    fn dim(&self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }
}

impl Widget for Panel<'_> {
    fn render(self, area: Rect, buffer: &mut Buffer) {
        for (row, line) in (area.top()..).zip(self.lines(area.height.into())) {
            buffer.set_line(area.left(), row, &line, area.width);
        }
    }
}

fn state_color(state: JobState) -> Color {
    match state {
        JobState::Finished => Color::Green,
        JobState::Failed => Color::Red,
        JobState::Cancelled => Color::Yellow,
        _ => Color::Cyan,
    }
}

/// The text in exactly `cells` cells: cut with an ellipsis, or filled up.
fn padded(text: &str, cells: usize) -> String {
    let mut kept = String::new();
    let mut width = 0;
    let too_long = Span::raw(text).width() > cells;
    let limit = if too_long { cells.saturating_sub(1) } else { cells };
    for c in text.chars() {
        let wide = Span::raw(c.to_string()).width();
        if width + wide > limit {
            break;
        }
        kept.push(c);
        width += wide;
    }
    if too_long {
        kept.push('…');
        width += 1;
    }
    kept + &" ".repeat(cells.saturating_sub(width))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use framecrew_proto::v1::{
        Failure, FailureReason, FrameCounts, FrameRange, FrameRun, Job, JobChanges, JobEnded,
        JobSnapshot, JobSpec, Node, NodeState, Slice, SliceProgress, Warning, WatchJobResponse,
        watch_job_response::Update,
    };
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::FetchProgress;

    const SECOND: Duration = Duration::from_secs(1);

    fn job(state: JobState, finished: u64, failed: u64) -> Job {
        Job {
            job_id: 7,
            state: state.into(),
            counts: Some(FrameCounts {
                open: 250 - finished - failed,
                finished,
                failed,
                cancelled: 0,
            }),
            started_at_ms: 1_000,
            ended_at_ms: if state == JobState::Rendering { 0 } else { 601_000 },
            ..Job::default()
        }
    }

    fn update(revision: u64, update: Update) -> WatchJobResponse {
        WatchJobResponse { revision, store_id: "s".into(), update: Some(update) }
    }

    fn snapshot() -> WatchJobResponse {
        let spec = JobSpec { name: "sunrise".into(), ..JobSpec::default() };
        let frames = FrameRange { first: 1, last: 250, step: 1 };
        update(
            1,
            Update::Snapshot(JobSnapshot {
                job: Some(Job { spec: Some(spec), ..job(JobState::Rendering, 118, 0) }),
                runs: vec![FrameRun { frames: Some(frames), state: FrameState::Open.into() }],
                ..JobSnapshot::default()
            }),
        )
    }

    fn active(node: &str, frame: i32, samples_done: u32, samples_total: u32) -> ActiveSlice {
        let slice = Some(Slice { frame, index: 0 });
        ActiveSlice {
            slice,
            node: node.into(),
            started_at_ms: 0,
            progress: Some(SliceProgress {
                slice,
                samples_done,
                samples_total,
                ..SliceProgress::default()
            }),
        }
    }

    fn frame(number: i32, state: FrameState, node: &str) -> Frame {
        Frame {
            frame: number,
            state: state.into(),
            node: node.into(),
            render_seconds: 2.5,
            ..Frame::default()
        }
    }

    fn trouble(number: i32, state: FrameState, revision: u64, message: &str) -> Frame {
        Frame {
            revision,
            failed_attempts: 3,
            failure: Some(Failure {
                reason: FailureReason::Renderer.into(),
                message: message.into(),
                log_tail: Vec::new(),
            }),
            ..frame(number, state, "node-2")
        }
    }

    /// Joined at 118 of 250 frames; two more since.
    fn rendering() -> Live {
        let mut live = Live::default();
        live.apply(SECOND, 0, &snapshot());
        live.apply(
            SECOND * 6,
            0,
            &update(
                2,
                Update::Changes(JobChanges {
                    job: Some(job(JobState::Rendering, 120, 0)),
                    frames: vec![
                        frame(119, FrameState::Finished, "node-1"),
                        frame(120, FrameState::Finished, "node-3"),
                    ],
                    active: vec![
                        active("node-1", 121, 64, 96),
                        active("workstation-2", 122, 12, 96),
                    ],
                }),
            ),
        );
        live
    }

    /// What a person sees in a terminal of this size.
    fn seen(live: &Live, now: Duration, width: u16, rows: u16) -> String {
        let panel = Panel::new(live, now);
        let mut terminal = Terminal::new(TestBackend::new(width, rows)).unwrap();
        terminal.draw(|frame| frame.render_widget(panel, frame.area())).unwrap();
        let cells: Vec<&str> =
            terminal.backend().buffer().content.iter().map(|cell| cell.symbol()).collect();
        let rows = cells.chunks(width.into()).map(|row| row.concat().trim_end().to_owned() + "\n");
        rows.collect()
    }

    #[test]
    fn a_job_that_renders_shows_how_far_and_who_works() {
        let live = rendering();
        let now = SECOND * 10;
        let height = Panel::new(&live, now).height();
        assert_eq!(height, 5);
        assert_eq!(seen(&live, now, 100, height), include_str!("fixtures/rendering.txt"));
    }

    #[test]
    fn failures_are_shown_with_their_reasons_the_final_ones_first() {
        let mut live = rendering();
        live.fetched(FetchProgress { fetched: 2, kept: 117, replaced: 0, bytes: 0 });
        live.apply(
            SECOND * 9,
            0,
            &update(
                5,
                Update::Changes(JobChanges {
                    job: Some(job(JobState::Rendering, 120, 1)),
                    frames: vec![
                        trouble(13, FrameState::Failed, 4, "the camera `Main` does not exist"),
                        trouble(14, FrameState::Open, 5, "Blender crashed"),
                        // Its node died since, and nobody knows whether of it.
                        Frame { failure: None, ..trouble(15, FrameState::Open, 3, "") },
                    ],
                    active: Vec::new(),
                }),
            ),
        );
        let now = SECOND * 10;
        let height = Panel::new(&live, now).height();
        assert_eq!(seen(&live, now, 100, height), include_str!("fixtures/failures.txt"));
    }

    #[test]
    fn a_node_that_is_lost_is_marked_until_it_works_again() {
        let mut live = rendering();
        let mut lost = trouble(121, FrameState::Open, 6, "node-1 was lost");
        lost.node = "node-1".into();
        lost.failure.as_mut().unwrap().set_reason(FailureReason::NodeLost);
        let mut now = SECOND * 9;
        let mut hear = |frames, active| {
            now += SECOND;
            let changes =
                JobChanges { job: Some(job(JobState::Rendering, 120, 0)), frames, active };
            live.apply(now, 0, &update(7, Update::Changes(changes)));
            seen(&live, now, 100, 5)
        };
        assert!(hear(vec![lost], Vec::new()).contains("  node-1         lost · 1 frame finished"));
        assert!(hear(Vec::new(), vec![active("node-1", 123, 1, 96)]).contains("frame 123"));
        let done = vec![Frame { revision: 9, ..frame(123, FrameState::Finished, "node-1") }];
        assert!(hear(done, Vec::new()).contains("  node-1         – · 2 frames finished"));
    }

    #[test]
    fn a_node_that_gets_no_work_says_why() {
        let mut live = rendering();
        let node = |name: &str, state: NodeState, reason: &str, state_until_ms| Node {
            name: name.into(),
            state: state.into(),
            state_reason: reason.into(),
            state_until_ms,
            ..Node::default()
        };
        let nodes = [
            node("node-1", NodeState::Draining, "", 0),
            node("node-3", NodeState::Quarantined, "every try on it failed", 210_000),
            node("workstation-2", NodeState::Rendering, "", 0),
        ];
        live.nodes(SECOND * 9, 10_000, &nodes);
        assert_eq!(seen(&live, SECOND * 10, 100, 5), include_str!("fixtures/resting.txt"));
        live.nodes(SECOND * 12, 13_000, &[]);
        assert!(live.resting("node-3").is_none());
    }

    #[test]
    fn warnings_are_counted() {
        let mut live = rendering();
        let warning = |text: &str| Warning { text: text.into(), ..Warning::default() };
        let warnings = vec![warning("no wood.png"), warning("a script was not run")];
        let job = Some(Job { warnings, ..job(JobState::Rendering, 120, 0) });
        let changes = JobChanges { job, ..JobChanges::default() };
        live.apply(SECOND * 9, 0, &update(3, Update::Changes(changes)));
        assert_eq!(seen(&live, SECOND * 10, 100, 5), include_str!("fixtures/warnings.txt"));
        assert!(super::super::summary::summary(live.view()).ends_with(" · 2 warnings"));
    }

    #[test]
    fn a_job_that_makes_a_movie_shows_how_much_of_it_is_encoded() {
        let spec = JobSpec { name: "sunrise".into(), movie_of_job_id: 7, ..JobSpec::default() };
        let counts = Some(FrameCounts { open: 1, ..FrameCounts::default() });
        let state = JobState::Rendering.into();
        let job = Job { job_id: 8, state, counts, spec: Some(spec), ..Job::default() };
        let mut live = Live::default();
        let snapshot = |active| {
            update(
                1,
                Update::Snapshot(JobSnapshot {
                    job: Some(job.clone()),
                    active,
                    ..JobSnapshot::default()
                }),
            )
        };
        live.apply(SECOND, 0, &snapshot(Vec::new()));
        assert_eq!(live.view().active().count(), 0);
        seen(&live, SECOND, 100, 2);
        live.apply(SECOND, 1_000, &snapshot(vec![active("node-1", 1, 150, 250)]));
        assert_eq!(seen(&live, SECOND * 3, 100, 3), include_str!("fixtures/encoding.txt"));
    }

    #[test]
    fn a_frame_whose_samples_stand_still_shows_its_share() {
        let mut live = rendering();
        let mut slice = active("node-1", 121, 1, 96);
        let progress = slice.progress.as_mut().unwrap();
        (progress.fraction, progress.remaining_seconds) = (Some(0.63), Some(12.0));
        live.apply(
            SECOND * 9,
            0,
            &update(
                3,
                Update::Changes(JobChanges {
                    job: Some(job(JobState::Rendering, 120, 0)),
                    active: vec![slice],
                    ..JobChanges::default()
                }),
            ),
        );
        assert_eq!(seen(&live, SECOND * 10, 100, 5), include_str!("fixtures/fraction.txt"));
    }

    #[test]
    fn a_lost_connection_is_told_and_no_stale_work_is_shown() {
        let mut live = rendering();
        live.disconnected(SECOND * 10, "connection refused".into());
        live.disconnected(SECOND * 11, "connection refused".into());
        let now = SECOND * 13;
        assert_eq!(seen(&live, now, 100, 5), include_str!("fixtures/reconnecting.txt"));
    }

    #[test]
    fn a_small_terminal_shows_what_fits_and_counts_the_rest() {
        assert_eq!(seen(&rendering(), SECOND * 10, 40, 4), include_str!("fixtures/small.txt"));
    }

    #[test]
    fn no_height_and_no_width_makes_the_panel_fall_over() {
        let live = rendering();
        for (width, rows) in [(1, 1), (2, 3), (200, 1), (3, 60)] {
            seen(&live, SECOND * 10, width, rows);
        }
        seen(&Live::default(), Duration::ZERO, 80, 5);
    }

    #[test]
    fn without_colour_no_cell_has_one() {
        let live = rendering();
        let panel = Panel::new(&live, SECOND).color(false);
        let mut buffer = Buffer::empty(Rect::new(0, 0, 100, 5));
        panel.render(buffer.area, &mut buffer);
        assert!(
            buffer.content.iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset)
        );
    }

    #[test]
    fn one_line_remains_of_a_job() {
        let mut live = rendering();
        live.apply(
            SECOND * 60,
            0,
            &update(9, Update::Ended(JobEnded { job: Some(job(JobState::Finished, 250, 0)) })),
        );
        assert_eq!(
            super::super::summary::summary(live.view()),
            "job 7 · sunrise finished: 250 frames in 10 min 0 s (25.0 frames/min)"
        );
        live.apply(
            SECOND * 60,
            0,
            &update(
                9,
                Update::Changes(JobChanges {
                    job: Some(job(JobState::Failed, 247, 3)),
                    frames: [13, 20, 21]
                        .map(|number| trouble(number, FrameState::Failed, 9, "no memory"))
                        .into(),
                    active: Vec::new(),
                }),
            ),
        );
        assert_eq!(
            super::super::summary::summary(live.view()),
            "job 7 · sunrise failed after 10 min 0 s: 247 of 250 frames finished; failed: 13, 20-21"
        );
        assert_eq!(
            super::super::summary::failures(live.view())[0],
            "frame 13 failed on node-2 (renderer): no memory"
        );
    }
}
