//! Frame ranges on the wire.

use framecrew_model::{FrameRange, InvalidFrames};

use crate::v1;

impl From<FrameRange> for v1::FrameRange {
    fn from(range: FrameRange) -> Self {
        let FrameRange { first, last, step } = range;
        Self { first, last, step }
    }
}

impl TryFrom<v1::FrameRange> for FrameRange {
    type Error = InvalidFrames;

    fn try_from(range: v1::FrameRange) -> Result<Self, InvalidFrames> {
        Self::new(range.first, range.last, range.step)
    }
}
