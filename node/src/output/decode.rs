//! Reads an image to its end: a frame is real only when that succeeds.

use std::io::{BufReader, Cursor};

use bytes::Bytes;
use exr::{
    meta::{MetaData, header::Header},
    prelude::{FlatSamples, ReadChannels as _, ReadLayers as _},
};
use image::{DynamicImage, ImageFormat, ImageReader};

use super::preview::{self, Small};

/// Width and height in pixels.
pub(crate) type Size = (u32, u32);

/// Bytes that decoding one image may take: 16k by 16k pixels of four floats.
const DECODED_BYTES_MAX: u64 = if cfg!(fuzzing) { 64 << 20 } else { 4 << 30 };

/// Bytes that the layers of one OpenEXR file may take, which may be all passes of an 8k image. Their decoder asks
/// for them at once, and a system that does not have them ends the node.
const LAYERS_BYTES_MAX: u128 = if cfg!(fuzzing) { 64 << 20 } else { 16 << 30 };

const PNG_END: &[u8] = b"IEND\xae\x42\x60\x82";
const JPEG_END: &[u8] = b"\xff\xd9";
const END_MISSING: &str = "its end is missing";

/// What a file turned out to be.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) size: Size,
    /// Over all layers.
    pub(crate) channels: u32,
    /// Where it was asked for and there is something to see.
    pub(crate) small: Option<Small>,
}

/// Decodes an image of any format that the node accepts; `name` tells the one that has no mark of its own.
/// With `look`, a small one is taken from it.
pub(crate) fn decode(name: &str, content: &Bytes, look: bool) -> Result<Decoded, String> {
    let reader = ImageReader::new(Cursor::new(content));
    let mut reader = reader.with_guessed_format().map_err(|error| error.to_string())?;
    if reader.format().is_none() && name.to_lowercase().ends_with(".tga") {
        reader.set_format(ImageFormat::Tga);
    }
    match reader.format() {
        None => Err("it is in no known format".into()),
        Some(ImageFormat::OpenExr) => decode_exr(content, look),
        // Decoders forgive a missing end, some of them missing rows too.
        Some(ImageFormat::Png) if !content.ends_with(PNG_END) => Err(END_MISSING.into()),
        Some(ImageFormat::Jpeg) if !content.ends_with(JPEG_END) => Err(END_MISSING.into()),
        Some(_) => decode_any(reader, look),
    }
}

fn decode_any(mut reader: ImageReader<Cursor<&Bytes>>, look: bool) -> Result<Decoded, String> {
    let mut limits = image::Limits::no_limits();
    limits.max_alloc = Some(DECODED_BYTES_MAX);
    reader.limits(limits);
    let image = reader.decode().map_err(|error| error.to_string())?;
    Ok(Decoded {
        size: (image.width(), image.height()),
        channels: image.color().channel_count().into(),
        small: look.then(|| small(&image)),
    })
}

fn small(image: &DynamicImage) -> Small {
    match image {
        DynamicImage::ImageRgb32F(light) => {
            preview::linear(light.width(), light.height(), |x, y| {
                let [r, g, b] = light.get_pixel(x, y).0;
                [r, g, b, 1.0]
            })
        }
        DynamicImage::ImageRgba32F(light) => {
            preview::linear(light.width(), light.height(), |x, y| light.get_pixel(x, y).0)
        }
        _ => Small::Shown(preview::shown(image)),
    }
}

/// Reads every layer and channel, whatever their names.
fn decode_exr(content: &Bytes, look: bool) -> Result<Decoded, String> {
    let head = MetaData::read_from_buffered(Cursor::new(content), false);
    let head = head.map_err(|error| error.to_string())?;
    let bytes_of = |header: &Header| {
        let pixels = header.layer_size.width() as u128 * header.layer_size.height() as u128;
        pixels * header.channels.bytes_per_pixel as u128
    };
    if head.headers.iter().map(bytes_of).sum::<u128>() > LAYERS_BYTES_MAX {
        return Err(format!("its layers are too large, more than {} GiB", LAYERS_BYTES_MAX >> 30));
    }
    let reader = BufReader::new(Cursor::new(content));
    let image = exr::prelude::read()
        .no_deep_data()
        .largest_resolution_level()
        .all_channels()
        .all_layers()
        .all_attributes()
        .from_buffered(reader)
        .map_err(|error| error.to_string())?;
    let size = image.attributes.display_window.size;
    let channels: usize = image.layer_data.iter().map(|layer| layer.channel_data.list.len()).sum();
    let small = image.layer_data.iter().filter(|_| look).find_map(|layer| {
        let channels = &layer.channel_data.list;
        let names: Vec<_> = channels.iter().map(|channel| channel.name.to_string()).collect();
        let [r, g, b, a] = visible(&names)?.map(|index| Some(&channels[index?].sample_data));
        let [r, g, b] = [r?, g?, b?];
        let (width, height) = (layer.size.width(), layer.size.height());
        let sample = |samples: &FlatSamples, at| samples.value_by_flat_index(at).to_f32();
        Some(preview::linear(pixels(width), pixels(height), |x, y| {
            let at = y as usize * width + x as usize;
            [sample(r, at), sample(g, at), sample(b, at), a.map_or(1.0, |a| sample(a, at))]
        }))
    });
    Ok(Decoded {
        size: (pixels(size.width()), pixels(size.height())),
        channels: pixels(channels),
        small,
    })
}

