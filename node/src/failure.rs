//! Why a frame fails. The reason decides whether and where it is tried again.

use serde::Deserialize;

/// Why a try at a frame failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FailureReason {
    /// The renderer crashed, reported an error, or drew nothing.
    Renderer,
    /// The output is missing, does not decode, or has the wrong size.
    InvalidOutput,
    /// The renderer was silent, or took too long.
    Timeout,
    OutOfMemory,
    /// Something around the renderer failed, such as the disk.
    Infrastructure,
    /// No try can succeed.
    Permanent,
}
