//! Many frames on one sheet, to see an animation at a glance: drawn from the small pictures that come with them.

use std::{
    collections::BTreeMap,
    io::{self, Cursor, Write as _},
    path::{Path, PathBuf},
};

use framecrew_blobs::Digest;
use framecrew_model::{FrameRange, FrameSet};
use framecrew_proto::v1::{Frame, FrameState};
use futures::{StreamExt as _, stream};
use image::{
    DynamicImage, ImageFormat, ImageReader, Rgb, RgbImage, imageops, imageops::FilterType,
};

use crate::{cluster::Cluster, error::Error, folder::OutputFile, written::Standing};

/// Frames on one sheet, at most: among more nobody finds anything, and the sheet stays below 30 megapixels.
/// Of more, this many are chosen at even distances.
pub const TILES_MAX: usize = 400;
/// Width of one frame on the sheet in pixels.
const CELL_WIDTH: u32 = 240;
/// Least and greatest height of one in pixels, whatever proportions a picture claims to have.
const CELL_HEIGHTS: std::ops::RangeInclusive<u32> = 60..=480;
/// Its height where no frame has a picture: 16:9.
const CELL_HEIGHT: u32 = 135;
/// Pixels between frames and around them.
const GAP: u32 = 6;
/// How much wider than high the sheet is to be, at least: like most screens.
const SHEET_ASPECT: f64 = 1.6;
/// Pictures fetched at a time: they are small, so that it is the way there and back that costs.
const DOWNLOADS_MAX: usize = 8;
/// Largest output that is fetched for want of a preview, in bytes: a PNG of 8K with 16 bits.
const OUTPUT_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Colour between the frames.
const PAPER: Rgb<u8> = Rgb([18, 18, 20]);
/// Colours of frames without a picture: finished, not finished (yet), and failed.
const UNSEEN: Rgb<u8> = Rgb([96, 96, 100]);
const OPEN: Rgb<u8> = Rgb([34, 34, 38]);
const FAILED: Rgb<u8> = Rgb([64, 26, 28]);
/// Colour of frame numbers.
const INK: Rgb<u8> = Rgb([222, 222, 226]);

