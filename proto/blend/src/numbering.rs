//! Computes which file of a numbered sequence each frame shows, like Blender.

/// How frames of a scene map to the numbers of a sequence of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Numbering {
    /// An image in a material, a texture or the compositor.
    Image {
        /// The frame that shows the first file.
        start: i32,
        /// The number of files. Later frames show the last one.
        length: i32,
        /// The offset that is added to the number. Without it, the numbers start at 1.
        offset: i32,
        /// Whether the sequence repeats.
        is_cyclic: bool,
    },
    /// A movie clip, which counts from the number in its path.
    Clip {
        /// The frame that shows the file in the path.
        start: i32,
        /// The offset that is added to the number.
        offset: i32,
    },
    /// A volume.
    Volume {
        /// The frame that shows the first file.
        start: i32,
        /// The number of files.
        length: i32,
        /// The offset that is added to the number.
        offset: i32,
        /// What is shown before the first file and after the last.
        mode: Outside,
    },
    /// A cache file: the number is the frame, or constant.
    Cache {
        /// The number, if it is constant.
        fixed: Option<i32>,
    },
    /// A strip of pictures, which counts them from 0.
    Strip {
        /// The frame of the first picture, even if it is cut off.
        start: i32,
        /// The number of pictures.
        length: i32,
        /// The number of pictures before them that are skipped.
        offset: i32,
        /// The first frame that shows the strip.
        first: i32,
        /// The frame after the last one that shows the strip.
        end: i32,
        /// Whether it plays backwards.
        is_reversed: bool,
    },
}

/// What volumes show in frames outside their sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outside {
    /// Nothing.
    Clip,
    /// The first or the last file.
    Extend,
    /// The sequence again.
    Repeat,
    /// The sequence backwards and forwards.
    PingPong,
}

impl Numbering {
    /// Returns the number that a frame shows of a sequence whose path has the number `stored`; `None` if it shows
    /// nothing.
    #[must_use]
    pub fn number(self, frame: i32, stored: i64) -> Option<i64> {
        let frame = i64::from(frame);
        match self {
            Self::Image { start, length, offset, is_cyclic } => {
                let (length, at) = (i64::from(length), frame - i64::from(start) + 1);
                if length <= 0 {
                    return None;
                }
                let at = if is_cyclic { around(at, length) } else { at.clamp(0, length) };
                // File numbers cannot be negative.
                Some((at + i64::from(offset)).max(0))
            }
            Self::Clip { start, offset } => {
                Some((stored + frame - i64::from(start) + i64::from(offset)).max(0))
            }
            Self::Volume { start, length, offset, mode } => {
                let (length, at) = (i64::from(length), frame - i64::from(start) + 1);
                if length <= 0 {
                    return None;
                }
                let at = match mode {
                    Outside::Clip if at < 1 || at > length => return None,
                    Outside::Clip => at,
                    Outside::Extend => at.clamp(1, length),
                    Outside::Repeat => around(at, length),
                    Outside::PingPong if length == 1 => 1,
                    Outside::PingPong => match around(at, 2 * length - 2) {
                        back if back > length => 2 * length - back,
                        there => there,
                    },
                };
                Some(at + i64::from(offset))
            }
            Self::Cache { fixed } => Some(fixed.map_or(frame, i64::from)),
            Self::Strip { start, length, offset, first, end, is_reversed } => {
                let last = i64::from(length) - 1;
                if last < 0 || !(i64::from(first)..i64::from(end)).contains(&frame) {
                    return None;
                }
                let at = (frame - i64::from(start)).clamp(0, last);
                Some(i64::from(offset) + if is_reversed { last - at } else { at })
            }
        }
    }

    /// Whether Blender only finds the number directly before the extension.
    #[must_use]
    pub fn wants_number_last(self) -> bool {
        matches!(self, Self::Volume { .. } | Self::Cache { .. })
    }

    /// Whether frames before the first and after the last file may show nothing.
    #[must_use]
    pub fn may_end(self) -> bool {
        matches!(self, Self::Clip { .. })
    }
}

/// Wraps around from `length` to 1.
fn around(at: i64, length: i64) -> i64 {
    (at - 1).rem_euclid(length) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(numbering: Numbering, frames: [i32; 6]) -> [Option<i64>; 6] {
        frames.map(|frame| numbering.number(frame, 10))
    }

    #[test]
    fn an_image_sequence_stays_on_its_last_file_or_repeats() {
        let image = |is_cyclic| Numbering::Image { start: 3, length: 4, offset: 100, is_cyclic };
        let frames = [1, 2, 3, 6, 7, 8];
        let shown = [Some(100), Some(100), Some(101), Some(104), Some(104), Some(104)];
        assert_eq!(numbers(image(false), frames), shown);
        let shown = [Some(103), Some(104), Some(101), Some(104), Some(101), Some(102)];
        assert_eq!(numbers(image(true), frames), shown);
        let empty = Numbering::Image { start: 1, length: 0, offset: 0, is_cyclic: true };
        assert_eq!(empty.number(5, 1), None);
    }

    #[test]
    fn volumes_end_stay_repeat_or_play_backwards() {
        let volume = |mode| Numbering::Volume { start: 1, length: 3, offset: 0, mode };
        let frames = [0, 1, 3, 4, 5, 6];
        for (mode, shown) in [
            (Outside::Clip, [None, Some(1), Some(3), None, None, None]),
            (Outside::Extend, [Some(1), Some(1), Some(3), Some(3), Some(3), Some(3)]),
            (Outside::Repeat, [Some(3), Some(1), Some(3), Some(1), Some(2), Some(3)]),
            (Outside::PingPong, [Some(2), Some(1), Some(3), Some(2), Some(1), Some(2)]),
        ] {
            assert_eq!(numbers(volume(mode), frames), shown, "{mode:?}");
        }
    }

    #[test]
    fn a_strip_shows_its_pictures_where_it_lies_and_backwards() {
        let strip = |is_reversed| Numbering::Strip {
            start: 3,
            length: 4,
            offset: 10,
            first: 2,
            end: 6,
            is_reversed,
        };
        let frames = [1, 2, 3, 4, 5, 6];
        let shown = [None, Some(10), Some(10), Some(11), Some(12), None];
        assert_eq!(numbers(strip(false), frames), shown);
        let shown = [None, Some(13), Some(13), Some(12), Some(11), None];
        assert_eq!(numbers(strip(true), frames), shown);
    }

    #[test]
    fn a_clip_counts_from_its_path_and_a_cache_uses_the_frame() {
        let clip = Numbering::Clip { start: 5, offset: 1 };
        assert_eq!(clip.number(7, 10), Some(13));
        assert_eq!(Numbering::Cache { fixed: None }.number(7, 10), Some(7));
        assert_eq!(Numbering::Cache { fixed: Some(2) }.number(7, 10), Some(2));
        let widest = Numbering::Volume {
            start: i32::MIN,
            length: i32::MAX,
            offset: i32::MAX,
            mode: Outside::PingPong,
        };
        assert!(widest.number(i32::MAX, i64::from(u32::MAX)).is_some());
    }
}
