//! What all slices of a batch have in common.

use std::{path::PathBuf, time::Duration};

use framecrew_proto::v1::RenderSettings;

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
    pub(crate) settings: RenderSettings,
    pub(crate) file_version: Option<Version>,
    /// Whether a warning is a failure.
    pub(crate) strict: bool,
    /// How long the renderer may say nothing.
    pub(crate) silence: Duration,
    /// The animation that its frames belong to, if each frame depends on those before it.
    pub(crate) span: Option<Span>,
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
