//! Why there is no movie.

use crate::{failure::FailureReason, renderer::RenderError};

/// Why there is no movie.
#[derive(Debug)]
pub(crate) struct MovieError {
    pub(crate) error: RenderError,
    /// What ffmpeg said last, oldest line first.
    pub(crate) log_tail: Vec<String>,
}

impl MovieError {
    pub(super) fn new(reason: FailureReason, message: impl Into<String>) -> Self {
        Self { error: RenderError::new(reason, message), log_tail: Vec::new() }
    }
}
