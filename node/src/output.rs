//! A frame is real only when it decodes, has the size the scene promised, is hashed, and stored.

use std::{
    collections::HashMap,
    fs,
    io::{self, BufReader, Cursor},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use framecrew_blobs::{BlobClient, Digest, TransferError};
use framecrew_proto::v1::Output;
use image::{ImageFormat, ImageReader};
use tokio::{
    task,
    time::{self, Instant},
};

/// How long a store that cannot be reached is tried before the slice is handed back: an orchestrator that
/// restarts takes seconds, and while we wait the slot takes no other work.
const STORE_PATIENCE: Duration = Duration::from_secs(60);

/// Pause after the first failed upload; it doubles up to `STORE_PAUSE_MAX`.
const STORE_PAUSE: Duration = Duration::from_millis(200);
const STORE_PAUSE_MAX: Duration = Duration::from_secs(5);

/// How long an upload is remembered: nothing removes a blob from the store so soon after it was put there.
const STORED_FOR: Duration = Duration::from_secs(60);

/// Uploads that are remembered, about 100 bytes each.
const STORED_MAX: usize = 4_096;

/// Bytes that decoding one image may take: 16k by 16k pixels of four floats.
const DECODED_BYTES_MAX: u64 = 4 << 30;

const PNG_END: &[u8] = b"IEND\xae\x42\x60\x82";
const JPEG_END: &[u8] = b"\xff\xd9";
const END_MISSING: &str = "its end is missing";

/// An output that decodes and has the right size.
#[derive(Debug, Clone)]
pub(crate) struct Checked {
    pub(crate) output: Output,
    digest: Digest,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    File(PathBuf),
    Memory(Bytes),
}

/// Why an output is not what the frame promised.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidOutput {
    #[error("the renderer wrote no file")]
    Missing,
    #[error("the output {name} cannot be read: {source}")]
    Unreadable { name: String, source: io::Error },
    #[error("the output {name} is not a whole image: {reason}")]
    Undecodable { name: String, reason: String },
    #[error(
        "the output {name} is {width}×{height} pixels, but the scene promised {promised_width}×{promised_height}"
    )]
    WrongSize { name: String, width: u32, height: u32, promised_width: u32, promised_height: u32 },
}

/// Width and height in pixels.
pub(crate) type Size = (u32, u32);

/// Checks every file in `folder`, which the frame had for itself. Decodes away from the async threads.
pub(crate) async fn check(folder: PathBuf, promised: Size) -> Result<Vec<Checked>, InvalidOutput> {
    let checked = task::spawn_blocking(move || check_folder(&folder, promised)).await;
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
    let reader = ImageReader::new(Cursor::new(&content)).with_guessed_format();
    let decoded =
        reader.map_err(|error| error.to_string()).and_then(|reader| decode(reader, &content));
    accept(
        name,
        decoded,
        promised,
        Digest::of(&content),
        content.len() as u64,
        Content::Memory(content),
    )
}

fn check_folder(folder: &Path, promised: Size) -> Result<Vec<Checked>, InvalidOutput> {
    let unreadable =
        |name: &str, source| InvalidOutput::Unreadable { name: name.to_owned(), source };
    let entries = fs::read_dir(folder).map_err(|e| unreadable("folder", e))?;
    let mut files = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(|e| unreadable("folder", e))?;
    files.sort();
    let checked: Vec<_> = files
        .into_iter()
        .filter(|path| path.is_file())
        .map(|path| check_file(path, promised))
        .collect::<Result<_, _>>()?;
    if checked.is_empty() {
        return Err(InvalidOutput::Missing);
    }
    Ok(checked)
}

fn check_file(path: PathBuf, promised: Size) -> Result<Checked, InvalidOutput> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let unreadable = |source| InvalidOutput::Unreadable { name: name.clone(), source };
    let content = Bytes::from(fs::read(&path).map_err(unreadable)?);
    let mut checked = check_bytes(name, content, promised)?;
    // A frame may be large; only its name waits for the upload.
    checked.content = Content::File(path);
    Ok(checked)
}

fn decode(reader: ImageReader<Cursor<&Bytes>>, content: &Bytes) -> Result<Size, String> {
    match reader.format() {
        None => Err("it is in no known format".into()),
        Some(ImageFormat::OpenExr) => decode_exr(content),
        // Decoders forgive a missing end, some of them missing rows too.
        Some(ImageFormat::Png) if !content.ends_with(PNG_END) => Err(END_MISSING.into()),
        Some(ImageFormat::Jpeg) if !content.ends_with(JPEG_END) => Err(END_MISSING.into()),
        Some(_) => decode_any(reader),
    }
}

fn decode_any(mut reader: ImageReader<Cursor<&Bytes>>) -> Result<Size, String> {
    let mut limits = image::Limits::no_limits();
    limits.max_alloc = Some(DECODED_BYTES_MAX);
    reader.limits(limits);
    let image = reader.decode().map_err(|error| error.to_string())?;
    Ok((image.width(), image.height()))
}

/// Reads every layer and channel, whatever their names.
fn decode_exr(content: &Bytes) -> Result<Size, String> {
    use exr::prelude::{ReadChannels as _, ReadLayers as _};
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
    Ok((
        u32::try_from(size.width()).unwrap_or(u32::MAX),
        u32::try_from(size.height()).unwrap_or(u32::MAX),
    ))
}

