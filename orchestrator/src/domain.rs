//! The words the orchestrator thinks in. Parsed once at the edge (`convert`), so that what is wrong cannot
//! be said here: a `FrameSet` is never empty, a `FrameRange` never reversed.

use std::{fmt, sync::Arc, time::Duration};

use framecrew_blobs::Digest;
use serde::{Deserialize, Serialize};

/// Time since the orchestrator started, by its monotonic clock. The scheduler knows no other.
pub type Now = Duration;

/// A job's number, from 1; rises, never reused in one store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct JobId(pub u64);

/// A batch's number: the epoch in the upper 32 bits, a counter in the lower. Rises strictly, also across
/// restarts, and is never reused: an event that names an ended batch is ignored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct BatchId(pub u64);

/// One life of the orchestrator's process on its store; rises with each start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Epoch(pub u32);

/// One life of a node's process; rises with each of its starts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

/// A node's name. Cheap to clone.
pub type NodeName = Arc<str>;

/// Position in a job's stream of durable changes.
pub type Revision = u64;

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        framecrew_proto::BatchName(self.0).fmt(f)
    }
}

impl BatchId {
    /// The first batch of an epoch.
    #[must_use]
    pub fn first(epoch: Epoch) -> Self {
        Self(u64::from(epoch.0) << 32 | 1)
    }

    /// The batch after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A part of a frame's work. Today every frame has one, with index 0: the whole frame.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Slice {
    /// The frame's number.
    pub frame: i32,
    /// Which of the frame's slices.
    pub index: u32,
}

impl Slice {
    /// The slice that covers a whole frame.
    #[must_use]
    pub fn whole(frame: i32) -> Self {
        Self { frame, index: 0 }
    }
}

/// Frames from `first` to `last`, both included, every `step`-th; `first <= last`, `step >= 1`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FrameRange {
    /// First frame.
    pub first: i32,
    /// Upper bound of the frames, included.
    pub last: i32,
    /// Distance between frames.
    pub step: u32,
}

impl FrameRange {
    /// Number of frames, 1 or more.
    #[must_use]
    pub fn len(&self) -> u64 {
        (i64::from(self.last) - i64::from(self.first)) as u64 / u64::from(self.step) + 1
    }

    /// Always false; there for the sake of `len`.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The frames, rising.
    pub fn iter(&self) -> impl Iterator<Item = i32> + use<> {
        let (first, step) = (i64::from(self.first), i64::from(self.step));
        (0..self.len() as i64).map(move |n| (first + n * step) as i32)
    }

    fn nth(&self, n: u64) -> i32 {
        (i64::from(self.first) + n as i64 * i64::from(self.step)) as i32
    }
}

/// The frames of a job in the order they are to be rendered: at least one, none twice.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FrameSet {
    ranges: Vec<FrameRange>,
    /// Whether each frame depends on those before it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    in_order: bool,
}

impl FrameSet {
    /// Frames in one job. Bounds the scheduler's memory (a byte a frame) and every page of it.
    pub const FRAMES_MAX: u64 = 1_000_000;

    /// A set of these ranges; `None` when it would be empty, above [`Self::FRAMES_MAX`], or a frame stands
    /// in it twice.
    #[must_use]
    pub fn new(ranges: Vec<FrameRange>) -> Option<Self> {
        let len: u64 = ranges.iter().map(FrameRange::len).sum();
        if len == 0 || len > Self::FRAMES_MAX {
            return None;
        }
        let set = Self { ranges, in_order: false };
        let mut frames: Vec<i32> = set.iter().collect();
        frames.sort_unstable();
        frames.windows(2).all(|pair| pair[0] < pair[1]).then_some(set)
    }

    /// A set of one frame.
    #[must_use]
    pub fn one(frame: i32) -> Self {
        Self { ranges: vec![FrameRange { first: frame, last: frame, step: 1 }], in_order: false }
    }

