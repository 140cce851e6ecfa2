//! Checks a frame's files: each must decode, and have the size that the scene promised. Hashes and names them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use framecrew_blobs::Digest;
use serde::Deserialize;
use tokio::task;

use super::{
    blob::{Blob, Content},
    decode::{self, Decoded, Size},
    naming::{FileOutput, Names},
    preview::{self, Preview, Small},
};

/// Files of one frame: every pass of a few view layers for two eyes.
const FILES_MAX: usize = 512;

/// Bytes of one frame's files together.
const FRAME_BYTES_MAX: u64 = 16 << 30;

/// What a renderer says that a frame's folder holds.
#[derive(Debug, Default)]
pub(crate) struct Promise {
    /// The scene's own output: one image, or one for each view.
    pub(crate) images: Vec<PromisedImage>,
    /// How Blender would name it, without its extension; empty: it does not say.
    pub(crate) name: String,
    /// Where File Output nodes write.
    pub(crate) file_outputs: Vec<FileOutput>,
}

/// A file that must be there.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct PromisedImage {
    pub(crate) file: String,
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// Channels that it has at least.
    pub(crate) channels: u32,
}

/// The files of a frame, in their order: the scene's own first.
#[derive(Debug)]
pub(crate) struct CheckedFrame {
    pub(crate) outputs: Vec<Checked>,
    /// What a preview can be made of.
    pub(crate) small: Option<Small>,
}

/// An output that decodes and is what was promised.
#[derive(Debug, Clone)]
pub(crate) struct Checked {
    pub(crate) name: String,
    pub(crate) size: Size,
    /// Over all layers.
    pub(crate) channels: u32,
    pub(crate) blob: Blob,
}

/// Why an output is not what the frame promised.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidOutput {
    #[error("the renderer wrote no file {0}")]
    Missing(String),
    #[error("the output {name} cannot be read: {source}")]
    Unreadable { name: String, source: io::Error },
    #[error("the output {name} is not a whole image: {reason}")]
    Undecodable { name: String, reason: String },
    #[error(
        "the output {name} is {width}×{height} pixels, but the scene promised {promised_width}×{promised_height}"
    )]
    WrongSize { name: String, width: u32, height: u32, promised_width: u32, promised_height: u32 },
    #[error("the output {name} has {channels} channels, but the scene promised {promised} or more")]
    TooFewChannels { name: String, channels: u32, promised: u32 },
    #[error("the frame has more than {FILES_MAX} files: give File Output nodes fewer slots")]
    TooManyFiles,
    #[error("the frame's files take more than {} GiB together", FRAME_BYTES_MAX >> 30)]
    TooLarge,
}

/// Checks every file in `folder`, which frame `frame` had for itself. Decodes away from the async threads.
pub(crate) async fn check(
    folder: PathBuf,
    frame: i32,
    promise: Promise,
) -> Result<CheckedFrame, InvalidOutput> {
    let checked = task::spawn_blocking(move || check_folder(&folder, frame, &promise)).await;
    // A decoder that panics has met something that is not an image.
    checked.unwrap_or_else(|panic| {
        Err(InvalidOutput::Undecodable { name: "file".into(), reason: panic.to_string() })
    })
}

/// Checks an image that is in memory.
pub(crate) fn check_bytes(
    name: String,
    content: Bytes,
    promised: Size,
) -> Result<Checked, InvalidOutput> {
    let (checked, _) = accept(name, content, false)?;
    expect(&checked, promised, 1)?;
    Ok(checked)
}

/// A preview of a file that Blender has developed.
pub(crate) async fn preview_of_file(path: PathBuf) -> Option<Preview> {
    let made = task::spawn_blocking(move || {
        let content = Bytes::from(fs::read(path).ok()?);
        match decode::decode("", &content, true).ok()?.small {
            Some(Small::Shown(image)) => preview::encode(&image),
            _ => None,
        }
    });
    made.await.ok().flatten()
}

