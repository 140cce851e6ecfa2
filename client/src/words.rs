//! Numbers and states in words.

use std::{cmp::Ordering, time::Duration};

use framecrew_proto::v1::{
    FailureReason, FrameCounts, ImageFormat, Job, JobState, Node, NodeState, RenderEngine,
    SliceProgress, Warning,
};

/// `7 · shot`: a job's number and name.
#[must_use]
pub fn title(job: &Job) -> String {
    match job.spec.as_ref().map(|spec| spec.name.as_str()) {
        Some(name) if !name.is_empty() => format!("{} · {}", job.job_id, printable(name)),
        _ => job.job_id.to_string(),
    }
}

/// Returns the text as one line that cannot move the cursor, colour the terminal, or pass for another text.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| shown_as(c).unwrap_or(c)).collect()
}

/// Does the same line by line, keeping the line breaks.
#[must_use]
pub fn printable_lines(text: &str) -> String {
    text.chars().map(|c| if c == '\n' { c } else { shown_as(c).unwrap_or(c) }).collect()
}

/// Returns the replacement of a character that must not reach a terminal; `None` if the character may. Control
/// characters, including those of C1, control a terminal. The other characters are invisible or change the reading
/// order of the text around them.
#[must_use]
pub fn shown_as(c: char) -> Option<char> {
    match c {
        _ if c.is_control() => Some(' '),
        // The joiners U+200C and U+200D are kept, because Persian, Indic scripts and emoji need them.
        '\u{61c}'
        | '\u{180e}'
        | '\u{200b}'
        | '\u{200e}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}' => Some(char::REPLACEMENT_CHARACTER),
        _ => None,
    }
}

/// Orders names by the numbers in them: `node-2` before `node-10`.
#[must_use]
pub fn by_number(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a, b);
    while !left.is_empty() && !right.is_empty() {
        let (first, second) = (piece_of(left), piece_of(right));
        let is_number = |piece: &str| piece.starts_with(|c: char| c.is_ascii_digit());
        let order = if is_number(first) && is_number(second) {
            // Numbers may be too long to parse. The one with more digits is greater.
            let [first, second] = [first, second].map(|piece| piece.trim_start_matches('0'));
            first.len().cmp(&second.len()).then_with(|| first.cmp(second))
        } else {
            first.cmp(second)
        };
        if order.is_ne() {
            return order;
        }
        (left, right) = (&left[first.len()..], &right[second.len()..]);
    }
    // Of names that compare equal, like a1 and a01, the shorter comes first.
    left.len().cmp(&right.len()).then_with(|| (a.len(), a).cmp(&(b.len(), b)))
}

/// Returns the digits at the beginning of a text, or the text before the first digit.
fn piece_of(text: &str) -> &str {
    let starts_with_digit = text.starts_with(|c: char| c.is_ascii_digit());
    let end = text.find(|c: char| c.is_ascii_digit() != starts_with_digit);
    &text[..end.unwrap_or(text.len())]
}

/// Frames of the job, whatever their state.
#[must_use]
pub fn total(counts: &FrameCounts) -> u64 {
    [counts.open, counts.finished, counts.failed, counts.cancelled]
        .into_iter()
        .fold(0, u64::saturating_add)
}

/// `1 frame`, `250 frames`.
#[must_use]
pub fn frames(count: u64) -> String {
    plural(count, "frame")
}

/// `1 thing`, `2 things`.
#[must_use]
pub fn plural(count: u64, noun: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{s}")
}

/// Whole percent, rounded down, so that 100 means all.
#[must_use]
pub fn percent(part: u64, whole: u64) -> u64 {
    let percent = u128::from(part) * 100 / u128::from(whole.max(1));
    u64::try_from(percent).unwrap_or(u64::MAX)
}