    /// Returns the same frames in ascending order, for one node at a time, because each depends on those before
    /// it. It visits every frame unless the ranges are already in order.
    #[must_use]
    pub fn in_order(self) -> Self {
        let rise = self.ranges.windows(2).all(|pair| {
            let last =
                i64::from(pair[0].first) + (pair[0].len() as i64 - 1) * i64::from(pair[0].step);
            last < i64::from(pair[1].first)
        });
        if rise {
            return Self { in_order: true, ..self };
        }
        let mut frames: Vec<i32> = self.iter().collect();
        frames.sort_unstable();
        let mut ranges: Vec<FrameRange> = Vec::new();
        for frame in frames {
            let Some(range) = ranges.last_mut() else {
                ranges.push(FrameRange { first: frame, last: frame, step: 1 });
                continue;
            };
            let distance = frame.abs_diff(range.last);
            if range.first == range.last || distance == range.step {
                (range.last, range.step) = (frame, distance);
            } else {
                ranges.push(FrameRange { first: frame, last: frame, step: 1 });
            }
        }
        Self { ranges, in_order: true }
    }

    /// Whether one node at a time draws the frames, in ascending order.
    #[must_use]
    pub fn is_in_order(&self) -> bool {
        self.in_order
    }

    /// Returns the range from the first to the last frame of an ascending set, with its step if the set is a
    /// single range.
    #[must_use]
    pub fn span(&self) -> FrameRange {
        let (first, last) = (self.ranges[0], self.ranges[self.ranges.len() - 1]);
        let step = if self.ranges.len() == 1 { first.step } else { 1 };
        FrameRange { first: first.first, last: last.last, step }
    }

    /// Number of frames.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.ranges.iter().map(FrameRange::len).sum()
    }

    /// Always false; there for the sake of `len`.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The ranges, in order.
    #[must_use]
    pub fn ranges(&self) -> &[FrameRange] {
        &self.ranges
    }

    /// The frames, in order.
    pub fn iter(&self) -> impl Iterator<Item = i32> {
        self.ranges.iter().flat_map(FrameRange::iter)
    }

    /// Up to `limit` frames above `after`, by number. Costs a look at every range.
    #[must_use]
    pub fn above(&self, after: i64, limit: usize) -> Vec<i32> {
        let mut frames: Vec<i32> = self
            .ranges
            .iter()
            .flat_map(|range| {
                let behind = (after - i64::from(range.first)).div_euclid(i64::from(range.step)) + 1;
                let skipped = u64::try_from(behind).unwrap_or(0);
                (skipped..range.len()).map(|n| range.nth(n)).take(limit)
            })
            .collect();
        frames.sort_unstable();
        frames.truncate(limit);
        frames
    }

    /// Whether a frame is among them.
    #[must_use]
    pub fn contains(&self, frame: i32) -> bool {
        self.above(i64::from(frame) - 1, 1).first() == Some(&frame)
    }

    /// A cursor that walks the frames in order, a step at a time at constant cost.
    #[must_use]
    pub fn cursor(&self) -> FrameCursor {
        FrameCursor::default()
    }
}

/// A place in a [`FrameSet`].
#[derive(Clone, Copy, Debug, Default)]
pub struct FrameCursor {
    range: usize,
    within: u64,
}

impl FrameCursor {
    /// Whether it has yet to come to a frame. Costs a look at every range.
    #[must_use]
    pub fn is_before(&self, set: &FrameSet, frame: i32) -> bool {
        let place = |range: &FrameRange| {
            let behind = u64::try_from(i64::from(frame) - i64::from(range.first)).ok()?;
            let step = u64::from(range.step);
            (behind % step == 0 && behind / step < range.len()).then_some(behind / step)
        };
        set.ranges.iter().enumerate().skip(self.range).any(|(number, range)| {
            let within = if number == self.range { self.within } else { 0 };
            place(range).is_some_and(|place| place >= within)
        })
    }

    /// The frame here; the cursor moves on. `None` at the end.
    pub fn next(&mut self, set: &FrameSet) -> Option<i32> {
        let range = set.ranges.get(self.range)?;
        let frame = range.nth(self.within);
        self.within += 1;
        if self.within == range.len() {
            *self = Self { range: self.range + 1, within: 0 };
        }
        Some(frame)
    }
}

