//! Why a renderer drew nothing.

use std::time::Duration;

use super::lines;
use crate::failure::FailureReason;

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
