//! Pure: many frames on one sheet, to see an animation at a glance.

use image::{RgbImage, imageops, imageops::FilterType};

/// Width of one frame on the sheet in pixels.
const CELL_WIDTH: u32 = 240;
/// Pixels between frames and around them.
const GAP: u32 = 6;
/// Colour between the frames.
const PAPER: image::Rgb<u8> = image::Rgb([18, 18, 20]);

/// Lays `frames` out in rows of `columns` (1 or more), all in cells of the first one's proportions.
/// `None` when there is no frame.
#[must_use]
pub fn contact_sheet(frames: &[RgbImage], columns: u32) -> Option<RgbImage> {
    let (width, height) = frames.first()?.dimensions();
    let columns = columns.clamp(1, u32::try_from(frames.len()).ok()?);
    let rows = u32::try_from(frames.len()).ok()?.div_ceil(columns);
    let cell_height = (CELL_WIDTH * height).div_ceil(width.max(1)).max(1);
    let mut sheet = RgbImage::from_pixel(
        columns * (CELL_WIDTH + GAP) + GAP,
        rows * (cell_height + GAP) + GAP,
        PAPER,
    );
    for (index, frame) in (0_u32..).zip(frames) {
        let cell = imageops::resize(frame, CELL_WIDTH, cell_height, FilterType::Triangle);
        let x = GAP + index % columns * (CELL_WIDTH + GAP);
        let y = GAP + index / columns * (cell_height + GAP);
        imageops::replace(&mut sheet, &cell, x.into(), y.into());
    }
    Some(sheet)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn frame(red: u8) -> RgbImage {
        RgbImage::from_pixel(320, 180, image::Rgb([red, 0, 0]))
    }

    #[test]
    fn frames_stand_in_rows_in_their_order() {
        let frames: Vec<_> = (0..5).map(|n| frame(n * 50)).collect();
        let sheet = contact_sheet(&frames, 3).unwrap();
        assert_eq!(sheet.dimensions(), (3 * 246 + 6, 2 * 141 + 6));
        let centre =
            |column: u32, row: u32| sheet.get_pixel(6 + column * 246 + 120, 6 + row * 141 + 60)[0];
        assert_eq!([centre(0, 0), centre(1, 0), centre(2, 0)], [0, 50, 100]);
        assert_eq!([centre(0, 1), centre(1, 1)], [150, 200]);
        assert_eq!(*sheet.get_pixel(6 + 2 * 246 + 120, 6 + 141 + 60), PAPER);
    }

    #[test]
    fn few_frames_leave_no_empty_columns() {
        assert_eq!(contact_sheet(&[frame(1)], 6).unwrap().width(), 252);
        assert!(contact_sheet(&[], 6).is_none());
    }
}
