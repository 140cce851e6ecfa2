//! The boundary to whatever draws: Blender, in a warm process for each slot, or a synthetic picture.

mod blender;
mod hidden;
pub(crate) mod lines;
mod process;
pub(crate) mod progress;
mod roster;
mod slots;
mod span;
mod stage;
mod synthetic;
pub(crate) mod telling;
pub(crate) mod warnings;

use std::{path::PathBuf, time::Duration};

use framecrew_proto::v1::{FailureReason, RenderSettings, SliceProgress, Warning};

use self::process::{NotStarted, Worker};
pub(crate) use self::{
    lines::{Lines, shorten},
    slots::{Slot, Slots},
    span::Span,
};
use crate::{
    blender::FoundBlender,
    confine::Workplace,
    output::{Checked, Promise},
    version::Version,
};

/// What all slices of a batch have in common.
#[derive(Debug, Clone)]
pub(crate) struct Scene {
    /// The .blend in its layout.
    pub(crate) blend: PathBuf,
    /// The job's colour configuration in its layout; empty for Blender's own.
    pub(crate) color_config: PathBuf,
    /// The add-ons to install before the .blend is opened, in their layout.
    pub(crate) addons: Vec<PathBuf>,
    pub(crate) settings: RenderSettings,
    pub(crate) file_version: Option<Version>,
    /// Whether a warning is a failure.
    pub(crate) strict: bool,
    /// How long the renderer may say nothing.
    pub(crate) silence: Duration,
    /// The animation that its frames belong to, if each frame depends on those before it.
    pub(crate) span: Option<Span>,
}

/// Starts a Blender as for a job, and ends it. The error says why it does not start.
pub(crate) async fn prove(blender: FoundBlender, workplace: &Workplace) -> Result<(), String> {
    match Worker::start(blender, workplace, &Scene::none(), &mut |_| ()).await {
        Ok(mut worker) => {
            worker.kill().await;
            Ok(())
        }
        Err(NotStarted::Node(error)) => Err(error.message),
        Err(NotStarted::Blender { why, .. }) => Err(why),
    }
}

impl Scene {
    /// Whether Python runs that is not Blender's own: the file's, or that of add-ons.
    pub(crate) fn is_scripted(&self) -> bool {
        self.settings.run_scripts || !self.addons.is_empty()
    }

    /// A scene without a file, for starting a Blender only to see whether it starts.
    pub(crate) fn none() -> Self {
        Self {
            blend: PathBuf::new(),
            color_config: PathBuf::new(),
            addons: Vec::new(),
            settings: RenderSettings::default(),
            file_version: None,
            strict: false,
            span: None,
            silence: Duration::ZERO,
        }
    }
}

/// What a renderer tells while it draws.
#[derive(Debug)]
pub(crate) enum Observation {
    /// How far it is; the slice is not filled in.
    Progress(SliceProgress),
    /// A line it wrote.
    Line(String),
    /// Something a person should know; may be told again and again.
    Warning(Warning),
}

/// A frame that a renderer says it has drawn.
#[derive(Debug)]
pub(crate) struct Drawing {
    pub(crate) drawn: Drawn,
    pub(crate) render_seconds: f64,
    /// 0: unknown.
    pub(crate) peak_memory_bytes: u64,
    /// How the renderer died, if it died after it began to draw. Its files may be complete.
    pub(crate) crash: Option<RenderError>,
}

/// Where the drawing is.
#[derive(Debug)]
pub(crate) enum Drawn {
    /// In the frame's folder, unchecked; this must be there.
    InFolder(Promise),
    /// In memory, known to be good.
    Checked(Checked),
}

/// Why nothing was drawn.
#[derive(Debug)]
pub(crate) struct RenderError {
    pub(crate) reason: FailureReason,
    /// One sentence for people, 2,000 bytes at most.
    pub(crate) message: String,
}

impl RenderError {
    pub(crate) fn new(reason: FailureReason, message: impl Into<String>) -> Self {
        Self { reason, message: lines::shorten(message.into()) }
    }
}

/// A renderer that said nothing for too long.
pub(crate) fn silent(who: &str, silence: Duration) -> RenderError {
    let seconds = silence.as_secs();
    RenderError::new(
        FailureReason::Timeout,
        format!(
            "{who} said nothing for {seconds} seconds and was ended; --frame-silence gives it longer"
        ),
    )
}

/// A frame's name by Blender's `####` convention, without an extension.
pub(crate) fn frame_name(frame: i32) -> String {
    let sign = if frame < 0 { "-" } else { "" };
    format!("{sign}{:04}", frame.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::frame_name;

    #[test]
    fn frames_are_named_as_blender_names_them() {
        assert_eq!(frame_name(42), "0042");
        assert_eq!(frame_name(0), "0000");
        assert_eq!(frame_name(-5), "-0005");
        assert_eq!(frame_name(123_456), "123456");
        assert_eq!(frame_name(i32::MIN), "-2147483648");
    }
}