/// `0.3 s`, `42 s`, `5 min 20 s`, `2 h 5 min`, `3 d 4 h`.
#[must_use]
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// `24.0 frames/min`, or per hour where that reads better.
#[must_use]
pub fn rate(frames_per_minute: f64) -> String {
    if frames_per_minute < 1.0 {
        format!("{:.1} frames/h", frames_per_minute * 60.0)
    } else if frames_per_minute < 100.0 {
        format!("{frames_per_minute:.1} frames/min")
    } else {
        format!("{frames_per_minute:.0} frames/min")
    }
}

/// `512 B`, `3.4 MB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if count < 1_000 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1_000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1_000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `63 % (1/96 samples) · 12 s left`: of it what Blender tells. Samples alone may stand still for long: without
/// a window, Cycles tells them rarely. A job that makes a movie counts frames.
#[must_use]
pub fn progress(job: &Job, progress: &SliceProgress) -> String {
    let unit = if makes_movie(job) { "frames" } else { "samples" };
    let samples = match progress.samples_total {
        0 => String::new(),
        total => format!("{}/{total} {unit}", progress.samples_done),
    };
    let share = progress.fraction.map(|share| format!("{:.0} %", share.clamp(0.0, 1.0) * 100.0));
    let mut text = match share {
        None => samples,
        Some(share) if samples.is_empty() => share,
        Some(share) => format!("{share} ({samples})"),
    };
    let left = progress.remaining_seconds.map(Duration::try_from_secs_f64);
    if let Some(Ok(left)) = left
        && !text.is_empty()
    {
        text += &format!(" · {} left", duration(left));
    }
    text
}

/// Share of a slice that is done, 0 to 1.
#[must_use]
pub fn fraction(progress: &SliceProgress) -> Option<f64> {
    let by_samples = || {
        let total = f64::from(progress.samples_total);
        (progress.samples_total > 0).then(|| f64::from(progress.samples_done) / total)
    };
    let fraction = progress.fraction.or_else(by_samples)?;
    Some(fraction.clamp(0.0, 1.0))
}

/// A job's state.
#[must_use]
pub fn job_state(state: JobState) -> &'static str {
    match state {
        JobState::Unspecified => "unknown",
        JobState::Queued => "queued",
        JobState::Rendering => "rendering",
        JobState::Finished => "finished",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    }
}

/// `warning: the image `wood.png` is missing`.
#[must_use]
pub fn warning(warning: &Warning) -> String {
    format!("warning: {}", printable(&warning.text))
}

/// Whether the job draws nothing but makes a movie of another one's frames.
#[must_use]
pub fn makes_movie(job: &Job) -> bool {
    job.spec.as_ref().is_some_and(|spec| spec.movie_of_job_id != 0)
}

/// Where a job stands; one that makes a movie is not rendering but encoding.
#[must_use]
pub fn state(job: &Job) -> &'static str {
    match job.state() {
        JobState::Rendering if makes_movie(job) => "encoding",
        state => job_state(state),
    }
}

/// `frame 12`, or `the movie` where that is what the job makes.
#[must_use]
pub fn piece(job: &Job, frame: i32) -> String {
    if makes_movie(job) { "the movie".into() } else { format!("frame {frame}") }
}

/// A node's state.
#[must_use]
pub fn node_state(state: NodeState) -> &'static str {
    match state {
        NodeState::Unspecified => "unknown",
        NodeState::Idle => "idle",
        NodeState::Rendering => "rendering",
        NodeState::Paused => "paused",
        NodeState::Lost => "lost",
        NodeState::Left => "left",
        NodeState::Quarantined => "quarantined",
        NodeState::Silent => "silent",
        NodeState::Draining => "draining",
    }
}

/// Describes each Blender of a node that cannot draw, like `node a: Blender 3.4.1 does not start:
/// ModuleNotFoundError: No module named 'encodings'`.
pub fn unusable_blenders(node: &Node) -> Vec<String> {
    let blenders = node.description.iter().flat_map(|description| &description.blenders);
    let unusable = blenders.filter(|blender| !blender.unusable.is_empty());
    let words = unusable.map(|blender| {
        let (name, why) = (printable(&node.name), printable(&blender.unusable));
        match printable(&blender.version) {
            version if version.is_empty() => format!("node {name}: {why}"),
            version => format!("node {name}: Blender {version} does not start: {why}"),
        }
    });
    words.collect()
}

