//! Which frames to render: `1-250,300..400x2` as people type it.

use std::{convert::Infallible, fmt, ops::RangeInclusive, str::FromStr};

use framecrew_proto::v1 as proto;

/// Frames in one job; the orchestrator takes no more.
pub const FRAMES_MAX: u64 = 1_000_000;

/// Separator between the first and the last frame of a range.
const DOTS: &str = "..";

/// Frames from `first` to `last`, both included, every `step`-th.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameRange {
    first: i32,
    last: i32,
    step: u32,
}

impl FrameRange {
    /// Every `step`-th frame from `first` to `last`.
    ///
    /// # Errors
    /// When `last` lies below `first`, or `step` is 0.
    pub fn new(first: i32, last: i32, step: u32) -> Result<Self, InvalidFrames> {
        if last < first {
            return Err(InvalidFrames::Reversed { first, last, between: DOTS });
        }
        if step == 0 {
            return Err(InvalidFrames::ZeroStep { first, last, between: DOTS });
        }
        let step = if first == last { 1 } else { step };
        Ok(Self { first, last, step })
    }

    /// Number of frames, 1 or more.
    #[must_use]
    pub fn count(&self) -> u64 {
        let span = i64::from(self.last) - i64::from(self.first);
        span.unsigned_abs() / u64::from(self.step) + 1
    }

    /// The frames, rising.
    pub fn iter(&self) -> impl Iterator<Item = i32> + use<> {
        let (first, last, step) = (i64::from(self.first), i64::from(self.last), self.step);
        (first..=last).step_by(step as usize).filter_map(|frame| i32::try_from(frame).ok())
    }

    /// Whether `frame` is one of them.
    #[must_use]
    pub fn contains(&self, frame: i32) -> bool {
        (self.first..=self.last).contains(&frame)
            && (i64::from(frame) - i64::from(self.first)) % i64::from(self.step) == 0
    }
}

impl fmt::Display for FrameRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last, step } = *self;
        // `-5--1` parses, but nobody reads it.
        let dash = if last < 0 { ".." } else { "-" };
        write!(f, "{first}")?;
        if first != last {
            write!(f, "{dash}{last}")?;
        }
        if step != 1 {
            write!(f, "x{step}")?;
        }
        Ok(())
    }
}

impl From<FrameRange> for proto::FrameRange {
    fn from(range: FrameRange) -> Self {
        let FrameRange { first, last, step } = range;
        Self { first, last, step }
    }
}

impl TryFrom<proto::FrameRange> for FrameRange {
    type Error = InvalidFrames;

    fn try_from(range: proto::FrameRange) -> Result<Self, InvalidFrames> {
        Self::new(range.first, range.last, range.step)
    }
}

/// One or more frames, none of them twice, in the order in which they are to be rendered.
///
/// ```
/// use framecrew::FrameSet;
///
/// let frames: FrameSet = "1-10,20..30x5,-2".parse()?;
/// assert_eq!(frames.count(), 14);
/// assert_eq!(frames.to_string(), "1-10,20-30x5,-2");
/// assert!("1:10".parse::<FrameSet>().is_err());
/// # Ok::<(), framecrew::InvalidFrames>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FrameSet(Vec<FrameRange>);

impl FrameSet {
    /// Puts ranges together.
    ///
    /// # Errors
    /// When there is no range, a frame is in two of them, or there are more than [`FRAMES_MAX`] frames.
    pub fn new(ranges: Vec<FrameRange>) -> Result<Self, InvalidFrames> {
        if ranges.is_empty() {
            return Err(InvalidFrames::Empty);
        }
        let count = ranges.iter().fold(0_u64, |sum, range| sum.saturating_add(range.count()));
        if count > FRAMES_MAX {
            return Err(InvalidFrames::TooMany { count });
        }
        let mut frames: Vec<i32> = ranges.iter().flat_map(FrameRange::iter).collect();
        frames.sort_unstable();
        match frames.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(InvalidFrames::Twice { frame: pair[0] }),
            None => Ok(Self(ranges)),
        }
    }

    /// The ranges, in the order they were given.
    #[must_use]
    pub fn ranges(&self) -> &[FrameRange] {
        &self.0
    }

    /// Number of frames, 1 to [`FRAMES_MAX`].
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().map(FrameRange::count).sum()
    }

    /// Whether `frame` is one of them.
    #[must_use]
    pub fn contains(&self, frame: i32) -> bool {
        self.0.iter().any(|range| range.contains(frame))
    }

    /// The frames, in order.
    pub fn iter(&self) -> impl Iterator<Item = i32> + '_ {
        self.0.iter().flat_map(FrameRange::iter)
    }
}

impl fmt::Display for FrameSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{range}")?;
        }
        Ok(())
    }
}

impl FromStr for FrameSet {
    type Err = InvalidFrames;

