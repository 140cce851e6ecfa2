//! What to render and how: the job before it is submitted.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use framecrew_model::{FrameSet, InvalidFrames};
use framecrew_proto::{
    limits::{FRAME_SECONDS, FRAME_SILENCE_SECONDS, NODE_SILENCE_SECONDS},
    v1 as proto,
};

use crate::{
    error::{Error, Violation},
    words,
};

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
    pub(crate) color_config: Option<PathBuf>,
    pub(crate) addons: Vec<PathBuf>,
    /// `None`: decided by whether the .blend needs it.
    pub(crate) in_order: Option<bool>,
    pub(crate) limits: proto::TimeLimits,
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
            color_config: None,
            addons: Vec::new(),
            in_order: None,
            limits: proto::TimeLimits::default(),
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

    /// Requests a version of Blender, like `4.5`. By default any version that is not older than the file is used.
    /// An older version draws the file, but may lose some of it.
    #[must_use]
    pub fn blender(mut self, version: impl Into<String>) -> Self {
        self.settings.blender = version.into();
        self
    }

    /// Sets whether a newly started Blender draws each frame, for identical bits: EEVEE's first frame in a process
    /// differs slightly from its later ones. Frames drawn in order share one Blender.
    #[must_use]
    pub fn cold(mut self, cold: bool) -> Self {
        self.settings.cold = cold;
        self
    }

    /// Sets whether one node at a time draws the frames in ascending order, which a simulation that is not baked
    /// needs. By default frames are drawn in order if the .blend has such a simulation and the job has more than
    /// one frame.
    #[must_use]
    pub fn in_order(mut self, in_order: bool) -> Self {
        self.in_order = Some(in_order);
        self
    }

    /// Takes what symbolic links lead to, also where that is outside the project.
    #[must_use]
    pub fn follow_links(mut self, follow: bool) -> Self {
        self.follow_links = follow;
        self
    }

    /// Sends a colour configuration (OpenColorIO, a `config.ocio` or an `.ocioz`) with all the files that it
    /// names, and draws with it. By default the configuration in the variable `OCIO` is sent if the file needs it.
    #[must_use]
    pub fn color_config(mut self, file: impl Into<PathBuf>) -> Self {
        self.color_config = Some(file.into());
        self
    }

    /// Sends an add-on or extension, as a .zip that Blender can install, and enables it before the file is opened.
    /// A job takes 16 at most. Add-ons are Python, so only nodes that allow scripts render such a job.
    #[must_use]
    pub fn addon(mut self, file: impl Into<PathBuf>) -> Self {
        self.addons.push(file.into());
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

    /// How long a node may be cut off from the orchestrator before its renderers of this job are ended and others get
    /// its frames: 15 seconds, the default, to a day, in whole seconds. A longer time carries a long frame through an
    /// outage, and waits as long for a node that is dead. A fault in it is reported when the job is submitted.
    #[must_use]
    pub fn node_silence(mut self, time: Duration) -> Self {
        self.limits.node_silence_seconds = Some(whole_seconds(time));
        self
    }

    /// How long Blender may write nothing before the try at a frame is ended as hung: 10 seconds to a day, in whole
    /// seconds; 10 minutes without it. A fault in it is reported when the job is submitted.
    #[must_use]
    pub fn frame_silence(mut self, time: Duration) -> Self {
        self.limits.frame_silence_seconds = Some(whole_seconds(time));
        self
    }

    /// How long one try at a frame may take in all: 1 second to 30 days, in whole seconds; as long as it takes
    /// without it. A fault in it is reported when the job is submitted.
    #[must_use]
    pub fn frame_limit(mut self, time: Duration) -> Self {
        self.limits.frame_seconds = Some(whole_seconds(time));
        self
    }

    /// What is wrong with the time limits, all of it.
    pub(crate) fn check_limits(&self) -> Result<(), Error> {
        let proto::TimeLimits { node_silence_seconds, frame_silence_seconds, frame_seconds } =
            self.limits;
        let limits = [
            ("node silence", node_silence_seconds, NODE_SILENCE_SECONDS),
            ("frame silence", frame_silence_seconds, FRAME_SILENCE_SECONDS),
            ("frame limit", frame_seconds, FRAME_SECONDS),
        ];
        let time = |seconds: u32| words::duration(Duration::from_secs(seconds.into()));
        let faults = limits.into_iter().filter_map(|(subject, seconds, range)| {
            let seconds = seconds.filter(|seconds| !range.contains(seconds))?;
            let (least, most) = (time(*range.start()), time(*range.end()));
            let description = format!("must be {least} to {most}, is {}", time(seconds));
            Some(Violation { subject: subject.into(), description })
        });
        let violations: Vec<_> = faults.collect();
        if violations.is_empty() {
            return Ok(());
        }
        Err(Error::Refused { message: "the job cannot have such time limits:".into(), violations })
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

/// Rounded up.
fn whole_seconds(time: Duration) -> u32 {
    let seconds = time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0));
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn all_faulty_time_limits_are_named_at_once() {
        let second = Duration::from_secs(1);
        let good = JobSpec::animation("a").node_silence(15 * second).frame_limit(second / 2);
        assert_eq!(good.limits.frame_seconds, Some(1), "it is rounded up");
        good.frame_silence(86_400 * second).check_limits().unwrap();
        let spec = JobSpec::animation("a").node_silence(14 * second).frame_silence(9 * second);
        let text = spec.frame_limit(Duration::MAX).check_limits().unwrap_err().to_string();
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        assert_eq!(lines[1], "node silence: must be 15 s to 1 d 0 h, is 14 s");
        assert_eq!(lines[2], "frame silence: must be 10 s to 1 d 0 h, is 9.0 s");
        assert!(lines[3].starts_with("frame limit: must be 1.0 s to 30 d 0 h"), "{text}");
    }
}