fn check_folder(
    folder: &Path,
    frame: i32,
    promise: &Promise,
) -> Result<CheckedFrame, InvalidOutput> {
    let mut files = Vec::new();
    list(folder, "", &mut files)?;
    files.sort();
    let mut bytes = 0;
    let mut small = None;
    let mut outputs = Vec::new();
    let mut names = Names::new(frame, &promise.file_outputs);
    for (number, promised) in promise.images.iter().enumerate() {
        let wanted =
            |(inside, file): &(String, String)| inside.is_empty() && *file == promised.file;
        let Some(found) = files.iter().position(wanted) else {
            return Err(InvalidOutput::Missing(promised.file.clone()));
        };
        files.remove(found);
        let name = names.image(&promise.name, &promised.file);
        let path = folder.join(&promised.file);
        let (checked, seen) = check_file(path, name, number == 0, &mut bytes)?;
        expect(&checked, (promised.width, promised.height), promised.channels)?;
        small = small.or(seen);
        outputs.push(checked);
    }
    let mut others = Vec::new();
    for (inside, file) in files {
        let name = names.other(&inside, &file);
        let path = folder.join(inside).join(file);
        others.push(check_file(path, name, false, &mut bytes)?.0);
    }
    others.sort_by(|a, b| a.name.cmp(&b.name));
    outputs.extend(others);
    if outputs.is_empty() {
        return Err(InvalidOutput::Missing("at all".into()));
    }
    Ok(CheckedFrame { outputs, small })
}

/// Finds the files in a frame's folder and in the folders in it, as pairs of folder and name. What was written
/// by a script may be anything; only plain files count.
fn list(
    folder: &Path,
    inside: &str,
    files: &mut Vec<(String, String)>,
) -> Result<(), InvalidOutput> {
    let unreadable =
        |source| InvalidOutput::Unreadable { name: format!("folder {inside}"), source };
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        // Of the entry itself, never of what a link leads to.
        let kind = entry.file_type().map_err(unreadable)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if kind.is_file() {
            files.push((inside.into(), name));
        } else if kind.is_dir() && inside.is_empty() {
            list(&entry.path(), &name, files)?;
        }
        if files.len() > FILES_MAX {
            return Err(InvalidOutput::TooManyFiles);
        }
    }
    Ok(())
}

fn check_file(
    path: PathBuf,
    name: String,
    look: bool,
    bytes: &mut u64,
) -> Result<(Checked, Option<Small>), InvalidOutput> {
    let unreadable = |source| InvalidOutput::Unreadable { name: name.clone(), source };
    *bytes += fs::metadata(&path).map_err(unreadable)?.len();
    if *bytes > FRAME_BYTES_MAX {
        return Err(InvalidOutput::TooLarge);
    }
    let content = Bytes::from(fs::read(&path).map_err(unreadable)?);
    let (mut checked, small) = accept(name, content, look)?;
    // A frame may be large; only its name waits for the upload.
    checked.blob.content = Content::File(path);
    Ok((checked, small))
}

fn accept(
    name: String,
    content: Bytes,
    look: bool,
) -> Result<(Checked, Option<Small>), InvalidOutput> {
    let Decoded { size, channels, small } = match decode::decode(&name, &content, look) {
        Ok(decoded) => decoded,
        Err(reason) => return Err(InvalidOutput::Undecodable { name, reason }),
    };
    let digest = Digest::of(&content);
    let size_bytes = content.len() as u64;
    let blob = Blob { digest, size_bytes, content: Content::Memory(content) };
    Ok((Checked { name, size, channels, blob }, small))
}

fn expect(
    checked: &Checked,
    (promised_width, promised_height): Size,
    promised: u32,
) -> Result<(), InvalidOutput> {
    let Checked { name, size: (width, height), channels, .. } = checked.clone();
    if (width, height) != (promised_width, promised_height) {
        return Err(InvalidOutput::WrongSize {
            name,
            width,
            height,
            promised_width,
            promised_height,
        });
    }
    if channels < promised {
        return Err(InvalidOutput::TooFewChannels { name, channels, promised });
    }
    Ok(())
}

