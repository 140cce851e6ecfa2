//! A job: its specification, its requirements, its state.

use std::{fmt, time::Duration};

use framecrew_blobs::Digest;
use framecrew_model::{BlenderVersion, FrameSet};
use serde::{Deserialize, Serialize};

use super::{
    ids::JobId,
    kinds::{ImageFormat, MovieFormat, RenderEngine},
};

/// A validated specification of a job.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct JobSpec {
    /// Shown to people.
    pub name: String,
    /// The .blend and every file it needs.
    pub project: Project,
    /// Frames to render.
    pub frames: FrameSet,
    /// Overrides of the file's settings.
    pub settings: RenderSettings,
    /// -100 to 100; higher goes first.
    pub priority: i32,
    /// Tags that a node must have.
    pub tags: Vec<String>,
    /// Whether a warning fails the frame.
    #[serde(default)]
    pub strict: bool,
    /// What the nodes do.
    #[serde(flatten)]
    pub work: Work,
    /// Time limits.
    #[serde(default)]
    pub limits: TimeLimits,
}

/// What the nodes do for a job.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(into = "StoredWork", try_from = "StoredWork")]
pub enum Work {
    /// They render its frames.
    Frames {
        /// The format of the movie that follows, if one does.
        movie: Option<MovieFormat>,
    },
    /// One encodes a movie of another job's frames.
    Movie {
        /// The movie's format.
        format: MovieFormat,
        /// The frames.
        of: MovieOf,
    },
}

/// [`Work`] as it is stored: as two fields of the specification, which is older than the enum.
#[derive(Serialize, Deserialize)]
struct StoredWork {
    #[serde(default)]
    movie: Option<MovieFormat>,
    #[serde(default)]
    movie_of: Option<MovieOf>,
}

impl From<Work> for StoredWork {
    fn from(work: Work) -> Self {
        match work {
            Work::Frames { movie } => Self { movie, movie_of: None },
            Work::Movie { format, of } => Self { movie: Some(format), movie_of: Some(of) },
        }
    }
}

impl TryFrom<StoredWork> for Work {
    type Error = &'static str;

    fn try_from(stored: StoredWork) -> Result<Self, Self::Error> {
        match stored {
            StoredWork { movie, movie_of: None } => Ok(Self::Frames { movie }),
            StoredWork { movie: Some(format), movie_of: Some(of) } => {
                Ok(Self::Movie { format, of })
            }
            StoredWork { movie: None, movie_of: Some(_) } => Err("a movie without a format"),
        }
    }
}

/// Time limits in seconds; `None` is the default.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TimeLimits {
    /// How long a node may be silent, or the orchestrator as seen from the node. Never shorter than a lease.
    pub node_silence_seconds: Option<u32>,
    /// How long a renderer may write nothing.
    pub frame_silence_seconds: Option<u32>,
    /// How long one attempt at a frame may take.
    pub frame_seconds: Option<u32>,
}

impl TimeLimits {
    /// How long a node may be silent; zero means the lease.
    #[must_use]
    pub fn node_silence(&self) -> Duration {
        Duration::from_secs(self.node_silence_seconds.unwrap_or(0).into())
    }
}

/// The source of a movie. Its images are in the project, in [`Self::FOLDER`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MovieOf {
    /// The job that rendered the frames.
    pub job: JobId,
    /// Its frames.
    pub frames: FrameSet,
}

impl MovieOf {
    /// Folder of the project that holds the images. Their names sort in the order of the frames.
    pub const FOLDER: &str = "framecrew-frames";
}

/// A .blend and the files it needs.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Project {
    /// The one of `files` to open.
    pub blend_path: String,
    /// All of them.
    pub files: Vec<ProjectFile>,
}

/// A file of a project.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProjectFile {
    /// Relative path, with `/` between its parts and without `..`.
    pub path: String,
    /// Digest of its content.
    pub digest: Digest,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Its chunks, in order; empty if the file is one blob.
    #[serde(default)]
    pub chunks: Vec<Chunk>,
}

/// A chunk of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Chunk {
    /// Digest of its content.
    pub digest: Digest,
    /// Size in bytes.
    pub size_bytes: u64,
}

impl ProjectFile {
    /// The blobs that hold the file, in order, with their sizes in bytes.
    pub fn blobs(&self) -> impl Iterator<Item = (Digest, u64)> {
        let whole = self.chunks.is_empty().then_some((self.digest, self.size_bytes));
        whole.into_iter().chain(self.chunks.iter().map(|chunk| (chunk.digest, chunk.size_bytes)))
    }
}

/// Overrides of the file's render settings. The orchestrator only passes them on.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct RenderSettings {
    /// Scene, or empty.
    pub scene: String,
    /// Camera, or empty.
    pub camera: String,
    /// Engine.
    pub engine: RenderEngine,
    /// Samples per pixel.
    pub samples: Option<u32>,
    /// Resolution in percent.
    pub scale_percent: Option<u32>,
    /// Format of the frames.
    pub format: ImageFormat,
    /// Whether to denoise.
    pub denoise: Option<bool>,
    /// Version of Blender.
    pub blender: Option<BlenderVersion>,
    /// View layer, or empty.
    #[serde(default)]
    pub view_layer: String,
    /// Bits a channel.
    #[serde(default)]
    pub color_depth: Option<u32>,
    /// Whether the file's Python runs.
    #[serde(default)]
    pub run_scripts: bool,
    /// Path of the color configuration in the project; empty for Blender's own.
    #[serde(default)]
    pub color_config: String,
    /// Paths of the add-ons in the project.
    #[serde(default)]
    pub addons: Vec<String>,
    /// Whether each frame gets a Blender of its own. Frames rendered in order share one.
    #[serde(default)]
    pub cold: bool,
    /// Whether one node at a time renders the frames, in ascending order.
    #[serde(default)]
    pub in_order: bool,
}

