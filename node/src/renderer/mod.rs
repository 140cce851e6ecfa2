//! The boundary to whatever draws: Blender, in a warm process for each slot, or a synthetic picture.

mod blender;
mod choice;
mod drawing;
mod error;
mod hidden;
pub(crate) mod lines;
pub(crate) mod progress;
mod proof;
mod roster;
mod scene;
mod slots;
mod soundtrack;
mod span;
mod stage;
mod synthetic;
mod warning;
pub(crate) mod warnings;
mod worker;

pub use self::{
    choice::{InjectedFaults, InvalidFaults, InvalidRenderer, RendererChoice},
    proof::prove,
};
pub(crate) use self::{
    drawing::{Drawn, Observation, Progress},
    error::RenderError,
    lines::{Lines, shorten},
    scene::{Engine, ImageFormat, Scene, Settings},
    slots::{Slot, Slots},
    soundtrack::{Soundtrack, duration_seconds},
    span::Span,
    warning::{Warning, WarningKind},
};
