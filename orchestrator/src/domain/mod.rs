//! The vocabulary of the orchestrator. Requests are parsed into it once, at the edge (`convert`), so that it cannot
//! hold an invalid value: a `FrameSet` is never empty, a `FrameRange` never reversed.

mod frames;
mod ids;
mod job;
mod kinds;
mod live;
mod node;
mod outcome;
mod version;

pub(crate) use self::live::{ActiveSlice, NodeState, NodeView, Progress};
pub use self::{
    frames::{FrameCursor, FrameRange, FrameSet},
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
    version::BlenderVersion,
};
