//! What to render and how: the job before it is submitted.

use std::path::{Path, PathBuf};

use framecrew_proto::v1 as proto;

use crate::frames::{FrameSet, InvalidFrames};

/// A job to submit. What is not set is taken from the .blend.
///
/// ```
/// use framecrew::{JobSpec, RenderEngine};
///
/// let spec = JobSpec::animation("shot.blend")
///     .frames(1..=250)
///     .engine(RenderEngine::Cycles)
///     .samples(64)
///     .scale_percent(50);
/// # drop(spec);
/// ```
#[derive(Debug, Clone)]
pub struct JobSpec {
    pub(crate) file: PathBuf,
    pub(crate) name: Option<String>,
    /// A fault is kept until the submit, so that a builder stays a chain.
    pub(crate) frames: Option<Result<FrameSet, InvalidFrames>>,
    pub(crate) settings: proto::RenderSettings,
    pub(crate) priority: i32,
    pub(crate) tags: Vec<String>,
    pub(crate) strict: bool,
    pub(crate) movie: Option<proto::MovieFormat>,
    pub(crate) follow_links: bool,
}

impl JobSpec {
    /// The animation in `file`: without [`frames`](Self::frames), the file's own range and step.
    #[must_use]
    pub fn animation(file: impl Into<PathBuf>) -> Self {
        Self {
            file: file.into(),
            name: None,
            frames: None,
            settings: proto::RenderSettings::default(),
            priority: 0,
            tags: Vec::new(),
            strict: false,
            movie: None,
            follow_links: false,
        }
    }

    /// One frame of `file`.
    #[must_use]
    pub fn still(file: impl Into<PathBuf>, frame: i32) -> Self {
        Self::animation(file).frames(frame)
    }

    /// The .blend.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// A name for people; without it, the file's name without its ending.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The frames to render: a number, a range `1..=250`, a text `"1-250,300..400x2"` or a [`FrameSet`].
    /// A fault in them is reported when the job is submitted.
    #[must_use]
    pub fn frames<F>(mut self, frames: F) -> Self
    where
        F: TryInto<FrameSet, Error: Into<InvalidFrames>>,
    {
        self.frames = Some(frames.try_into().map_err(Into::into));
        self
    }

    /// Render engine.
    #[must_use]
    pub fn engine(mut self, engine: proto::RenderEngine) -> Self {
        self.settings.set_engine(engine);
        self
    }

    /// Samples per pixel, 1 to 1,000,000.
    #[must_use]
    pub fn samples(mut self, samples: u32) -> Self {
        self.settings.samples = Some(samples);
        self
    }

    /// Size of the frames in percent of the file's resolution, 1 to 1,000.
    #[must_use]
    pub fn scale_percent(mut self, percent: u32) -> Self {
        self.settings.scale_percent = Some(percent);
        self
    }

    /// Scene to render, by name; without it, the one that was active when the file was saved.
    #[must_use]
    pub fn scene(mut self, scene: impl Into<String>) -> Self {
        self.settings.scene = scene.into();
        self
    }

    /// Camera to render from, by name; without it, the scene's own.
    #[must_use]
    pub fn camera(mut self, camera: impl Into<String>) -> Self {
        self.settings.camera = camera.into();
        self
    }

    /// Image format of the frames.
    #[must_use]
    pub fn format(mut self, format: proto::ImageFormat) -> Self {
        self.settings.set_format(format);
        self
    }

    /// Bits of a channel in the frames: 8, 10, 12, 16 or 32, as far as the format has it.
    #[must_use]
    pub fn color_depth(mut self, bits: u32) -> Self {
        self.settings.color_depth = Some(bits);
        self
    }

    /// View layer to render, by name; without it, all that the file renders.
    #[must_use]
    pub fn view_layer(mut self, name: impl Into<String>) -> Self {
        self.settings.view_layer = name.into();
        self
    }

    /// Whether the file's own Python (registered text blocks, driver expressions) runs. Only nodes that allow it
    /// render such a job.
    #[must_use]
    pub fn run_scripts(mut self, run: bool) -> Self {
        self.settings.run_scripts = run;
        self
    }

    /// Whether a warning that would otherwise only be shown fails the frame.
    #[must_use]
    pub fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// Has a movie made of the frames once all of them are finished, by a job of its own.
    #[must_use]
    pub fn movie(mut self, format: proto::MovieFormat) -> Self {
        self.movie = Some(format);
        self
    }

    /// Whether to denoise.
    #[must_use]
    pub fn denoise(mut self, denoise: bool) -> Self {
        self.settings.denoise = Some(denoise);
        self
    }

    /// Version of Blender to use, like `4.5`; without it, any that is not older than the file.
    #[must_use]
    pub fn blender(mut self, version: impl Into<String>) -> Self {
        self.settings.blender = version.into();
        self
    }

    /// Takes what symbolic links lead to, also where that is outside the project.
    #[must_use]
    pub fn follow_links(mut self, follow: bool) -> Self {
        self.follow_links = follow;
        self
    }

    /// Jobs of higher priority get free slots first: -100 to 100, 0 without it.
    #[must_use]
    pub fn priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// Only nodes that bear this tag (and the others given) render the job.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// The name people see.
    pub(crate) fn display_name(&self) -> String {
        match &self.name {
            Some(name) => name.clone(),
            None => self
                .file
                .file_stem()
                .map_or_else(|| "job".to_owned(), |stem| stem.to_string_lossy().into_owned()),
        }
    }
}