fn pixels(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Which channels are red, green, blue and, if there is any, alpha of what is to be looked at: the image itself,
/// or in a file of many layers what the compositor made, or else the first layer's whole picture.
fn visible(names: &[String]) -> Option<[Option<usize>; 4]> {
    let place = |name: String| names.iter().position(|n| *n == name);
    let prefixes = names.iter().filter_map(|name| name.strip_suffix('R'));
    let rank = |prefix: &&str| match *prefix {
        "" => 0,
        prefix if prefix.starts_with("Composite.") => 1,
        prefix if prefix.contains("Combined.") => 2,
        _ => 3,
    };
    let complete = prefixes.filter(|prefix| {
        place(format!("{prefix}G")).is_some() && place(format!("{prefix}B")).is_some()
    });
    if let Some(prefix) = complete.min_by_key(rank) {
        return Some(["R", "G", "B", "A"].map(|channel| place(format!("{prefix}{channel}"))));
    }
    let grey = ["Y", "V"].into_iter().find_map(|name| place(name.into()))?;
    Some([Some(grey), Some(grey), Some(grey), None])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn seen(names: &[&str]) -> Option<[Option<usize>; 4]> {
        visible(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_picture_is_found_among_the_layers() {
        assert_eq!(seen(&["A", "B", "G", "R", "Z"]), Some([Some(3), Some(2), Some(1), Some(0)]));
        assert_eq!(seen(&["B", "G", "R"]), Some([Some(2), Some(1), Some(0), None]));
        assert_eq!(seen(&["Y"]), Some([Some(0), Some(0), Some(0), None]));
        let layers = [
            "Fog.Combined.B",
            "Fog.Combined.G",
            "Fog.Combined.R",
            "Fog.Normal.X",
            "View.Diffuse.B",
            "View.Diffuse.G",
            "View.Diffuse.R",
        ];
        assert_eq!(seen(&layers), Some([Some(2), Some(1), Some(0), None]));
        let composite = [
            &layers[..],
            &["Composite.Combined.B", "Composite.Combined.G", "Composite.Combined.R"],
        ]
        .concat();
        assert_eq!(seen(&composite), Some([Some(9), Some(8), Some(7), None]));
        assert_eq!(seen(&["View.Depth.Z", "View.Normal.R"]), None);
    }

    #[test]
    fn an_image_that_claims_to_be_larger_than_memory_is_refused_before_it_is_read() {
        use exr::prelude::{Encoding, Image, SpecificChannels, WritableImage as _};

        let black = SpecificChannels::rgb(|_| (0.0_f32, 0.0_f32, 0.0_f32));
        let mut content = Cursor::new(Vec::new());
        let lines = Encoding { blocks: exr::image::Blocks::ScanLines, ..Encoding::SMALL_LOSSLESS };
        let image = Image::from_encoded_channels((40, 30), lines, black);
        image.write().to_buffered(&mut content).unwrap();
        let mut content = content.into_inner();
        for window in [&b"dataWindow\0box2i\0"[..], b"displayWindow\0box2i\0"] {
            let at = content.windows(window.len()).position(|bytes| bytes == window).unwrap();
            // After its name, its type and its length: two corners.
            let far = at + window.len() + 4 + 8;
            content[far..far + 4].copy_from_slice(&999_999_999_i32.to_le_bytes());
        }
        let error = decode("0001.exr", &content.into(), true).unwrap_err();
        assert!(error.contains("large"), "{error}");
    }
}
