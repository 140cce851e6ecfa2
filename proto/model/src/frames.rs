//! Frame numbers in ranges and sets.

use std::{fmt, ops::RangeInclusive};

use serde::{Deserialize, Serialize};

use crate::invalid::{DOTS, FRAMES_MAX, InvalidFrames};

/// Frames from `first` to `last`, both included, every `step`-th; `first <= last`, `step >= 1`, as [`new`](Self::new)
/// makes sure of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FrameRange {
    /// First frame.
    pub first: i32,
    /// Upper bound of the frames, included.
    pub last: i32,
    /// Distance between frames.
    pub step: u32,
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

    fn nth(&self, n: u64) -> i32 {
        (i64::from(self.first) + n as i64 * i64::from(self.step)) as i32
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

/// One or more frames, none of them twice, in the order in which they are to be rendered.
///
/// ```
/// use framecrew_model::FrameSet;
///
/// let frames: FrameSet = "1-10,20..30x5,-2".parse()?;
/// assert_eq!(frames.count(), 14);
/// assert_eq!(frames.to_string(), "1-10,20-30x5,-2");
/// assert!("1:10".parse::<FrameSet>().is_err());
/// # Ok::<(), framecrew_model::InvalidFrames>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FrameSet {
    ranges: Vec<FrameRange>,
    /// Whether each frame depends on those before it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    in_order: bool,
}

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
            None => Ok(Self { ranges, in_order: false }),
        }
    }

    /// The ranges, in the order they were given.
    #[must_use]
    pub fn ranges(&self) -> &[FrameRange] {
        &self.ranges
    }

    /// Number of frames, 1 to [`FRAMES_MAX`].
    #[must_use]
    pub fn count(&self) -> u64 {
        self.ranges.iter().map(FrameRange::count).sum()
    }

    /// Whether `frame` is one of them.
    #[must_use]
    pub fn contains(&self, frame: i32) -> bool {
        self.ranges.iter().any(|range| range.contains(frame))
    }

    /// The frames, in order.
    pub fn iter(&self) -> impl Iterator<Item = i32> + '_ {
        self.ranges.iter().flat_map(FrameRange::iter)
    }

    /// A set of one frame.
    #[must_use]
    pub fn one(frame: i32) -> Self {
        Self { ranges: vec![FrameRange { first: frame, last: frame, step: 1 }], in_order: false }
    }

    /// Returns the same frames in ascending order, for one node at a time, because each depends on those before
    /// it. It visits every frame unless the ranges are already in order.
    #[must_use]
    pub fn in_order(self) -> Self {
        let rise = self.ranges.windows(2).all(|pair| {
            let last =
                i64::from(pair[0].first) + (pair[0].count() as i64 - 1) * i64::from(pair[0].step);
            last < i64::from(pair[1].first)
        });
        if rise {
            return Self { in_order: true, ..self };
        }
        let mut frames: Vec<i32> = self.iter().collect();
        frames.sort_unstable();
        let mut ranges: Vec<FrameRange> = Vec::new();
        for frame in frames {
            let Some(range) = ranges.last_mut() else {
                ranges.push(FrameRange { first: frame, last: frame, step: 1 });
                continue;
            };
            let distance = frame.abs_diff(range.last);
            if range.first == range.last || distance == range.step {
                (range.last, range.step) = (frame, distance);
            } else {
                ranges.push(FrameRange { first: frame, last: frame, step: 1 });
            }
        }
        Self { ranges, in_order: true }
    }

    /// Whether one node at a time draws the frames, in ascending order.
    #[must_use]
    pub fn is_in_order(&self) -> bool {
        self.in_order
    }

    /// Returns the range from the first to the last frame of an ascending set, with its step if the set is a
    /// single range.
    #[must_use]
    pub fn span(&self) -> FrameRange {
        let (first, last) = (self.ranges[0], self.ranges[self.ranges.len() - 1]);
        let step = if self.ranges.len() == 1 { first.step } else { 1 };
        FrameRange { first: first.first, last: last.last, step }
    }

    /// Up to `limit` frames above `after`, by number. Costs a look at every range.
    #[must_use]
    pub fn above(&self, after: i64, limit: usize) -> Vec<i32> {
        let mut frames: Vec<i32> = self
            .ranges
            .iter()
            .flat_map(|range| {
                let behind = (after - i64::from(range.first)).div_euclid(i64::from(range.step)) + 1;
                let skipped = u64::try_from(behind).unwrap_or(0);
                (skipped..range.count()).map(|n| range.nth(n)).take(limit)
            })
            .collect();
        frames.sort_unstable();
        frames.truncate(limit);
        frames
    }

    /// A cursor that walks the frames in order, a step at a time at constant cost.
    #[must_use]
    pub fn cursor(&self) -> FrameCursor {
        FrameCursor::default()
    }
}