/// What a person submitted, checked.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct JobSpec {
    /// For people.
    pub name: String,
    /// The .blend and all it needs.
    pub project: Project,
    /// What to render.
    pub frames: FrameSet,
    /// What to override.
    pub settings: RenderSettings,
    /// -100 to 100; higher goes first.
    pub priority: i32,
    /// Tags a node must bear.
    pub tags: Vec<String>,
    /// Whether a warning fails the frame.
    #[serde(default)]
    pub strict: bool,
    /// The movie to make of its frames: a `MovieFormat` of the protocol. With [`Self::movie_of`], the movie
    /// that this job is.
    #[serde(default)]
    pub movie: Option<i32>,
    /// Set in a job that draws nothing but makes a movie of another one's frames.
    #[serde(default)]
    pub movie_of: Option<MovieOf>,
    /// How long things may take.
    #[serde(default)]
    pub limits: TimeLimits,
}

/// How long things may take before they are given up, in seconds; `None`: the default.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TimeLimits {
    /// Without a word between node and orchestrator; never shorter than a lease.
    pub node_silence_seconds: Option<u32>,
    /// Without a word from the renderer.
    pub frame_silence_seconds: Option<u32>,
    /// One try at a frame in all.
    pub frame_seconds: Option<u32>,
}

impl TimeLimits {
    /// What it asks of a silent node; zero: nothing beyond the lease.
    #[must_use]
    pub fn node_silence(&self) -> Duration {
        Duration::from_secs(self.node_silence_seconds.unwrap_or(0).into())
    }
}

/// What a movie is made of. Its images are in the project, in [`Self::FOLDER`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MovieOf {
    /// The job that rendered the frames.
    pub job: JobId,
    /// The frames.
    pub frames: FrameSet,
}

impl MovieOf {
    /// Folder of the project that holds the images, named so that their order is the frames'.
    pub const FOLDER: &str = "framecrew-frames";
}

/// A .blend and the files it needs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Project {
    /// Which of `files` to open.
    pub blend_path: String,
    /// All of them.
    pub files: Vec<ProjectFile>,
}

/// One file of a project.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProjectFile {
    /// Relative path, `/` between its parts, no `..`.
    pub path: String,
    /// Its content.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Its pieces, in order; none: it is one blob.
    #[serde(default)]
    pub chunks: Vec<Chunk>,
}

/// A piece of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Chunk {
    /// Its content.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
}

impl ProjectFile {
    /// The blobs that hold it, in order, with their sizes in bytes.
    pub fn blobs(&self) -> impl Iterator<Item = (Digest, u64)> {
        let whole = self.chunks.is_empty().then_some((self.digest, self.size_bytes));
        whole.into_iter().chain(self.chunks.iter().map(|chunk| (chunk.digest, chunk.size_bytes)))
    }
}

/// Overrides of the file's render settings. The orchestrator only carries them: numbers of enums are those
/// of the protocol.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct RenderSettings {
    /// Scene, or empty.
    pub scene: String,
    /// Camera, or empty.
    pub camera: String,
    /// `RenderEngine`.
    pub engine: i32,
    /// Samples per pixel.
    pub samples: Option<u32>,
    /// Resolution percentage.
    pub scale_percent: Option<u32>,
    /// `ImageFormat`.
    pub format: i32,
    /// Whether to denoise.
    pub denoise: Option<bool>,
    /// Version wanted.
    pub blender: Option<BlenderVersion>,
    /// View layer, or empty.
    #[serde(default)]
    pub view_layer: String,
    /// Bits of a channel.
    #[serde(default)]
    pub color_depth: Option<u32>,
    /// Whether the file's Python runs.
    #[serde(default)]
    pub run_scripts: bool,
    /// Path of the colour configuration in the project; empty for Blender's own.
    #[serde(default)]
    pub color_config: String,
    /// Paths of the add-ons in the project.
    #[serde(default)]
    pub addons: Vec<String>,
    /// Whether each frame gets a Blender of its own. Frames drawn in order share one.
    #[serde(default)]
    pub cold: bool,
    /// Whether one node at a time draws the frames, in ascending order.
    #[serde(default)]
    pub in_order: bool,
}

impl RenderSettings {
    /// Whether the job brings Python that only nodes with `--allow-scripts` may run.
    #[must_use]
    pub fn needs_scripts(&self) -> bool {
        self.run_scripts || !self.addons.is_empty()
    }
}

