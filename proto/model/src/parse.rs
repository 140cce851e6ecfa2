//! Frames as people type them: `1-250,300..400x2`.

use std::str::FromStr;

use crate::{
    FrameRange, FrameSet,
    invalid::{DOTS, InvalidFrames},
};

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
        assert_eq!(refusal("10-1"), "frame range 10-1 runs backwards; did you mean 1-10?");
        assert_eq!(refusal("10..1"), "frame range 10..1 runs backwards; did you mean 1..10?");
        assert_eq!(refusal("5--1"), "frame range 5..-1 runs backwards; did you mean -1..5?");
        assert_eq!(refusal("1-9x0"), "frame range 1-9 has a step of 0; the smallest step is 1");
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