    fn from_str(text: &str) -> Result<Self, InvalidFrames> {
        if text.trim().is_empty() {
            return Err(InvalidFrames::Empty);
        }
        text.split(',').map(range).collect::<Result<_, _>>().and_then(Self::new)
    }
}

impl TryFrom<&str> for FrameSet {
    type Error = InvalidFrames;

    fn try_from(text: &str) -> Result<Self, InvalidFrames> {
        text.parse()
    }
}

impl TryFrom<RangeInclusive<i32>> for FrameSet {
    type Error = InvalidFrames;

    fn try_from(range: RangeInclusive<i32>) -> Result<Self, InvalidFrames> {
        Self::new(vec![FrameRange::new(*range.start(), *range.end(), 1)?])
    }
}

impl TryFrom<i32> for FrameSet {
    type Error = InvalidFrames;

    fn try_from(frame: i32) -> Result<Self, InvalidFrames> {
        Self::try_from(frame..=frame)
    }
}

/// Why frames cannot be rendered as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFrames {
    /// There is none.
    #[error("no frames are named; write them like 1-250 or 1,5,10..20x2")]
    Empty,
    /// A part between commas is not a frame or a range.
    #[error("`{part}` is neither a frame nor a range; write frames like 1-250 or 1,5,10..20x2")]
    Unreadable {
        /// The part.
        part: String,
    },
    /// A part has a colon.
    #[error(
        "`{part}` has a colon, which means \"from:to\" in some tools and \"from to, every n-th\" in others; \
         write 1-10 for a range and 1-10x2 for every second frame of it"
    )]
    Colon {
        /// The part.
        part: String,
    },
    /// A number does not fit.
    #[error("`{number}` is not a frame number: those lie between {} and {}", i32::MIN, i32::MAX)]
    Overflow {
        /// The number.
        number: String,
    },
    /// A range runs backwards.
    #[error("the range {first}{between}{last} runs backwards; write {last}{between}{first}")]
    Reversed {
        /// First frame.
        first: i32,
        /// Last frame.
        last: i32,
        /// The separator as it was written.
        between: &'static str,
    },
    /// A step of 0.
    #[error("the range {first}{between}{last} has a step of 0; the smallest step is 1")]
    ZeroStep {
        /// First frame.
        first: i32,
        /// Last frame.
        last: i32,
        /// The separator as it was written.
        between: &'static str,
    },
    /// A frame is in two ranges.
    #[error("frame {frame} is named twice; name each frame once")]
    Twice {
        /// The lowest such frame.
        frame: i32,
    },
    /// More than one job may have.
    #[error(
        "{count} frames are more than a job may have ({FRAMES_MAX}); split them over several jobs"
    )]
    TooMany {
        /// Frames asked for.
        count: u64,
    },
}