/// Why there is no contact sheet.
#[derive(Debug, thiserror::Error)]
pub enum SheetError {
    /// The job or its pictures cannot be had.
    #[error(transparent)]
    Cluster(#[from] Error),
    /// A file cannot be written.
    #[error("cannot write {}: {source}; free some space or name another file", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What is on a sheet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContactSheet {
    /// Frames of the job.
    pub frames: usize,
    /// Frames on the sheet; fewer where there are more than [`TILES_MAX`].
    pub shown: usize,
    /// Finished frames on the sheet of which there is no picture to show.
    pub unseen: usize,
}

/// Writes a sheet of the job's finished frames to the PNG `to`. The file appears only when it is complete.
///
/// # Errors
/// When there is no such job, the orchestrator cannot be reached, or the file cannot be written. A frame whose
/// picture is damaged causes no error and counts as unseen.
///
/// [`Error::InTheWay`], before anything is fetched, if a file must not be replaced.
pub async fn make(
    cluster: &Cluster,
    job_id: u64,
    to: &OutputFile,
) -> Result<ContactSheet, SheetError> {
    to.check_free()?;
    let job = cluster.job(job_id).await?;
    let ranges = job.info().spec.iter().flat_map(|spec| &spec.frames);
    let ranges = ranges.map(|range| FrameRange::try_from(*range)).collect::<Result<_, _>>();
    let frames = ranges.and_then(FrameSet::new).map_err(Error::from)?;
    let mut numbers: Vec<i32> = frames.ranges().iter().flat_map(FrameRange::iter).collect();
    numbers.sort_unstable();
    let mut tiles: BTreeMap<i32, Tile> =
        evenly(&numbers, TILES_MAX).map(|number| (number, Tile::Open)).collect();

    let mut seen = Vec::new();
    let mut pages = std::pin::pin!(cluster.frames(job_id));
    while let Some(page) = pages.next().await {
        seen.extend(page?.into_iter().filter(|frame| tiles.contains_key(&frame.frame)));
    }
    let scratch = tempfile::tempdir()
        .map_err(|source| SheetError::Write { path: std::env::temp_dir(), source })?;
    let loads = seen.into_iter().map(|frame| async {
        let number = frame.frame;
        load(cluster, frame, scratch.path()).await.map(|tile| (number, tile))
    });
    let mut loads = stream::iter(loads).buffer_unordered(DOWNLOADS_MAX);
    while let Some(loaded) = loads.next().await {
        let (number, tile) = loaded?;
        tiles.insert(number, tile);
    }
    drop(loads);

    let tiles: Vec<_> = tiles.into_iter().collect();
    let unseen = tiles.iter().filter(|(_, tile)| matches!(tile, Tile::Unseen)).count();
    let made = ContactSheet { frames: numbers.len(), shown: tiles.len(), unseen };
    let (file, by) = (to.clone(), format!("job {job_id} at {}", cluster.url()));
    blocking(move || write(&sheet(&tiles), &file, &by)).await?;
    Ok(made)
}

/// A frame on the sheet.
#[derive(Debug, Clone)]
enum Tile {
    /// As it looks.
    Picture(RgbImage),
    /// Finished, but nothing here can show it.
    Unseen,
    /// Not finished (yet), or cancelled.
    Open,
    /// Given up.
    Failed,
}

/// `max` of the numbers at even distances, the first and the last among them; all where there are no more.
fn evenly(numbers: &[i32], max: usize) -> impl Iterator<Item = i32> {
    let shown = numbers.len().min(max);
    let at = move |index: usize| match shown {
        0 | 1 => 0,
        _ => index * (numbers.len() - 1) / (shown - 1),
    };
    (0..shown).filter_map(move |index| numbers.get(at(index)).copied())
}

/// Gets the picture of a frame: its preview, or else its first output. What is wrong with one picture alone is no
/// error.
async fn load(cluster: &Cluster, frame: Frame, scratch: &Path) -> Result<Tile, Error> {
    match frame.state() {
        FrameState::Finished => {}
        FrameState::Failed => return Ok(Tile::Failed),
        _ => return Ok(Tile::Open),
    }
    let preview = frame.preview.unwrap_or_default();
    if !preview.data.is_empty() {
        return Ok(blocking(move || decode(&preview.data)).await);
    }
    let output = frame.outputs.into_iter().next().unwrap_or_default();
    let (digest, size_bytes) = match preview.digest.is_empty() {
        false => (preview.digest, preview.size_bytes),
        true => (output.digest, output.size_bytes),
    };
    let Some(digest) = digest.parse::<Digest>().ok().filter(|_| size_bytes <= OUTPUT_BYTES_MAX)
    else {
        return Ok(Tile::Unseen);
    };
    let file = scratch.join(frame.frame.to_string());
    match cluster.blobs().download_file(digest, size_bytes, &file, |_| {}).await {
        Ok(()) => {}
        Err(error) if error.is_transient() => {
            return Err(Error::from_transfer(cluster.url(), error));
        }
        Err(error) => {
            tracing::debug!(frame = frame.frame, %error, "the picture cannot be had");
            return Ok(Tile::Unseen);
        }
    }
    Ok(blocking(move || {
        let tile = std::fs::read(&file).map_or(Tile::Unseen, |bytes| decode(&bytes));
        // The folder goes in the end; this one only keeps it small.
        let _ = std::fs::remove_file(&file);
        tile
    })
    .await)
}

/// The picture in a file, small. OpenEXR has none without the scene's view transform.
fn decode(bytes: &[u8]) -> Tile {
    let Ok(reader) = ImageReader::new(Cursor::new(bytes)).with_guessed_format() else {
        return Tile::Unseen;
    };
    if matches!(reader.format(), None | Some(ImageFormat::OpenExr)) {
        return Tile::Unseen;
    }
    match reader.decode() {
        Ok(image) => Tile::Picture(small(image)),
        Err(error) => {
            tracing::debug!(%error, "the picture cannot be read");
            Tile::Unseen
        }
    }
}

fn small(image: DynamicImage) -> RgbImage {
    let height_max = *CELL_HEIGHTS.end();
    if image.width() <= CELL_WIDTH && image.height() <= height_max {
        return image.into_rgb8();
    }
    image.resize(CELL_WIDTH, height_max, FilterType::Triangle).into_rgb8()
}

/// Lays the frames out in rows, all in cells of the first picture's proportions.
fn sheet(tiles: &[(i32, Tile)]) -> RgbImage {
    let picture = tiles.iter().find_map(|(_, tile)| match tile {
        Tile::Picture(picture) => Some(picture),
        _ => None,
    });
    let height = picture.map_or(CELL_HEIGHT, |picture| {
        let (width, height) = picture.dimensions();
        CELL_WIDTH.saturating_mul(height) / width.max(1)
    });
    let height = height.clamp(*CELL_HEIGHTS.start(), *CELL_HEIGHTS.end());
    let count = u32::try_from(tiles.len()).unwrap_or(u32::MAX).max(1);
    let columns = f64::from(count) * SHEET_ASPECT * f64::from(height) / f64::from(CELL_WIDTH);
    let columns = (columns.sqrt().ceil() as u32).clamp(1, count);
    let rows = count.div_ceil(columns);
    let (across, down) = (CELL_WIDTH + GAP, height + GAP);
    let mut sheet = RgbImage::from_pixel(columns * across + GAP, rows * down + GAP, PAPER);
    for (index, (number, tile)) in (0_u32..).zip(tiles) {
        let at = (GAP + index % columns * across, GAP + index / columns * down);
        draw(&mut sheet, at, height, tile);
        label(&mut sheet, (at.0, at.1 + height), *number);
    }
    sheet
}

/// Fills the cell whose upper left corner is `at`.
fn draw(sheet: &mut RgbImage, at: (u32, u32), height: u32, tile: &Tile) {
    let color = match tile {
        Tile::Picture(_) => PAPER,
        Tile::Unseen => UNSEEN,
        Tile::Open => OPEN,
        Tile::Failed => FAILED,
    };
    fill(sheet, at, (CELL_WIDTH, height), color);
    if let Tile::Picture(picture) = tile {
        let fitted = DynamicImage::ImageRgb8(picture.clone());
        let fitted = fitted.resize(CELL_WIDTH, height, FilterType::Triangle).into_rgb8();
        let x = at.0 + (CELL_WIDTH - fitted.width()) / 2;
        let y = at.1 + (height - fitted.height()) / 2;
        imageops::replace(sheet, &fitted, x.into(), y.into());
    }
}

/// Digits and the minus, each as five rows of three pixels.
const GLYPHS: [[u8; 5]; 11] = [
    [7, 5, 5, 5, 7],
    [2, 6, 2, 2, 7],
    [7, 1, 7, 4, 7],
    [7, 1, 7, 1, 7],
    [5, 5, 7, 1, 1],
    [7, 4, 7, 1, 7],
    [7, 4, 7, 5, 7],
    [7, 1, 1, 1, 1],
    [7, 5, 7, 5, 7],
    [7, 5, 7, 1, 7],
    [0, 0, 7, 0, 0],
];
/// Side of a glyph's pixel on the sheet, in pixels.
const DOT: u32 = 2;

/// Writes a frame's number into the lower left corner of its cell, which is `at`.
fn label(sheet: &mut RgbImage, at: (u32, u32), number: i32) {
    let text = number.to_string();
    let glyphs = text.bytes().filter_map(|byte| match byte {
        b'-' => GLYPHS.last(),
        digit => GLYPHS.get(usize::from(digit.wrapping_sub(b'0'))),
    });
    let count = u32::try_from(text.len()).unwrap_or(0);
    let (width, height) = ((count * 4 + 1) * DOT, 7 * DOT);
    let at = (at.0, at.1 - height);
    fill(sheet, at, (width, height), PAPER);
    for (index, rows) in (0_u32..).zip(glyphs) {
        for (row, bits) in (0_u32..).zip(rows) {
            for column in (0..3).filter(|column| bits & (4 >> column) != 0) {
                let dot = (at.0 + (index * 4 + 1 + column) * DOT, at.1 + (row + 1) * DOT);
                fill(sheet, dot, (DOT, DOT), INK);
            }
        }
    }
}

fn fill(sheet: &mut RgbImage, at: (u32, u32), size: (u32, u32), color: Rgb<u8>) {
    for (x, y) in (at.1..at.1 + size.1).flat_map(|y| (at.0..at.0 + size.0).map(move |x| (x, y))) {
        if let Some(pixel) = sheet.get_pixel_mut_checked(x, y) {
            *pixel = color;
        }
    }
}

/// Writes the sheet beside its name first, so that what bears the name is whole.
fn write(sheet: &RgbImage, to: &OutputFile, by: &str) -> Result<(), SheetError> {
    let mut png = Cursor::new(Vec::new());
    let encoded = sheet.write_to(&mut png, ImageFormat::Png).map_err(io::Error::other);
    let unwritable = |source| SheetError::Write { path: to.path().into(), source };
    encoded.map_err(unwritable)?;
    let digest = Digest::of(png.get_ref());
    if to.make_way(digest)? == Standing::Same {
        to.mark_kept(digest, by);
        return Ok(());
    }
    let mark = |part: &Path| to.mark(part, digest, by);
    if let Some(mark) = write_whole(png.get_ref(), to.path(), mark).map_err(unwritable)? {
        to.note(mark);
    }
    Ok(())
}

/// Calls `before` with the path of the complete file before it gets its name, and returns its result.
fn write_whole<T>(bytes: &[u8], to: &Path, before: impl FnOnce(&Path) -> T) -> io::Result<T> {
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut builder = tempfile::Builder::new();
    builder.prefix(".").suffix(".part");
    // Like any other file of the user's; temporary ones are for their maker alone.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder.unwrap_or(Path::new(".")))?;
    file.write_all(bytes)?;
    let done = before(file.path());
    file.as_file().sync_all()?;
    file.persist(to)?;
    Ok(done)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn picture(red: u8) -> Tile {
        Tile::Picture(RgbImage::from_pixel(320, 180, Rgb([red, 0, 0])))
    }

    /// The middle of a cell of 240 by 135 pixels.
    fn centre(sheet: &RgbImage, column: u32, row: u32) -> Rgb<u8> {
        *sheet.get_pixel(6 + column * 246 + 120, 6 + row * 141 + 60)
    }

    #[test]
    fn frames_stand_in_rows_in_their_order() {
        let tiles: Vec<_> = (0..8).map(|n| (i32::from(n), picture(n * 30))).collect();
        let sheet = sheet(&tiles);
        assert_eq!(sheet.dimensions(), (3 * 246 + 6, 3 * 141 + 6));
        let red = |column, row| centre(&sheet, column, row)[0];
        assert_eq!([red(0, 0), red(1, 0), red(2, 0)], [0, 30, 60]);
        assert_eq!([red(0, 1), red(1, 2)], [90, 210]);
        assert_eq!(centre(&sheet, 2, 2), PAPER);
    }

    #[test]
    fn frames_without_a_picture_say_why() {
        let tiles = [(-1, picture(200)), (0, Tile::Unseen), (1, Tile::Open), (2, Tile::Failed)];
        let sheet = sheet(&tiles);
        let colors = [(0, 0), (1, 0), (0, 1), (1, 1)].map(|(x, y)| centre(&sheet, x, y));
        assert_eq!(colors, [Rgb([200, 0, 0]), UNSEEN, OPEN, FAILED]);
    }

    #[test]
    fn numbers_are_written_on_the_frames() {
        let mut sheet = RgbImage::from_pixel(30, 20, OPEN);
        label(&mut sheet, (0, 20), -17);
        let rows = (6..20).step_by(2).map(|y| {
            let ink = |x| if *sheet.get_pixel(x, y) == INK { '#' } else { '.' };
            (0..26).step_by(2).map(ink).collect::<String>()
        });
        let rows: Vec<_> = rows.collect();
        let expected = [
            ".............",
            "......#..###.",
            ".....##....#.",
            ".###..#....#.",
            "......#....#.",
            ".....###...#.",
            ".............",
        ];
        assert_eq!(rows, expected);
        label(&mut sheet, (0, 20), i32::MIN);
    }

    #[test]
    fn one_frame_or_none_with_a_picture_makes_a_sheet_too() {
        assert_eq!(sheet(&[(1, picture(1))]).dimensions(), (252, 147));
        assert_eq!(sheet(&[(1, Tile::Open)]).dimensions(), (252, 147));
        sheet(&[]);
    }

    #[test]
    fn no_proportions_of_a_picture_make_the_sheet_huge() {
        for (width, height) in [(1, 256), (256, 1)] {
            let tile = Tile::Picture(small(RgbImage::new(width, height).into()));
            assert!(sheet(&[(1, tile)]).height() <= 492);
        }
    }

    #[test]
    fn of_many_frames_some_are_chosen_at_even_distances() {
        let numbers: Vec<i32> = (1..=1_000).collect();
        let chosen: Vec<_> = evenly(&numbers, 10).collect();
        assert_eq!(chosen, [1, 112, 223, 334, 445, 556, 667, 778, 889, 1000]);
        assert_eq!(evenly(&numbers[..7], 10).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(evenly(&[], 10).count(), 0);
        assert_eq!(evenly(&numbers, 1).count(), 1);
    }

    #[test]
    fn what_is_no_picture_is_unseen() {
        assert!(matches!(
            decode(b"\x76\x2f\x31\x01 an EXR, as far as anyone can tell"),
            Tile::Unseen
        ));
        assert!(matches!(decode(b"\x89PNG\r\n\x1a\n but no more"), Tile::Unseen));
        assert!(matches!(decode(b""), Tile::Unseen));
    }

    #[test]
    fn a_sheet_only_replaces_another_sheet() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sheet.png");
        let to = OutputFile::open(&path).unwrap();
        for width in [2, 3] {
            write(&RgbImage::new(width, 2), &to, "job 7").unwrap();
            assert_eq!(image::open(&path).unwrap().width(), width);
        }
        let files = std::fs::read_dir(folder.path()).unwrap().map(|it| it.unwrap().file_name());
        let visible = files.filter(|name| !name.to_string_lossy().starts_with('.'));
        assert_eq!(visible.count(), 1);

        std::fs::write(&path, b"a person's").unwrap();
        let refused = write(&RgbImage::new(4, 2), &to, "job 7").unwrap_err();
        assert!(refused.to_string().contains("--overwrite"), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), b"a person's");
        write(&RgbImage::new(4, 2), &to.overwriting(true), "job 7").unwrap();
        assert_eq!(image::open(&path).unwrap().width(), 4);
    }
}
