//! What a person should know about a picture.

use serde::Deserialize;

/// A sentence about a picture that may differ from what its author sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Warning {
    pub(crate) kind: WarningKind,
    pub(crate) text: String,
}

/// What a warning is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WarningKind {
    MissingFile,
    MissingLibrary,
    ScriptBlocked,
    Engine,
    Denoiser,
    Format,
    Unbaked,
    Color,
    Incomplete,
    Addon,
    /// A line of Blender's that is not known.
    Blender,
}