impl RenderSettings {
    /// Whether the job runs Python, which only nodes with `--allow-scripts` do.
    #[must_use]
    pub fn needs_scripts(&self) -> bool {
        self.run_scripts || !self.addons.is_empty()
    }
}

impl JobSpec {
    /// The requirements on the nodes that do the job's own work.
    #[must_use]
    pub fn requirements(&self, file_version: BlenderVersion) -> Requirements {
        Requirements {
            file_version,
            blender: self.settings.blender,
            tags: self.tags.clone(),
            ffmpeg: matches!(self.work, Work::Movie { .. }),
            run_scripts: self.settings.needs_scripts(),
        }
    }

    /// The requirements on a node that can do the job's work and its followups'.
    #[must_use]
    pub fn requirements_with_followups(&self, file_version: BlenderVersion) -> Requirements {
        let ffmpeg = !matches!(self.work, Work::Frames { movie: None });
        Requirements { ffmpeg, ..self.requirements(file_version) }
    }

    /// A copy without the project, which may be large.
    #[must_use]
    pub fn without_project(&self) -> Self {
        // Field by field, so that the project is not cloned.
        let Self { name, project: _, frames, settings, priority, tags, strict, work, limits } =
            self;
        Self {
            name: name.clone(),
            project: Project::default(),
            frames: frames.clone(),
            settings: settings.clone(),
            priority: *priority,
            tags: tags.clone(),
            strict: *strict,
            work: work.clone(),
            limits: *limits,
        }
    }

    /// A job of these frames, without files.
    #[cfg(test)]
    pub(crate) fn for_test(frames: FrameSet) -> Self {
        Self {
            name: "shot".to_owned(),
            project: Project::default(),
            frames,
            settings: RenderSettings::default(),
            priority: 0,
            tags: Vec::new(),
            strict: false,
            work: Work::Frames { movie: None },
            limits: TimeLimits::default(),
        }
    }
}

/// The requirements of a job on a node.
#[derive(Clone, PartialEq, Debug)]
pub struct Requirements {
    /// Version of the Blender that saved the file. An older one may lose some of it, so it renders the file only if
    /// requested.
    pub file_version: BlenderVersion,
    /// Version requested.
    pub blender: Option<BlenderVersion>,
    /// Tags that the node must have.
    pub tags: Vec<String>,
    /// Whether the node needs ffmpeg.
    pub ffmpeg: bool,
    /// Whether the node must run the file's Python.
    pub run_scripts: bool,
}

impl Requirements {
    /// The requirements of a file alone.
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
            f.write_str(" and permission to run scripts (--allow-scripts)")?;
        }
        Ok(())
    }
}

/// The state of a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum JobState {
    /// No frame is assigned yet.
    Queued,
    /// A frame was assigned to a node.
    Rendering,
    /// Every frame is finished.
    Finished,
    /// No frame is open and at least one failed.
    Failed,
    /// Cancelled by a person.
    Cancelled,
}

impl JobState {
    /// Whether the job is over. A retry of its failed frames may reopen it.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Finished | Self::Failed | Self::Cancelled)
    }
}

/// Frames of a job by state. Their sum never changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FrameCounts {
    /// Waiting or being rendered.
    pub open: u64,
    /// Every output is stored.
    pub finished: u64,
    /// No attempt is left.
    pub failed: u64,
    /// Open when the job was cancelled.
    pub cancelled: u64,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn work_is_stored_in_the_two_fields_of_older_versions() {
        let stored = |work: &Work| {
            let spec = JobSpec { work: work.clone(), ..JobSpec::for_test(FrameSet::one(1)) };
            let json = serde_json::to_value(&spec).unwrap();
            assert_eq!(serde_json::from_value::<JobSpec>(json.clone()).unwrap(), spec);
            (json["movie"].clone(), json["movie_of"]["job"].clone())
        };
        let null = serde_json::Value::Null;
        assert_eq!(stored(&Work::Frames { movie: None }), (null.clone(), null.clone()));
        let with_movie = Work::Frames { movie: Some(MovieFormat::Webm) };
        assert_eq!(stored(&with_movie), (4.into(), null));
        let of = MovieOf { job: JobId(7), frames: FrameSet::one(1) };
        let movie = Work::Movie { format: MovieFormat::Mp4, of };
        assert_eq!(stored(&movie), (1.into(), 7.into()));
    }

    #[test]
    fn a_job_of_the_first_version_can_be_read() {
        let json = serde_json::json!({
            "name": "shot",
            "project": { "blend_path": "", "files": [] },
            "frames": { "ranges": [{ "first": 1, "last": 1, "step": 1 }] },
            "settings": {
                "scene": "", "camera": "", "engine": 1, "samples": null, "scale_percent": null,
                "format": 2, "denoise": null, "blender": null
            },
            "priority": 0,
            "tags": []
        });
        let spec: JobSpec = serde_json::from_value(json).unwrap();
        let settings = RenderSettings {
            engine: RenderEngine::Cycles,
            format: ImageFormat::Jpeg,
            ..RenderSettings::default()
        };
        assert_eq!(spec, JobSpec { settings, ..JobSpec::for_test(FrameSet::one(1)) });
    }
}
