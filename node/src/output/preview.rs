//! Small pictures of frames, as they look on a screen.

use std::io::Cursor;

use bytes::Bytes;
use framecrew_blobs::Digest;
use image::{DynamicImage, RgbImage, Rgba32FImage, codecs::jpeg::JpegEncoder};

use super::blob::{Blob, Content};

/// Pixels of a preview's longer side, at most: the protocol's bound.
const SIDE_MAX: u32 = 256;

/// Bytes of a preview, at most: the protocol's bound.
const BYTES_MAX: usize = 32 * 1024;

/// Pixels of the longer side that are kept of an image with linear light. Twice a preview's, so that each of its
/// pixels is the average of four as they look on a screen: averages of light would make a lamp out of a speck.
const LINEAR_SIDE_MAX: u32 = 2 * SIDE_MAX;

/// Qualities that are tried until a preview is small enough. The first one nearly always is.
const QUALITIES: [u8; 4] = [85, 60, 30, 5];

/// What a preview is made of.
#[derive(Debug)]
pub(crate) enum Small {
    /// As it looks on a screen.
    Shown(RgbImage),
    /// Linear light, to which the scene's view transform must be applied.
    Linear(Rgba32FImage),
}

/// Makes an image as small as a preview. Alpha lies over black, as in the formats of Blender that have none.
pub(crate) fn shown(image: &DynamicImage) -> RgbImage {
    let (width, height) = fit(image.width(), image.height(), SIDE_MAX);
    let small = if (width, height) == (image.width(), image.height()) {
        image.to_rgba8()
    } else {
        image.thumbnail_exact(width, height).to_rgba8()
    };
    let over_black = |value: u8, alpha: u8| (u16::from(value) * u16::from(alpha) / 255) as u8;
    RgbImage::from_fn(width, height, |x, y| {
        let [r, g, b, a] = small.get_pixel(x, y).0;
        image::Rgb([r, g, b].map(|value| over_black(value, a)))
    })
}

/// Takes pixels of an image with linear light, evenly, without blending them.
pub(crate) fn linear(width: u32, height: u32, pixel: impl Fn(u32, u32) -> [f32; 4]) -> Small {
    let step = width.max(height).div_ceil(LINEAR_SIDE_MAX).max(1);
    let (across, down) = (width.div_ceil(step), height.div_ceil(step));
    let offset = step / 2;
    let taken = Rgba32FImage::from_fn(across, down, |x, y| {
        let (x, y) = ((x * step + offset).min(width - 1), (y * step + offset).min(height - 1));
        image::Rgba(pixel(x, y))
    });
    Small::Linear(taken)
}

/// A JPEG that is small enough to travel with a frame's events.
#[derive(Debug)]
pub(crate) struct Preview {
    /// Width and height in pixels.
    pub(crate) size: (u32, u32),
    /// The JPEG, in memory.
    pub(crate) blob: Blob,
}

/// Encodes a preview; `None` where that fails.
pub(crate) fn encode(image: &RgbImage) -> Option<Preview> {
    let data = QUALITIES.iter().find_map(|quality| {
        let mut jpeg = Cursor::new(Vec::new());
        image.write_with_encoder(JpegEncoder::new_with_quality(&mut jpeg, *quality)).ok()?;
        Some(jpeg.into_inner()).filter(|jpeg| jpeg.len() <= BYTES_MAX)
    })?;
    let (digest, size_bytes) = (Digest::of(&data), data.len() as u64);
    let blob = Blob { digest, size_bytes, content: Content::Memory(Bytes::from(data)) };
    Some(Preview { size: image.dimensions(), blob })
}

/// Width and height with the same shape and no side longer than `side_max`, nor 0.
fn fit(width: u32, height: u32, side_max: u32) -> (u32, u32) {
    let side = width.max(height);
    if side <= side_max {
        return (width, height);
    }
    let scaled = |pixels: u32| {
        let half = u64::from(side) / 2;
        let scaled = (u64::from(pixels) * u64::from(side_max) + half) / u64::from(side);
        u32::try_from(scaled).unwrap_or(side_max).max(1)
    };
    (scaled(width), scaled(height))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use image::{ImageBuffer, Luma, Rgba, RgbaImage};

    use super::*;

    #[test]
    fn the_shape_stays_and_no_side_vanishes() {
        assert_eq!(fit(1920, 1080, 256), (256, 144));
        assert_eq!(fit(1080, 1920, 256), (144, 256));
        assert_eq!(fit(64, 48, 256), (64, 48));
        assert_eq!(fit(100_000, 2, 256), (256, 1));
        assert_eq!(fit(257, 257, 256), (256, 256));
    }

    #[test]
    fn deep_and_grey_images_look_as_they_are_and_alpha_lies_over_black() {
        let deep = ImageBuffer::from_fn(600, 300, |_, _| Rgba([0xffff_u16, 0x8000, 0, 0xffff]));
        let pixel = *shown(&DynamicImage::ImageRgba16(deep)).get_pixel(10, 10);
        assert_eq!(pixel.0, [255, 128, 0]);
        let grey = ImageBuffer::from_fn(30, 20, |_, _| Luma([77_u8]));
        assert_eq!(shown(&DynamicImage::ImageLuma8(grey)).get_pixel(0, 0).0, [77; 3]);
        let clear = RgbaImage::from_fn(30, 20, |_, _| Rgba([200, 100, 50, 0]));
        assert_eq!(shown(&DynamicImage::ImageRgba8(clear)).get_pixel(0, 0).0, [0; 3]);
    }

    #[test]
    fn the_noisiest_preview_is_small_enough() {
        let mut random = fastrand::Rng::with_seed(1);
        let noise = RgbImage::from_fn(256, 256, |_, _| image::Rgb([(); 3].map(|()| random.u8(..))));
        let Preview { size, blob } = encode(&noise).unwrap();
        let Content::Memory(data) = blob.content else { panic!() };
        assert!(data.len() <= BYTES_MAX && blob.size_bytes == data.len() as u64);
        assert_eq!(blob.digest, Digest::of(&data));
        assert_eq!(size, (256, 256));
        assert_eq!(image::load_from_memory(&data).unwrap().width(), 256);
    }

    #[test]
    fn linear_light_is_thinned_out_and_never_blended() {
        let Small::Linear(taken) = linear(1920, 1080, |x, y| [x as f32, y as f32, 1e6, 1.0]) else {
            panic!();
        };
        assert_eq!((taken.width(), taken.height()), (480, 270));
        assert_eq!(taken.get_pixel(479, 269).0[2], 1e6);
        let Small::Linear(all) = linear(3, 2, |x, _| [x as f32; 4]) else { panic!() };
        assert_eq!((all.width(), all.height(), all.get_pixel(2, 1).0[0]), (3, 2, 2.0));
    }
}