impl From<Infallible> for InvalidFrames {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// Reads one part between commas: `7`, `1-10`, `-5..5`, `1-10x3`.
fn range(part: &str) -> Result<FrameRange, InvalidFrames> {
    let part = part.trim();
    if part.contains(':') {
        return Err(InvalidFrames::Colon { part: part.into() });
    }
    let unreadable = || InvalidFrames::Unreadable { part: part.into() };
    let (span, step) = match part.split_once(['x', 'X']) {
        Some((span, step)) => (span.trim(), Some(step.trim())),
        None => (part, None),
    };
    let (first, last) = match split_span(span) {
        Some((first, last)) => (first, Some(last)),
        None => (span, None),
    };
    let first = number(first).ok_or_else(unreadable)??;
    let last = last.map_or(Some(Ok(first)), number).ok_or_else(unreadable)??;
    let step = match step {
        None => 1,
        // `7x2` is more likely a slip than a wish for one frame.
        Some(_) if split_span(span).is_none() => return Err(unreadable()),
        Some(step) => {
            let step = number(step).ok_or_else(unreadable)??;
            u32::try_from(step).map_err(|_| unreadable())?
        }
    };
    FrameRange::new(first, last, step).map_err(|error| as_typed(error, span))
}

/// Restores the notation that was typed in an error about a range.
fn as_typed(error: InvalidFrames, span: &str) -> InvalidFrames {
    // `5--1` could be parsed, but people would misread it.
    let between = if span.contains(DOTS) || span.contains("--") { DOTS } else { "-" };
    match error {
        InvalidFrames::Reversed { first, last, .. } if last >= 0 => {
            InvalidFrames::Reversed { first, last, between }
        }
        InvalidFrames::ZeroStep { first, last, .. } => {
            InvalidFrames::ZeroStep { first, last, between }
        }
        error => error,
    }
}

/// Splits at `..` or at the first dash that is not a sign.
fn split_span(span: &str) -> Option<(&str, &str)> {
    span.split_once("..").or_else(|| {
        let (dash, _) = span.match_indices('-').find(|(at, _)| *at > 0)?;
        Some((&span[..dash], &span[dash + 1..]))
    })
}

/// Reads a whole number: `None` where it is none, an error where it is too large.
fn number(text: &str) -> Option<Result<i32, InvalidFrames>> {
    let text = text.trim();
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_number = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    is_number.then(|| text.parse().map_err(|_| InvalidFrames::Overflow { number: text.into() }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn frames(text: &str) -> Vec<i32> {
        text.parse::<FrameSet>().unwrap().iter().collect()
    }

    fn refusal(text: &str) -> String {
        text.parse::<FrameSet>().unwrap_err().to_string()
    }

    #[test]
    fn every_way_to_write_a_range_is_read() {
        assert_eq!(frames("3"), [3]);
        assert_eq!(frames("1-3"), [1, 2, 3]);
        assert_eq!(frames("1..3"), [1, 2, 3]);
        assert_eq!(frames(" 1 - 7 x 3 , 20 "), [1, 4, 7, 20]);
        assert_eq!(frames("1-6x2"), [1, 3, 5]);
        assert_eq!(frames("-5"), [-5]);
        assert_eq!(frames("-5--3"), [-5, -4, -3]);
        assert_eq!(frames("-1..1"), [-1, 0, 1]);
        assert_eq!(frames("-2-0"), [-2, -1, 0]);
    }

    #[test]
    fn frames_keep_the_order_in_which_they_were_written() {
        assert_eq!(frames("10-12,1-2"), [10, 11, 12, 1, 2]);
    }

    #[test]
    fn interleaved_ranges_do_not_overlap() {
        assert_eq!(frames("1-5x2,2-4x2"), [1, 3, 5, 2, 4]);
    }

    #[test]
    fn a_colon_is_refused_with_both_of_its_meanings() {
        let text = refusal("1:10");
        assert!(text.contains("from:to") && text.contains("every n-th"), "{text}");
        assert!(text.contains("1-10x2"), "{text}");
    }

    #[test]
    fn a_reversed_range_is_refused_and_turned_around() {
        assert_eq!(refusal("10-1"), "the range 10-1 runs backwards; write 1-10");
        assert_eq!(refusal("10..1"), "the range 10..1 runs backwards; write 1..10");
        assert_eq!(refusal("5--1"), "the range 5..-1 runs backwards; write -1..5");
        assert_eq!(refusal("1-9x0"), "the range 1-9 has a step of 0; the smallest step is 1");
    }

    #[test]
    fn a_step_of_zero_is_refused() {
        assert!(refusal("1-10x0").contains("step of 0"));
    }

    #[test]
    fn a_frame_named_twice_is_refused() {
        assert_eq!(refusal("1-10,5"), "frame 5 is named twice; name each frame once");
        assert!(refusal("1-9x2,2-10,4").contains("frame 3 is"));
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        assert!(refusal("1-99999999999").contains("`99999999999` is not a frame number"));
        assert!(refusal("1-10x99999999999").contains("99999999999"));
    }

    #[test]
    fn more_than_a_million_frames_are_refused_without_listing_them() {
        assert_eq!(frames("1-1000000").len(), 1_000_000);
        assert!(refusal("1-1000001").contains("1000001 frames"));
        assert!(refusal("-2147483648..2147483647").contains("4294967296 frames"));
    }

    #[test]
    fn what_is_no_frame_is_refused_by_name() {
        for text in ["", " ", ","] {
            assert!(text.parse::<FrameSet>().is_err(), "{text:?}");
        }
        for text in
            ["a", "1-", "-", "1-b", "1x2", "1-5x", "1-5x-1", "1,,2", "1...5", "+5", "1-2-3", "٣"]
        {
            let part = text.split(",,").last().unwrap();
            assert!(refusal(text).contains('`'), "{part}: {}", refusal(text));
        }
    }

    proptest! {
        #[test]
        fn a_written_set_reads_as_itself(ranges in prop::collection::vec(
            (-500_i32..500, 0_i32..40, 1_u32..7), 1..6,
        )) {
            let ranges = ranges
                .into_iter()
                .map(|(first, span, step)| FrameRange::new(first, first + span, step).unwrap())
                .collect();
            let set = FrameSet::new(ranges);
            prop_assume!(set.is_ok());
            let set = set.unwrap();
            prop_assert_eq!(set.to_string().parse::<FrameSet>().unwrap(), set);
        }

        #[test]
        fn no_text_makes_the_parser_fall_over(text in "[-0-9.,:xX ]{0,24}") {
            if let Ok(set) = text.parse::<FrameSet>() {
                prop_assert_eq!(set.iter().count() as u64, set.count());
                prop_assert!(set.iter().all(|frame| set.contains(frame)));
            }
        }
    }
}