/// A version of Blender: of a file (two numbers), wanted (two or three), or installed (three).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct BlenderVersion {
    /// As in 4 of 4.5.15.
    pub major: u16,
    /// As in 5 of 4.5.15.
    pub minor: u16,
    /// As in 15 of 4.5.15.
    pub patch: Option<u16>,
}

impl BlenderVersion {
    /// Whether a file saved by `file` opens here: not older, patch levels aside.
    #[must_use]
    pub fn opens(&self, file: Self) -> bool {
        (self.major, self.minor) >= (file.major, file.minor)
    }

    /// Whether this Blender can read a file saved by `file` at all. Blender 5.0 changed the file format, and 4.5
    /// was made to read it.
    #[must_use]
    pub fn reads(&self, file: Self) -> bool {
        file.major < 5 || (self.major, self.minor) >= (4, 5)
    }

    /// Whether this is the version `wanted`: equal as far as that one says.
    #[must_use]
    pub fn is(&self, wanted: Self) -> bool {
        (self.major, self.minor) == (wanted.major, wanted.minor)
            && (wanted.patch.is_none() || wanted.patch == self.patch)
    }
}

impl fmt::Display for BlenderVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        match self.patch {
            Some(patch) => write!(f, ".{patch}"),
            None => Ok(()),
        }
    }
}

impl std::str::FromStr for BlenderVersion {
    type Err = std::num::ParseIntError;

    /// Reads `4.5`, `4.5.15`, and what Blender appends to it (`4.5.15 LTS`).
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = text.split_whitespace().next().unwrap_or_default();
        let mut parts = number.splitn(3, '.');
        let mut part = || parts.next().map(str::parse);
        Ok(Self {
            major: part().unwrap_or_else(|| "".parse())?,
            minor: part().unwrap_or_else(|| "".parse())?,
            patch: part().transpose()?,
        })
    }
}

/// What a job asks of a node.
#[derive(Clone, PartialEq, Debug)]
pub struct Requirements {
    /// Version of the Blender that saved the file. An older one may lose some of it, so it draws the file only if
    /// requested.
    pub file_version: BlenderVersion,
    /// Version asked for.
    pub blender: Option<BlenderVersion>,
    /// Tags a node must bear.
    pub tags: Vec<String>,
    /// Whether it makes a movie.
    pub ffmpeg: bool,
    /// Whether the file's Python runs.
    pub run_scripts: bool,
}

impl Requirements {
    /// Those of a file by itself.
    #[must_use]
    pub fn of_file(file_version: BlenderVersion) -> Self {
        Self { file_version, blender: None, tags: Vec::new(), ffmpeg: false, run_scripts: false }
    }
}

impl fmt::Display for Requirements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.blender {
            Some(wanted) => write!(f, "Blender {wanted}")?,
            None => write!(f, "Blender {} or newer", self.file_version)?,
        }
        if !self.tags.is_empty() {
            write!(f, " and the tags {}", self.tags.join(", "))?;
        }
        if self.ffmpeg {
            f.write_str(" and ffmpeg")?;
        }
        if self.run_scripts {
            f.write_str(" and leave to run scripts (--allow-scripts)")?;
        }
        Ok(())
    }
}

/// What a node is and has.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct NodeDescription {
    /// Operating system and architecture.
    pub platform: String,
    /// Logical processors.
    pub cores: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Slices it renders at a time, 1 or more.
    pub slots: u32,
    /// Blenders it has.
    pub blenders: Vec<Blender>,
    /// Tags it bears.
    pub tags: Vec<String>,
    /// Version of its program.
    pub version: String,
    /// Version of its ffmpeg, or empty.
    #[serde(default)]
    pub ffmpeg: String,
    /// Whether it runs a file's Python.
    #[serde(default)]
    pub allows_scripts: bool,
    /// Whether the operating system keeps renderers to their folders.
    #[serde(default)]
    pub confines: bool,
}

/// A Blender on a node.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Blender {
    /// Its version; `None` for the synthetic renderer, which draws any file.
    pub version: Option<BlenderVersion>,
    /// `BlenderKind` of the protocol.
    pub kind: i32,
    /// Where it is on the node.
    pub path: String,
    /// Why it does not start; empty if it starts.
    #[serde(default)]
    pub unusable: String,
}

