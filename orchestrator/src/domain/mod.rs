//! The vocabulary of the orchestrator. Requests are parsed into it once, at the edge (`convert`), so that it cannot
//! hold an invalid value: a `FrameSet` is never empty, a `FrameRange` never reversed.

mod ids;
mod job;
mod kinds;
mod live;
mod node;
mod outcome;

pub(crate) use self::live::{ActiveSlice, NodeState, NodeView, Progress};
pub use framecrew_model::{BlenderVersion, FrameCursor, FrameRange, FrameSet};

pub use self::{
    ids::{BatchId, Epoch, Incarnation, JobId, NodeName, Revision, Slice, Time},
    job::{
        Chunk, FrameCounts, JobSpec, JobState, MovieOf, Project, ProjectFile, RenderSettings,
        Requirements, TimeLimits, Work,
    },
    kinds::{BlenderKind, ImageFormat, MovieFormat, RenderEngine, UnknownNumber, WarningKind},
    node::{Blender, NodeDescription},
    outcome::{
        Attempts, Failure, FailureReason, Frame, FrameState, Output, Preview, Rendered, Warning,
    },
};
