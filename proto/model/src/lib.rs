//! What clients, orchestrator and nodes speak about, whatever carries it: frame numbers, versions of Blender, and the
//! times and sizes that people type.

mod frames;
mod invalid;
mod parse;
mod units;
mod version;

pub use frames::{FrameCursor, FrameRange, FrameSet};
pub use invalid::{FRAMES_MAX, InvalidFrames};
pub use units::{InvalidSize, InvalidTime, bytes, seconds, time};
pub use version::BlenderVersion;