impl NodeDescription {
    /// Whether the node can render such a job.
    #[must_use]
    pub fn meets(&self, requirements: &Requirements) -> bool {
        self.takes(requirements)
            && self.blenders.iter().any(|have| have.is_usable() && have.draws(requirements))
    }

    /// Whether the node may still turn out to have a Blender for such a job: it is still looking for them, one is
    /// slow, or one does not start now. The node tries the last two again.
    #[must_use]
    pub fn may_come_to_meet(&self, requirements: &Requirements) -> bool {
        let is_open = |have: &Blender| !have.is_usable() && have.draws(requirements);
        // A node that is still looking does not know its ffmpeg yet either.
        let is_looking = self.blenders.is_empty();
        let ffmpeg = requirements.ffmpeg && !is_looking;
        let known = Requirements { ffmpeg, ..requirements.clone() };
        self.takes(&known) && (is_looking || self.blenders.iter().any(is_open))
    }

    /// Returns why the Blender for such a job does not start on this node; `None` if no suitable one fails.
    #[must_use]
    pub fn why_unable(&self, requirements: &Requirements) -> Option<String> {
        let mut failing = self.blenders.iter().filter(|have| !have.is_usable());
        let failing = failing.find(|have| have.draws(requirements))?;
        self.takes(requirements).then(|| failing.failure())
    }

    /// Whether the node accepts such a job, regardless of its Blenders.
    fn takes(&self, requirements: &Requirements) -> bool {
        let Requirements { tags, ffmpeg, run_scripts, .. } = requirements;
        tags.iter().all(|tag| self.tags.contains(tag))
            && (!ffmpeg || !self.ffmpeg.is_empty())
            && (!run_scripts || self.allows_scripts)
    }
}

impl Blender {
    /// Whether it starts, as far as the node knows.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.unusable.is_empty()
    }

    /// Whether it may draw such a job. A Blender of unknown version counts as one that may.
    fn draws(&self, requirements: &Requirements) -> bool {
        let Requirements { file_version, blender, .. } = requirements;
        self.version.is_none_or(|version| match blender {
            // If requested, it may be older than the file.
            Some(wanted) => version.is(*wanted) && version.reads(*file_version),
            None => version.opens(*file_version),
        })
    }

    /// Describes why it cannot draw.
    fn failure(&self) -> String {
        match self.version {
            Some(version) => format!("Blender {version} does not start: {}", self.unusable),
            None => self.unusable.clone(),
        }
    }
}

/// A file that a slice produced.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Output {
    /// File name.
    pub name: String,
    /// Its content.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// Over all layers; 0: not an image.
    #[serde(default)]
    pub channels: u32,
}

/// A small picture of a frame.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Preview {
    /// The JPEG, as a blob.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// The JPEG itself, while it is fresh; never stored in the database.
    #[serde(skip)]
    pub data: bytes::Bytes,
}

/// Something a person should know about a job's frames.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Warning {
    /// `WarningKind` of the protocol.
    pub kind: i32,
    /// One sentence.
    pub text: String,
}

/// What rendering a slice came to.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Rendered {
    /// At least one.
    pub outputs: Vec<Output>,
    /// Seconds in the renderer.
    pub render_seconds: f64,
    /// Peak memory of the renderer in bytes; 0: unknown.
    pub peak_memory_bytes: u64,
    /// A small picture, where one could be made.
    pub preview: Option<Preview>,
}

impl Rendered {
    /// The blobs that hold its outputs, in order, with their sizes in bytes.
    pub fn blobs(&self) -> impl Iterator<Item = (Digest, u64)> {
        self.outputs.iter().map(|output| (output.digest, output.size_bytes))
    }
}

/// Why a try failed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// What kind it was: decides what happens next.
    pub reason: FailureReason,
    /// One sentence.
    pub message: String,
    /// Last lines of the renderer.
    pub log_tail: Vec<String>,
}

/// Kinds of failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FailureReason {
    /// Blender crashed, reported an error, or drew nothing.
    Renderer,
    /// The output is missing, does not decode or has the wrong size.
    InvalidOutput,
    /// The renderer went silent.
    Timeout,
    /// Out of memory.
    OutOfMemory,
    /// The node was lost under it.
    NodeLost,
    /// Something around the renderer failed.
    Infrastructure,
    /// No try can succeed.
    Permanent,
}