impl fmt::Display for FrameSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.ranges.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{range}")?;
        }
        Ok(())
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

/// A place in a [`FrameSet`].
#[derive(Clone, Copy, Debug, Default)]
pub struct FrameCursor {
    range: usize,
    within: u64,
}

impl FrameCursor {
    /// Whether it has yet to come to a frame. Costs a look at every range.
    #[must_use]
    pub fn is_before(&self, set: &FrameSet, frame: i32) -> bool {
        let place = |range: &FrameRange| {
            let behind = u64::try_from(i64::from(frame) - i64::from(range.first)).ok()?;
            let step = u64::from(range.step);
            (behind % step == 0 && behind / step < range.count()).then_some(behind / step)
        };
        set.ranges.iter().enumerate().skip(self.range).any(|(number, range)| {
            let within = if number == self.range { self.within } else { 0 };
            place(range).is_some_and(|place| place >= within)
        })
    }

    /// The frame here; the cursor moves on. `None` at the end.
    pub fn next(&mut self, set: &FrameSet) -> Option<i32> {
        let range = set.ranges.get(self.range)?;
        let frame = range.nth(self.within);
        self.within += 1;
        if self.within == range.count() {
            *self = Self { range: self.range + 1, within: 0 };
        }
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn range(first: i32, last: i32, step: u32) -> FrameRange {
        FrameRange { first, last, step }
    }

    #[test]
    fn interleaved_ranges_are_walked_in_the_order_given() {
        let set = FrameSet::new(vec![range(1, 6, 2), range(2, 6, 2)]).unwrap();
        assert_eq!(set.iter().collect::<Vec<_>>(), [1, 3, 5, 2, 4, 6]);
        let mut cursor = set.cursor();
        let mut walked = Vec::new();
        while let Some(frame) = cursor.next(&set) {
            walked.push(frame);
            for frame in 0..=7 {
                let is_before = set.contains(frame) && !walked.contains(&frame);
                assert_eq!(cursor.is_before(&set, frame), is_before, "{frame} after {walked:?}");
            }
        }
        assert_eq!(walked, [1, 3, 5, 2, 4, 6]);
    }

    #[test]
    fn frames_in_order_are_sorted_into_as_few_ranges_as_possible() {
        let in_order = |ranges| FrameSet::new(ranges).unwrap().in_order();
        let mixed = in_order(vec![range(7, 9, 2), range(1, 5, 4), range(3, 3, 1)]);
        assert!(mixed.is_in_order());
        assert_eq!(mixed.ranges(), [range(1, 9, 2)]);
        assert_eq!(mixed.span(), range(1, 9, 2));
        let gap = in_order(vec![range(20, 22, 1), range(1, 3, 1)]);
        assert_eq!(gap.iter().collect::<Vec<_>>(), [1, 2, 3, 20, 21, 22]);
        assert_eq!(gap.span(), range(1, 22, 1));
        let rising = vec![range(-5, 4, 3), range(5, 5, 1)];
        assert_eq!(in_order(rising.clone()).ranges(), rising);
    }

    #[test]
    fn frames_above_a_number_come_sorted_and_limited() {
        let set = FrameSet::new(vec![range(10, 20, 5), range(-3, 1, 2)]).unwrap();
        assert_eq!(set.above(i64::MIN / 2, 9), [-3, -1, 1, 10, 15, 20]);
        assert_eq!(set.above(-3, 2), [-1, 1]);
        assert_eq!(set.above(10, 9), [15, 20]);
        assert!(set.above(20, 9).is_empty());
        assert!(set.contains(15) && !set.contains(16));
    }

    #[test]
    fn a_frame_set_holds_no_frame_twice_and_is_never_empty() {
        assert_eq!(FrameSet::new(vec![range(1, 9, 2), range(5, 5, 1)]).ok(), None);
        assert_eq!(FrameSet::new(vec![]).ok(), None);
        assert_eq!(FrameSet::new(vec![range(i32::MIN, i32::MAX, 1)]).ok(), None);
        assert!(FrameSet::new(vec![range(i32::MIN, i32::MAX, 5000)]).is_ok());
    }
}