/// `node a is quarantined for 3 min 20 s more: every try on it failed`: of a node that is there and gets no work.
#[must_use]
pub fn why_idle(node: &Node, unix_ms: i64) -> Option<String> {
    let reason = Some(printable(&node.state_reason)).filter(|reason| !reason.is_empty());
    let state = node.state();
    if reason.is_none() && !gets_nothing(state) {
        return None;
    }
    let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
    let (name, state) = (printable(&node.name), node_state(state));
    Some(format!("node {name} is {state}{}{reason}", for_more(node, unix_ms)))
}

/// Whether a node in this state is there and gets no work all the same.
#[must_use]
pub fn gets_nothing(state: NodeState) -> bool {
    use NodeState::{Draining, Paused, Quarantined, Silent};
    matches!(state, Paused | Quarantined | Silent | Draining)
}

/// ` for 3 min 20 s more`; empty where nobody knows how long the node's state lasts.
fn for_more(node: &Node, unix_ms: i64) -> String {
    let left = node.state_until_ms.saturating_sub(unix_ms);
    let left = u64::try_from(left).ok().filter(|_| node.state_until_ms > 0);
    left.map_or_else(String::new, |ms| format!(" for {} more", duration(Duration::from_millis(ms))))
}

/// Why a try failed, in a word or two.
#[must_use]
pub fn failure_reason(reason: FailureReason) -> &'static str {
    match reason {
        FailureReason::Unspecified => "unknown",
        FailureReason::Renderer => "renderer",
        FailureReason::InvalidOutput => "invalid output",
        FailureReason::Timeout => "timeout",
        FailureReason::OutOfMemory => "out of memory",
        FailureReason::NodeLost => "node lost",
        FailureReason::Infrastructure => "infrastructure",
        FailureReason::Permanent => "permanent",
    }
}

/// What to do about frames that failed for this reason, in a sentence.
#[must_use]
pub fn failure_advice(reason: FailureReason) -> &'static str {
    match reason {
        FailureReason::Unspecified | FailureReason::Renderer => {
            "Blender failed on them; its last lines may tell why"
        }
        FailureReason::InvalidOutput => {
            "Blender said that it drew them, but left no sound image; look at the nodes' disks and at its last lines"
        }
        FailureReason::Timeout => {
            "Blender took too long or went silent; render again with a longer --frame-silence or --frame-limit"
        }
        FailureReason::OutOfMemory => {
            "they need more memory than the nodes have: use larger nodes (--tag), a smaller --scale, or fewer slots a node"
        }
        FailureReason::NodeLost => {
            "each of several nodes was lost while it drew them; look at those machines' logs, for they may take a node down"
        }
        FailureReason::Infrastructure => {
            "something around Blender failed: a disk, or the way to the blob store; mend it and try again"
        }
        FailureReason::Permanent => {
            "no try can succeed as the job is; change the file or the settings, and render it anew"
        }
    }
}

/// An engine's name; `file's own` where none is asked for.
#[must_use]
pub fn engine(engine: RenderEngine) -> &'static str {
    match engine {
        RenderEngine::Unspecified => "the file's own",
        RenderEngine::Cycles => "Cycles",
        RenderEngine::Eevee => "EEVEE",
        RenderEngine::Workbench => "Workbench",
    }
}

