//! What a node is told.

use std::{path::PathBuf, str::FromStr, time::Duration};

use crate::{blender::FoundBlender, confine::Confine, project::CACHE_BYTES};

/// How a node is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name in the cluster, 1 to 100 characters; one live node bears it.
    pub name: String,
    /// Where the orchestrator is, like `http://10.0.0.1:4000`.
    pub orchestrator: String,
    /// Where the orchestrator reaches this node, like `http://10.0.0.7:3000`; absent: at the address it
    /// registers from, on the port it listens on.
    pub advertise: Option<String>,
    /// Slices it renders at a time, 1 to 64.
    pub slots: u32,
    /// Tags it bears: jobs can ask for nodes that have them.
    pub tags: Vec<String>,
    /// What draws.
    pub renderer: RendererChoice,
    /// Folder of its own for projects and unfinished frames.
    pub data: PathBuf,
    /// Whether what renders must be confined.
    pub confine: Confine,
    /// Whether it renders jobs whose files run their own Python.
    pub allow_scripts: bool,
    /// What makes movies; absent: the ffmpeg on the PATH, if there is one.
    pub ffmpeg: Option<PathBuf>,
    /// Bytes that the projects it keeps take at most; the ones used longest ago go.
    pub cache_bytes: u64,
    /// Cache into which Blenders are fetched that a job needs and this machine lacks; absent: none are.
    pub provision: Option<PathBuf>,
}

impl Config {
    /// A node of one slot with nothing out of the ordinary.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        orchestrator: impl Into<String>,
        renderer: RendererChoice,
        data: impl Into<PathBuf>,
    ) -> Self {
        Self {
            name: name.into(),
            orchestrator: orchestrator.into(),
            advertise: None,
            slots: 1,
            tags: Vec::new(),
            renderer,
            data: data.into(),
            confine: Confine::default(),
            allow_scripts: false,
            ffmpeg: None,
            cache_bytes: CACHE_BYTES,
            provision: None,
        }
    }
}

/// What draws the frames.
#[derive(Debug, Clone)]
pub enum RendererChoice {
    /// These Blenders, whichever suits the job.
    Blender(Vec<FoundBlender>),
    /// No Blender: small valid PNGs, each after this time. For load tests.
    Synthetic(Duration),
}

/// A text that names no renderer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a renderer is `blender`, or `synthetic:` and a time like `200ms` or `1.5s`")]
pub struct InvalidRenderer;

impl FromStr for RendererChoice {
    type Err = InvalidRenderer;

    /// Reads `blender` (with no Blender found yet) and `synthetic:200ms`.
    fn from_str(text: &str) -> Result<Self, InvalidRenderer> {
        if text == "blender" {
            return Ok(Self::Blender(Vec::new()));
        }
        let time = text.strip_prefix("synthetic:").ok_or(InvalidRenderer)?;
        let (number, unit_seconds) = match time.strip_suffix("ms") {
            Some(number) => (number, 1e-3),
            None => (time.strip_suffix('s').ok_or(InvalidRenderer)?, 1.0),
        };
        let number: f64 = number.parse().map_err(|_| InvalidRenderer)?;
        Duration::try_from_secs_f64(number * unit_seconds)
            .map(Self::Synthetic)
            .map_err(|_| InvalidRenderer)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_synthetic_renderer_names_its_time() {
        for (text, millis) in [("200ms", 200), ("0ms", 0), ("1.5s", 1_500)] {
            let choice: RendererChoice = format!("synthetic:{text}").parse().unwrap();
            let RendererChoice::Synthetic(time) = choice else {
                panic!("{choice:?}");
            };
            assert_eq!(time, Duration::from_millis(millis));
        }
    }

    #[test]
    fn what_names_no_renderer_is_refused() {
        for text in ["", "povray", "synthetic", "synthetic:", "synthetic:5", "synthetic:-1s"] {
            assert!(text.parse::<RendererChoice>().is_err(), "{text:?}");
        }
    }
}