/// Where a job stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum JobState {
    /// No frame was given to a node yet.
    Queued,
    /// A frame was given to a node.
    Rendering,
    /// Every frame is finished.
    Finished,
    /// No frame is open and at least one failed.
    Failed,
    /// Cancelled.
    Cancelled,
}

impl JobState {
    /// Whether it stays for ever.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Finished | Self::Failed | Self::Cancelled)
    }
}

/// Frames of a job by state; the sum never changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FrameCounts {
    /// Waiting or being rendered.
    pub open: u64,
    /// With every output stored.
    pub finished: u64,
    /// Given up.
    pub failed: u64,
    /// Open when the job was cancelled.
    pub cancelled: u64,
}

/// Where a frame stands, as far as it is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FrameState {
    /// Waiting or being rendered.
    Open,
    /// Every output is stored.
    Finished,
    /// Given up.
    Failed,
    /// Open when the job was cancelled.
    Cancelled,
}

/// Tries that ended without a frame, by whose fault: the budgets are separate.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Attempts {
    /// The renderer's fault.
    pub renderer: u32,
    /// The node was lost.
    pub node_lost: u32,
    /// Out of memory.
    pub out_of_memory: u32,
    /// Neither counts against the frame: infrastructure.
    pub infrastructure: u32,
    /// Nodes that died when the slice may have been what they had begun last, without a word of it. No failed
    /// tries, until it is lost with a node that had nothing else.
    #[serde(default, skip_serializing_if = "is_none")]
    pub suspicions: u32,
    /// Nodes that failed it, or are suspected to have died of it, so that others are tried first.
    pub failed_on: Vec<NodeName>,
    /// Batch of the latest of them: neither it nor an earlier one holds the slice any more, also where a
    /// former life of the orchestrator remembers it in one.
    pub latest_batch: Option<BatchId>,
}

// None is not written, so that a frame without tries reads the same in stores of every version.
#[allow(clippy::trivially_copy_pass_by_ref)] // as serde wants it
fn is_none(suspicions: &u32) -> bool {
    *suspicions == 0
}

impl Attempts {
    pub(crate) fn note_failed_on(&mut self, node: &NodeName) {
        if !self.failed_on.contains(node) {
            self.failed_on.push(node.clone());
        }
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.renderer + self.node_lost + self.out_of_memory + self.infrastructure
    }
}

/// A frame as it is stored and shown.
#[derive(Clone, PartialEq, Debug)]
pub struct Frame {
    /// Its number.
    pub frame: i32,
    /// Where it stands.
    pub state: FrameState,
    /// When it last changed.
    pub revision: Revision,
    /// Tries behind it.
    pub attempts: Attempts,
    /// What it produced, once finished.
    pub rendered: Option<Rendered>,
    /// Why the latest try failed.
    pub failure: Option<Failure>,
    /// Node that finished or last failed it.
    pub node: Option<NodeName>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn range(first: i32, last: i32, step: u32) -> FrameRange {
        FrameRange { first, last, step }
    }

    #[test]
    fn interleaved_ranges_are_walked_in_the_order_given() {
        let set = FrameSet::new(vec![range(1, 6, 2), range(2, 6, 2)]).unwrap();
        assert_eq!(set.iter().collect::<Vec<_>>(), [1, 3, 5, 2, 4, 6]);
        let mut cursor = set.cursor();
        let mut walked = Vec::new();
        while let Some(frame) = cursor.next(&set) {
            walked.push(frame);
            for frame in 0..=7 {
                let is_before = set.contains(frame) && !walked.contains(&frame);
                assert_eq!(cursor.is_before(&set, frame), is_before, "{frame} after {walked:?}");
            }
        }
        assert_eq!(walked, [1, 3, 5, 2, 4, 6]);
    }

