//! Frames that one Blender draws as an animation because each depends on those before it.

use std::ops::RangeInclusive;

use serde::Serialize;

/// Frames in which Blender's animations can begin and end.
const FRAMES: RangeInclusive<i32> = 0..=1_048_574;

/// Every `step`-th frame from the first frame of a job to its last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Span {
    first: i32,
    last: i32,
    step: u32,
}

impl Span {
    /// Returns `Err` with what is wrong with the range. Returns `Ok(None)` if Blender has no animations there, so
    /// that frames are drawn one by one.
    pub(crate) fn parse(first: i32, last: i32, step: u32) -> Result<Option<Self>, &'static str> {
        let step = step.max(1);
        if first > last {
            return Err("must not end before it begins");
        }
        let whole = FRAMES.contains(&first) && FRAMES.contains(&last);
        Ok(whole.then_some(Self { first, last, step }))
    }

    /// Whether Blender draws this frame.
    pub(crate) fn holds(&self, frame: i32) -> bool {
        (self.first..=self.last).contains(&frame)
            && frame.abs_diff(self.first).is_multiple_of(self.step)
    }

    /// The number of frames that Blender draws up to and including this one.
    pub(crate) fn frames_to(&self, frame: i32) -> u32 {
        let before = frame.max(self.first).abs_diff(self.first);
        (before / self.step).saturating_add(1)
    }

    /// Returns how many frames Blender draws after `drawn`, up to a later frame.
    pub(crate) fn frames_between(&self, drawn: i32, frame: i32) -> u32 {
        (frame.max(drawn).abs_diff(drawn) / self.step).max(1)
    }

    /// Returns the first frame.
    pub(crate) fn first(&self) -> i32 {
        self.first
    }

    /// Returns the frame that follows `frame`.
    pub(crate) fn after(&self, frame: i32) -> i32 {
        frame.saturating_add_unsigned(self.step)
    }

    /// Whether there are frames after this one.
    pub(super) fn goes_on_after(&self, frame: i32) -> bool {
        i64::from(frame) + i64::from(self.step) <= i64::from(self.last)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn span(first: i32, last: i32, step: u32) -> Span {
        Span::parse(first, last, step).unwrap().unwrap()
    }

    #[test]
    fn an_animation_under_way_draws_only_what_is_left() {
        let odd = span(1, 9, 2);
        assert_eq!((odd.frames_to(1), odd.frames_to(7)), (1, 4));
        assert_eq!((odd.frames_between(5, 7), odd.frames_between(1, 7)), (1, 3));
        assert_eq!(odd.after(5), 7);
    }

    #[test]
    fn an_animation_contains_every_frame_of_its_step_and_ends_with_the_last() {
        let odd = span(1, 10, 2);
        assert!(odd.holds(1) && odd.holds(9));
        assert!(!odd.holds(2) && !odd.holds(11) && !odd.holds(-1));
        assert!(odd.goes_on_after(7) && !odd.goes_on_after(9));
        assert!(!span(5, 5, 1).goes_on_after(5));
    }

    #[test]
    fn frames_that_blender_cannot_animate_are_drawn_one_by_one() {
        let parse = |first, last| Span::parse(first, last, 0);
        assert_eq!(parse(-3, 5), Ok(None));
        assert_eq!(parse(1, i32::MAX), Ok(None));
        assert!(parse(0, 5).unwrap().is_some());
        assert!(parse(5, 4).is_err());
    }
}
