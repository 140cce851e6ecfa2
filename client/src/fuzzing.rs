//! What the fuzz target does.

use framecrew_model::{FRAMES_MAX, FrameRange, FrameSet};
use framecrew_proto::v1 as proto;

/// Frames as people type them.
pub fn frame_ranges(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(frames) = text.parse::<FrameSet>() else { return };
    assert!((1..=FRAMES_MAX).contains(&frames.count()));
    assert_eq!(frames.iter().count() as u64, frames.count());
    assert!(frames.iter().take(100).all(|frame| frames.contains(frame)));
    assert_eq!(frames.to_string().parse::<FrameSet>().as_ref(), Ok(&frames));
    for range in frames.ranges() {
        assert_eq!(FrameRange::try_from(proto::FrameRange::from(*range)).as_ref(), Ok(range));
    }
}

#[cfg(test)]
#[path = "../../proto/fuzz/seeds.rs"]
mod seeds;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_of_frame_ranges_hold() {
        let seeds = [
            ("good", "1-250,300..400x2,-5..-1, 7"),
            ("step", "-10--1x3,1-10x4294967295"),
            ("ends", "-2147483648..2147483647x4000,2147483647"),
            ("faulty", "9-1,1:10,1-10x0,,--1,x"),
            ("many", "1-1000000"),
            ("too-many", "0-2000000"),
        ];
        let seeds = seeds.map(|(name, text)| (name, text.into()));
        super::seeds::check("frame_ranges", &seeds, frame_ranges);
    }
}
