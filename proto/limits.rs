//! The numbers that the protocol states, each once. A message beyond one of them is refused with INVALID_ARGUMENT.

use std::ops::RangeInclusive;

pub use framecrew_model::FRAMES_MAX;

/// Characters in a job's name.
pub const JOB_NAME_CHARS: RangeInclusive<usize> = 1..=200;
/// Characters in a request's number, by which a repeated submission is known.
pub const REQUEST_ID_CHARS: RangeInclusive<usize> = 1..=64;
/// Priorities of jobs.
pub const PRIORITIES: RangeInclusive<i32> = -100..=100;
/// Files of a project, the .blend included.
pub const FILES_MAX: usize = 100_000;
/// Chunks that a file is sent in.
pub const CHUNKS_MAX: usize = 65_536;
/// Add-ons that a job sends.
pub const ADDONS_MAX: usize = 16;
/// Samples a pixel.
pub const SAMPLES: RangeInclusive<u32> = 1..=1_000_000;
/// Percent of the file's resolution.
pub const SCALE_PERCENT: RangeInclusive<u32> = 1..=1_000;

/// Seconds of `TimeLimits.node_silence_seconds`: from the lease of a node to a day.
pub const NODE_SILENCE_SECONDS: RangeInclusive<u32> = 15..=86_400;
/// Seconds of `TimeLimits.frame_silence_seconds`: from what a renderer may need between two lines to a day.
pub const FRAME_SILENCE_SECONDS: RangeInclusive<u32> = 10..=86_400;
/// Seconds of `TimeLimits.frame_seconds`: up to thirty days.
pub const FRAME_SECONDS: RangeInclusive<u32> = 1..=2_592_000;

/// Slices in one batch.
pub const SLICES_MAX: usize = 1_024;
/// Frames in one request for adoption.
pub const ORPHANS_MAX: usize = 512;
/// Slices that a node renders at a time.
pub const SLOTS: RangeInclusive<u32> = 1..=64;

/// Digests in one question for missing blobs.
pub const DIGESTS_MAX: usize = 10_000;
/// Bytes of one chunk of an upload.
pub const UPLOAD_CHUNK_BYTES_MAX: usize = 1 << 20;
/// Bytes of one chunk of a download.
pub const DOWNLOAD_CHUNK_BYTES_MAX: usize = 256 << 10;

/// Jobs or frames in one page of a listing.
pub const PAGE_MAX: u32 = 1_000;
/// Bytes of a preview.
pub const PREVIEW_BYTES_MAX: usize = 32_768;
/// Pixels of a preview's longer side.
pub const PREVIEW_PIXELS_MAX: u32 = 256;
/// Bytes of a line of a renderer's output.
pub const LINE_BYTES_MAX: usize = 2_000;
/// Lines of a renderer's output that a failure carries.
pub const LOG_TAIL_MAX: usize = 20;
/// Bytes of a warning.
pub const WARNING_BYTES_MAX: usize = 500;