impl Checked {
    /// A movie of this name and size, which ffprobe has decoded.
    pub(crate) async fn of_movie(path: PathBuf, name: String, size: Size) -> io::Result<Self> {
        let hashed = task::spawn_blocking(move || Digest::of_file(&path).map(|hash| (hash, path)));
        let ((digest, size_bytes), path) = hashed.await.map_err(io::Error::other)??;
        Ok(Self {
            name,
            size,
            channels: 3,
            blob: Blob { digest, size_bytes, content: Content::File(path) },
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Cursor;

    use image::{ImageBuffer, ImageFormat, Rgba, Rgba32FImage, RgbaImage};

    use super::*;

    const SIZE: Size = (40, 30);

    fn encoded(format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        match format {
            ImageFormat::OpenExr => {
                Rgba32FImage::from_fn(40, 30, |x, y| Rgba([x as f32, y as f32, 0.5, 1.0]))
                    .write_to(&mut bytes, format)
            }
            ImageFormat::Hdr => {
                image::Rgb32FImage::from_fn(40, 30, |x, y| image::Rgb([x as f32, y as f32, 0.5]))
                    .write_to(&mut bytes, format)
            }
            ImageFormat::Jpeg => {
                ImageBuffer::from_fn(40, 30, |x, y| image::Rgb([x as u8 * 5, y as u8 * 7, 9]))
                    .write_to(&mut bytes, format)
            }
            _ => RgbaImage::from_fn(40, 30, |x, y| Rgba([x as u8 * 5, y as u8 * 7, 9, 255]))
                .write_to(&mut bytes, format),
        }
        .unwrap();
        bytes.into_inner()
    }

    fn promise(file: &str, (width, height): Size, channels: u32) -> Promise {
        let image = PromisedImage { file: file.into(), width, height, channels };
        Promise { images: vec![image], name: "shot_0001".into(), file_outputs: Vec::new() }
    }

    async fn check_content(
        extension: &str,
        content: Option<&[u8]>,
    ) -> Result<CheckedFrame, InvalidOutput> {
        let folder = tempfile::tempdir().unwrap();
        let file = format!("0001.{extension}");
        if let Some(content) = content {
            fs::write(folder.path().join(&file), content).unwrap();
        }
        check(folder.path().to_owned(), 1, promise(&file, SIZE, 3)).await
    }

    const FORMATS: [ImageFormat; 8] = [
        ImageFormat::Png,
        ImageFormat::Jpeg,
        ImageFormat::OpenExr,
        ImageFormat::Tiff,
        ImageFormat::WebP,
        ImageFormat::Bmp,
        ImageFormat::Tga,
        ImageFormat::Hdr,
    ];

    #[tokio::test]
    async fn a_whole_image_is_accepted_in_every_format() {
        for format in FORMATS {
            let extension = format.extensions_str()[0];
            let content = encoded(format);
            let frame = check_content(extension, Some(&content)).await.unwrap();
            let output = &frame.outputs[0];
            assert_eq!(output.size, SIZE, "{format:?}");
            assert!(output.channels >= 3, "{format:?}");
            assert_eq!(output.blob.digest, Digest::of(&content));
            assert_eq!(output.blob.size_bytes, content.len() as u64);
            assert_eq!(output.name, format!("shot_0001.{extension}"));
            let light = matches!(format, ImageFormat::OpenExr | ImageFormat::Hdr);
            assert_eq!(matches!(frame.small, Some(Small::Linear(_))), light, "{format:?}");
            assert_eq!(matches!(frame.small, Some(Small::Shown(_))), !light, "{format:?}");
        }
    }

    #[tokio::test]
    async fn a_truncated_image_is_refused_in_every_format() {
        for format in FORMATS {
            let content = encoded(format);
            for kept in [content.len() / 4, content.len() / 2, content.len() - 20] {
                let checked =
                    check_content(format.extensions_str()[0], Some(&content[..kept])).await;
                assert!(
                    matches!(checked, Err(InvalidOutput::Undecodable { .. })),
                    "{format:?} cut to {kept} of {}: {checked:?}",
                    content.len(),
                );
            }
        }
    }

    #[tokio::test]
    async fn a_png_whose_very_end_is_missing_is_refused() {
        let content = encoded(ImageFormat::Png);
        let checked = check_content("png", Some(&content[..content.len() - 1])).await;
        assert!(matches!(checked, Err(InvalidOutput::Undecodable { .. })));
    }

    #[tokio::test]
    async fn a_missing_file_is_refused_though_others_are_there() {
        let checked = check_content("png", None).await;
        assert!(matches!(checked, Err(InvalidOutput::Missing(_))));
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("0001_L.png"), encoded(ImageFormat::Png)).unwrap();
        let mut promise = promise("0001_L.png", SIZE, 3);
        promise
            .images
            .push(PromisedImage { file: "0001_R.png".into(), ..promise.images[0].clone() });
        let checked = check(folder.path().to_owned(), 1, promise).await;
        assert!(checked.unwrap_err().to_string().contains("0001_R.png"));
    }

    #[tokio::test]
    async fn an_empty_or_blank_file_is_refused() {
        for content in [&[][..], &[0; 4_096][..]] {
            let checked = check_content("png", Some(content)).await;
            assert!(matches!(checked, Err(InvalidOutput::Undecodable { .. })));
        }
    }

    #[tokio::test]
    async fn an_image_of_another_size_or_without_colour_is_refused() {
        let content = encoded(ImageFormat::Png);
        let checked = check_bytes("0001.png".into(), content.into(), (40, 31));
        let text = checked.unwrap_err().to_string();
        assert!(text.contains("40×30") && text.contains("40×31"), "{text}");
        let mut grey = Cursor::new(Vec::new());
        image::GrayImage::new(40, 30).write_to(&mut grey, ImageFormat::Png).unwrap();
        let checked = check_content("png", Some(grey.get_ref())).await;
        assert!(matches!(checked, Err(InvalidOutput::TooFewChannels { channels: 1, .. })));
    }

    #[tokio::test]
    async fn what_file_output_nodes_wrote_follows_the_frames_image_in_any_size() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("n0")).unwrap();
        fs::write(root.join("0001.png"), encoded(ImageFormat::Png)).unwrap();
        let mut small = Cursor::new(Vec::new());
        image::GrayImage::new(3, 2).write_to(&mut small, ImageFormat::Png).unwrap();
        fs::write(root.join("n0/s0_0001.png"), small.get_ref()).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink("/etc/passwd", root.join("n0/s1_0001.png")).unwrap();
        let output = FileOutput {
            folder: "n0".into(),
            prefix: "s0_".into(),
            base: "//a/".into(),
            node: "File Output".into(),
            path: "mask".into(),
        };
        let promise = Promise { file_outputs: vec![output], ..promise("0001.png", SIZE, 3) };
        let frame = check(root.to_owned(), 1, promise).await.unwrap();
        let names: Vec<_> = frame.outputs.iter().map(|o| o.name.as_str()).collect();
        assert_eq!(names, ["shot_0001.png", "a/mask0001.png"], "and no link is followed");
        assert_eq!((frame.outputs[1].size.0, frame.outputs[1].channels), (3, 1));
        for n in 0..=FILES_MAX {
            fs::write(root.join(format!("n0/{n}.png")), small.get_ref()).unwrap();
        }
        let checked = check(root.to_owned(), 1, Promise::default()).await;
        assert!(matches!(checked, Err(InvalidOutput::TooManyFiles)));
    }
}