    #[test]
    fn frames_in_order_are_sorted_into_as_few_ranges_as_possible() {
        let in_order = |ranges| FrameSet::new(ranges).unwrap().in_order();
        let mixed = in_order(vec![range(7, 9, 2), range(1, 5, 4), range(3, 3, 1)]);
        assert!(mixed.is_in_order());
        assert_eq!(mixed.ranges(), [range(1, 9, 2)]);
        assert_eq!(mixed.span(), range(1, 9, 2));
        let gap = in_order(vec![range(20, 22, 1), range(1, 3, 1)]);
        assert_eq!(gap.iter().collect::<Vec<_>>(), [1, 2, 3, 20, 21, 22]);
        assert_eq!(gap.span(), range(1, 22, 1));
        let rising = vec![range(-5, 4, 3), range(5, 5, 1)];
        assert_eq!(in_order(rising.clone()).ranges(), rising);
    }

    #[test]
    fn frames_above_a_number_come_sorted_and_limited() {
        let set = FrameSet::new(vec![range(10, 20, 5), range(-3, 1, 2)]).unwrap();
        assert_eq!(set.above(i64::MIN / 2, 9), [-3, -1, 1, 10, 15, 20]);
        assert_eq!(set.above(-3, 2), [-1, 1]);
        assert_eq!(set.above(10, 9), [15, 20]);
        assert!(set.above(20, 9).is_empty());
        assert!(set.contains(15) && !set.contains(16));
    }

    #[test]
    fn a_frame_set_holds_no_frame_twice_and_is_never_empty() {
        assert_eq!(FrameSet::new(vec![range(1, 9, 2), range(5, 5, 1)]), None);
        assert_eq!(FrameSet::new(vec![]), None);
        assert_eq!(FrameSet::new(vec![range(i32::MIN, i32::MAX, 1)]), None);
        assert!(FrameSet::new(vec![range(i32::MIN, i32::MAX, 5000)]).is_some());
    }

    #[test]
    fn versions_are_read_as_blender_writes_them() {
        let version = |text: &str| text.parse::<BlenderVersion>().unwrap();
        assert!(version("4.5.15 LTS").is(version("4.5")));
        assert!(!version("4.5.15").is(version("4.5.1")));
        assert!(version("3.4.1").opens(version("3.4")));
        assert!(!version("3.4.1").opens(version("3.6")));
        assert!("banana".parse::<BlenderVersion>().is_err());
        assert!("4".parse::<BlenderVersion>().is_err());
    }

    #[test]
    fn a_batch_id_of_a_later_epoch_is_higher() {
        let mut batch = BatchId::first(Epoch(1));
        for _ in 0..1000 {
            batch = batch.next();
        }
        assert!(BatchId::first(Epoch(2)) > batch);
    }

    #[test]
    fn a_blender_that_does_not_start_meets_no_requirements_and_says_why() {
        let blender = |version: &str, unusable: &str| Blender {
            version: version.parse().ok(),
            unusable: unusable.into(),
            ..Blender::default()
        };
        let node = |blenders| NodeDescription { blenders, ..NodeDescription::default() };
        let job = Requirements::of_file("3.4".parse().unwrap());
        let broken =
            node(vec![blender("3.4.1", "ModuleNotFoundError: No module named 'encodings'")]);
        assert!(!broken.meets(&job) && broken.may_come_to_meet(&job), "it is tried again");
        assert_eq!(
            broken.why_unable(&job).unwrap(),
            "Blender 3.4.1 does not start: ModuleNotFoundError: No module named 'encodings'"
        );
        let newer = Requirements::of_file("4.5".parse().unwrap());
        assert_eq!(broken.why_unable(&newer), None, "it would not do if it started");
        assert!(!broken.may_come_to_meet(&newer));
        let scripted = Requirements { run_scripts: true, ..job.clone() };
        assert_eq!(broken.why_unable(&scripted), None);

        let two = node(vec![blender("4.5.15", ""), blender("3.4.1", "Fatal")]);
        assert!(two.meets(&job) && two.meets(&newer), "the other one takes over");
        let slow = node(vec![blender("", "blender has not reported its version within 30 s")]);
        assert!(!slow.meets(&job), "no synthetic renderer");
        assert!(slow.may_come_to_meet(&job) && !slow.may_come_to_meet(&scripted));
        assert_eq!(
            slow.why_unable(&job).unwrap(),
            "blender has not reported its version within 30 s"
        );
        assert!(node(Vec::new()).may_come_to_meet(&job), "it is looking for them");
    }
}
