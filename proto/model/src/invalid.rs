//! Why frames are refused.

use std::convert::Infallible;

/// Frames in one job. Bounds the scheduler's memory (a byte a frame) and every page of it.
pub const FRAMES_MAX: u64 = 1_000_000;

/// Separator between the first and the last frame of a range.
pub(crate) const DOTS: &str = "..";

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
    #[error(
        "frame range {first}{between}{last} runs backwards; did you mean {last}{between}{first}?"
    )]
    Reversed {
        /// First frame.
        first: i32,
        /// Last frame.
        last: i32,
        /// The separator as it was written.
        between: &'static str,
    },
    /// A step of 0.
    #[error("frame range {first}{between}{last} has a step of 0; the smallest step is 1")]
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
