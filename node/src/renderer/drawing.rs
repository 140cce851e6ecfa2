//! What a renderer reports while it draws, and what it has drawn.

use framecrew_proto::v1::{SliceProgress, Warning};

use super::error::RenderError;
use crate::output::{Checked, Promise};

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