fn accept(
    name: String,
    decoded: Result<Size, String>,
    (promised_width, promised_height): Size,
    digest: Digest,
    size_bytes: u64,
    content: Content,
) -> Result<Checked, InvalidOutput> {
    let (width, height) = match decoded {
        Ok(size) => size,
        Err(reason) => return Err(InvalidOutput::Undecodable { name, reason }),
    };
    if (width, height) != (promised_width, promised_height) {
        return Err(InvalidOutput::WrongSize {
            name,
            width,
            height,
            promised_width,
            promised_height,
        });
    }
    Ok(Checked {
        output: Output { name, digest: digest.to_string(), size_bytes, width, height, channels: 0 },
        digest,
        content,
    })
}

/// Puts outputs into the blob store.
#[derive(Debug)]
pub(crate) struct Outbox {
    blobs: BlobClient,
    /// What the store is known to have, and since when.
    stored: Mutex<HashMap<Digest, Instant>>,
}

impl Outbox {
    pub(crate) fn new(blobs: BlobClient) -> Self {
        Self { blobs, stored: Mutex::default() }
    }

    /// Forgets what the store is known to have: it may be another one now.
    pub(crate) fn forget(&self) {
        self.stored().clear();
    }

    /// Stores an output; nothing is sent when it was stored a moment ago. Tries again for a minute while the
    /// store cannot be reached or is full.
    pub(crate) async fn store(&self, checked: &Checked) -> Result<(), TransferError> {
        let begun = Instant::now();
        if self.is_stored(checked.digest, begun) {
            return Ok(());
        }
        let mut pause = STORE_PAUSE;
        while let Err(error) = self.upload(checked).await {
            if !error.is_transient() || begun.elapsed() + pause > STORE_PATIENCE {
                return Err(error);
            }
            time::sleep(pause).await;
            pause = (pause * 2).min(STORE_PAUSE_MAX);
        }
        let mut stored = self.stored();
        if stored.len() >= STORED_MAX {
            stored.clear();
        }
        stored.insert(checked.digest, begun);
        Ok(())
    }

    async fn upload(&self, checked: &Checked) -> Result<(), TransferError> {
        match &checked.content {
            Content::Memory(bytes) => self.blobs.upload_bytes(bytes.clone(), checked.digest).await,
            Content::File(path) => {
                self.blobs
                    .upload_file(path, checked.digest, checked.output.size_bytes, |_| ())
                    .await
            }
        }
    }

    fn is_stored(&self, digest: Digest, now: Instant) -> bool {
        let since = self.stored().get(&digest).copied();
        since.is_some_and(|since| now - since < STORED_FOR)
    }

    fn stored(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Instant>> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use image::{ImageBuffer, Rgba, Rgba32FImage, RgbaImage};

    use super::*;

    const SIZE: Size = (40, 30);

    fn encoded(format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        match format {
            ImageFormat::OpenExr => {
                Rgba32FImage::from_fn(40, 30, |x, y| Rgba([x as f32, y as f32, 0.5, 1.0]))
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

    async fn check_content(content: Option<&[u8]>) -> Result<Vec<Checked>, InvalidOutput> {
        let folder = tempfile::tempdir().unwrap();
        if let Some(content) = content {
            fs::write(folder.path().join("0001.png"), content).unwrap();
        }
        check(folder.path().to_owned(), SIZE).await
    }

    #[tokio::test]
    async fn a_whole_image_is_accepted_in_every_format() {
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::OpenExr, ImageFormat::Tiff]
        {
            let content = encoded(format);
            let checked = check_content(Some(&content)).await.unwrap();
            let output = &checked[0].output;
            assert_eq!((output.width, output.height), SIZE, "{format:?}");
            assert_eq!(output.digest, Digest::of(&content).to_string());
            assert_eq!(output.size_bytes, content.len() as u64);
            assert_eq!(output.name, "0001.png");
        }
    }

    #[tokio::test]
    async fn a_truncated_image_is_refused_in_every_format() {
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::OpenExr, ImageFormat::Tiff]
        {
            let content = encoded(format);
            for kept in [content.len() / 4, content.len() / 2, content.len() - 20] {
                let checked = check_content(Some(&content[..kept])).await;
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
        let checked = check_content(Some(&content[..content.len() - 1])).await;
        assert!(matches!(checked, Err(InvalidOutput::Undecodable { .. })));
    }

    #[tokio::test]
    async fn a_missing_file_is_refused() {
        let checked = check_content(None).await;
        assert!(matches!(checked, Err(InvalidOutput::Missing)));
    }

    #[tokio::test]
    async fn an_empty_or_blank_file_is_refused() {
        for content in [&[][..], &[0; 4_096][..]] {
            let checked = check_content(Some(content)).await;
            assert!(matches!(checked, Err(InvalidOutput::Undecodable { .. })));
        }
    }

    #[tokio::test]
    async fn an_image_of_another_size_is_refused() {
        let content = encoded(ImageFormat::Png);
        let checked = check_bytes("0001.png".into(), content.into(), (40, 31));
        let text = checked.unwrap_err().to_string();
        assert!(text.contains("40×30") && text.contains("40×31"), "{text}");
    }
}
