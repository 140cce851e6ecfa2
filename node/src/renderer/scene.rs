//! What all slices of a batch have in common.

use std::{path::PathBuf, time::Duration};

use serde::Serialize;

use super::span::Span;
use crate::version::Version;

/// What all slices of a batch have in common.
#[derive(Debug, Clone)]
pub(crate) struct Scene {
    /// The .blend in its layout.
    pub(crate) blend: PathBuf,
    /// The job's colour configuration in its layout; empty for Blender's own.
    pub(crate) color_config: PathBuf,
    /// The add-ons to install before the .blend is opened, in their layout.
    pub(crate) addons: Vec<PathBuf>,
    pub(crate) settings: Settings,
    pub(crate) file_version: Option<Version>,
    /// Whether a warning is a failure.
    pub(crate) strict: bool,
    /// How long the renderer may say nothing.
    pub(crate) silence: Duration,
    /// The animation that its frames belong to, if each frame depends on those before it.
    pub(crate) span: Option<Span>,
}

/// Settings of a job that take precedence over the file's. Empty or absent: the file's.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Settings {
    pub(crate) scene: String,
    pub(crate) camera: String,
    pub(crate) view_layer: String,
    pub(crate) engine: Option<Engine>,
    pub(crate) samples: Option<u32>,
    pub(crate) scale_percent: Option<u32>,
    pub(crate) format: Option<ImageFormat>,
    /// Bits of a channel.
    pub(crate) color_depth: Option<u32>,
    pub(crate) denoise: Option<bool>,
    /// Beginning of the version of Blender that must draw it; empty: the one closest to the file's.
    pub(crate) blender: String,
    /// Whether the file's own Python runs.
    pub(crate) run_scripts: bool,
    /// Whether each batch gets a Blender that has drawn nothing before.
    pub(crate) cold: bool,
}

/// A render engine, as Blender spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Engine {
    Cycles,
    /// Its name depends on Blender's version.
    Eevee,
    #[serde(rename = "BLENDER_WORKBENCH")]
    Workbench,
}

/// A format of frames, as Blender spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum ImageFormat {
    Png,
    Jpeg,
    OpenExr,
    Tiff,
    #[serde(rename = "OPEN_EXR_MULTILAYER")]
    OpenExrMultilayer,
    Webp,
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
            settings: Settings::default(),
            file_version: None,
            strict: false,
            span: None,
            silence: Duration::ZERO,
        }
    }
}