/// An image format's name; `file's own` where none is asked for.
#[must_use]
pub fn format(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Unspecified => "the file's own",
        ImageFormat::Png => "PNG",
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::OpenExr => "OpenEXR",
        ImageFormat::Tiff => "TIFF",
        ImageFormat::OpenExrMultilayer => "OpenEXR, multilayer",
        ImageFormat::Webp => "WebP",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_as_exact_as_they_are_long() {
        let text = |seconds: f64| duration(Duration::from_secs_f64(seconds));
        assert_eq!(text(0.25), "0.2 s");
        assert_eq!(text(42.9), "42 s");
        assert_eq!(text(320.0), "5 min 20 s");
        assert_eq!(text(7_500.0), "2 h 5 min");
        assert_eq!(text(273_600.0), "3 d 4 h");
    }

    #[test]
    fn sizes_and_shares_are_short() {
        assert_eq!([bytes(999), bytes(3_400_000), bytes(999_999)], ["999 B", "3.4 MB", "1.0 MB"]);
        assert_eq!([percent(249, 250), percent(250, 250), percent(0, 0)], [99, 100, 0]);
        assert_eq!(
            [rate(0.5), rate(24.0), rate(1234.5)],
            ["30.0 frames/h", "24.0 frames/min", "1234 frames/min"]
        );
    }

    #[test]
    fn the_share_that_is_drawn_goes_before_samples_that_stand_still() {
        let text = |samples_total, fraction, remaining_seconds| {
            let slice = SliceProgress {
                samples_done: 1,
                samples_total,
                fraction,
                remaining_seconds,
                ..SliceProgress::default()
            };
            progress(&Job::default(), &slice)
        };
        assert_eq!(text(96, Some(0.63), Some(12.0)), "63 % (1/96 samples) · 12 s left");
        assert_eq!(text(96, Some(0.63), None), "63 % (1/96 samples)");
        assert_eq!(text(96, None, None), "1/96 samples");
        assert_eq!(text(0, Some(0.63), Some(f64::NAN)), "63 %");
        assert_eq!(text(0, None, None), "");
    }

    #[test]
    fn a_node_that_gets_no_work_says_why_and_for_how_long() {
        let node = |state: NodeState, reason: &str, until_ms| Node {
            name: "a".into(),
            state: state.into(),
            state_reason: reason.into(),
            state_until_ms: until_ms,
            ..Node::default()
        };
        let why = |node| why_idle(&node, 10_000);
        let quarantined = why(node(NodeState::Quarantined, "every try on it failed", 210_000));
        let expected = "node a is quarantined for 3 min 20 s more: every try on it failed";
        assert_eq!(quarantined.as_deref(), Some(expected));
        let silent = why(node(NodeState::Silent, "", 0));
        assert_eq!(silent.as_deref(), Some("node a is silent"));
        assert_eq!(why(node(NodeState::Idle, "", 0)), None);
        assert_eq!(why(node(NodeState::Paused, "", 9_000)).as_deref(), Some("node a is paused"));
    }

    #[test]
    fn a_name_cannot_play_with_the_terminal() {
        assert_eq!(printable("a\x1b[31mb\r\n"), "a [31mb  ");
        assert_eq!(printable("a\u{9b}31mb\u{7f}\u{7}"), "a 31mb  ");
    }

    #[test]
    fn names_are_ordered_by_the_numbers_in_them() {
        let mut names =
            ["node-10", "b", "node-2", "a01", "node-1", "a1", "node-2b", "99999999999999999999"];
        names.sort_by(|a, b| by_number(a, b));
        let expected =
            ["99999999999999999999", "a1", "a01", "b", "node-1", "node-2", "node-2b", "node-10"];
        assert_eq!(names, expected);
    }

    #[test]
    fn a_text_cannot_hide_or_reverse_a_part_of_itself() {
        assert_eq!(printable("a\u{202e}gnp.\u{2028}b"), "a\u{fffd}gnp.\u{fffd}b");
        assert_eq!(printable("\u{feff}a\u{200b}b\u{e0041}"), "\u{fffd}a\u{fffd}b\u{fffd}");
        for fine in ["näme", "名前", "👩\u{200d}🚀", "می\u{200c}خواهم"] {
            assert_eq!(printable(fine), fine);
        }
    }

    #[test]
    fn a_longer_text_keeps_its_line_breaks() {
        assert_eq!(printable_lines("a\x1b[2J\r\n  b\u{202e}"), "a [2J \n  b\u{fffd}");
    }
}
