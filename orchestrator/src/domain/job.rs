//! A job: its specification, what it requires of a node, and its state.

use std::{fmt, time::Duration};

use framecrew_blobs::Digest;
use serde::{Deserialize, Serialize};

use super::{frames::FrameSet, ids::JobId, version::BlenderVersion};

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
