//! What a renderer reports while it draws, and what it has drawn.

use super::{error::RenderError, warning::Warning};
use crate::output::{Checked, Promise};

/// What a renderer tells while it draws.
#[derive(Debug)]
pub(crate) enum Observation {
    /// How far it is.
    Progress(Progress),
    /// A line it wrote.
    Line(String),
    /// Something a person should know; may be told again and again.
    Warning(Warning),
}

/// How far a frame is, as far as its renderer says.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Progress {
    /// Samples or passes drawn so far; 0 of 0: unknown.
    pub(crate) samples_done: u32,
    pub(crate) samples_total: u32,
    /// Share that is done, 0 to 1.
    pub(crate) fraction: Option<f64>,
    pub(crate) remaining_seconds: Option<f64>,
    /// Memory of the renderer; 0: unknown.
    pub(crate) memory_bytes: u64,
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
