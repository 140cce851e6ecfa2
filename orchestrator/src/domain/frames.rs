//! Frame numbers in ranges and ordered sets.

use serde::{Deserialize, Serialize};

/// Frames from `first` to `last`, both included, every `step`-th; `first <= last`, `step >= 1`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FrameRange {
    /// First frame.
    pub first: i32,
    /// Upper bound of the frames, included.
    pub last: i32,
    /// Distance between frames.
    pub step: u32,
}

impl FrameRange {
    /// Number of frames, 1 or more.
    #[must_use]
    pub fn len(&self) -> u64 {
        (i64::from(self.last) - i64::from(self.first)) as u64 / u64::from(self.step) + 1
    }

    /// Always false. Types with `len` also have `is_empty`.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The frames, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = i32> + use<> {
        let (first, step) = (i64::from(self.first), i64::from(self.step));
        (0..self.len() as i64).map(move |n| (first + n * step) as i32)
    }

    fn nth(&self, n: u64) -> i32 {
        (i64::from(self.first) + n as i64 * i64::from(self.step)) as i32
    }
}

/// The frames of a job in the order they are to be rendered: at least one, none twice.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FrameSet {
    ranges: Vec<FrameRange>,
    /// Whether each frame depends on those before it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    in_order: bool,
}

impl FrameSet {
    /// Frames in one job. Bounds the scheduler's memory (a byte a frame) and every page of it.
    pub const FRAMES_MAX: u64 = 1_000_000;

    /// A set of these ranges; `None` if it would be empty, exceed [`Self::FRAMES_MAX`], or contain a frame twice.
    #[must_use]
    pub fn new(ranges: Vec<FrameRange>) -> Option<Self> {
        let len: u64 = ranges.iter().map(FrameRange::len).sum();
        if len == 0 || len > Self::FRAMES_MAX {
            return None;
        }
        let set = Self { ranges, in_order: false };
        let mut frames: Vec<i32> = set.iter().collect();
        frames.sort_unstable();
        frames.windows(2).all(|pair| pair[0] < pair[1]).then_some(set)
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
                i64::from(pair[0].first) + (pair[0].len() as i64 - 1) * i64::from(pair[0].step);
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

    /// Whether one node at a time renders the frames, in ascending order.
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

    /// Number of frames.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.ranges.iter().map(FrameRange::len).sum()
    }

    /// Always false. Types with `len` also have `is_empty`.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The ranges, in order.
    #[must_use]
    pub fn ranges(&self) -> &[FrameRange] {
        &self.ranges
    }

    /// The frames, in order.
    pub fn iter(&self) -> impl Iterator<Item = i32> {
        self.ranges.iter().flat_map(FrameRange::iter)
    }

    /// Up to `limit` frames above `after`, in ascending order. Visits every range.
    #[must_use]
    pub fn above(&self, after: i64, limit: usize) -> Vec<i32> {
        let mut frames: Vec<i32> = self
            .ranges
            .iter()
            .flat_map(|range| {
                let behind = (after - i64::from(range.first)).div_euclid(i64::from(range.step)) + 1;
                let skipped = u64::try_from(behind).unwrap_or(0);
                (skipped..range.len()).map(|n| range.nth(n)).take(limit)
            })
            .collect();
        frames.sort_unstable();
        frames.truncate(limit);
        frames
    }

    /// Whether the set contains a frame.
    #[must_use]
    pub fn contains(&self, frame: i32) -> bool {
        self.above(i64::from(frame) - 1, 1).first() == Some(&frame)
    }

    /// A cursor that walks the frames in order, at constant cost a step.
    #[must_use]
    pub fn cursor(&self) -> FrameCursor {
        FrameCursor::default()
    }
}

/// A position in a [`FrameSet`].
#[derive(Clone, Copy, Debug, Default)]
pub struct FrameCursor {
    range: usize,
    within: u64,
}

impl FrameCursor {
    /// Whether a frame is still ahead. Visits every range.
    #[must_use]
    pub fn is_before(&self, set: &FrameSet, frame: i32) -> bool {
        let place = |range: &FrameRange| {
            let behind = u64::try_from(i64::from(frame) - i64::from(range.first)).ok()?;
            let step = u64::from(range.step);
            (behind % step == 0 && behind / step < range.len()).then_some(behind / step)
        };
        set.ranges.iter().enumerate().skip(self.range).any(|(number, range)| {
            let within = if number == self.range { self.within } else { 0 };
            place(range).is_some_and(|place| place >= within)
        })
    }

    /// Returns the frame at the cursor and moves on; `None` at the end.
    pub fn next(&mut self, set: &FrameSet) -> Option<i32> {
        let range = set.ranges.get(self.range)?;
        let frame = range.nth(self.within);
        self.within += 1;
        if self.within == range.len() {
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
        assert_eq!(FrameSet::new(vec![range(1, 9, 2), range(5, 5, 1)]), None);
        assert_eq!(FrameSet::new(vec![]), None);
        assert_eq!(FrameSet::new(vec![range(i32::MIN, i32::MAX, 1)]), None);
        assert!(FrameSet::new(vec![range(i32::MIN, i32::MAX, 5000)]).is_some());
    }
}
