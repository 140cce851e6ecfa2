//! Reads what a .blend says about itself, without Blender.
//!
//! A .blend is a header and a row of blocks, plain or compressed as a whole. Each block is a C struct as it lay
//! in Blender's memory; the last block but one, the DNA, tells how those structs were laid out. So a file is gone
//! through twice: for the DNA, passing over all else, and for what is wanted. A data block, like an object, is
//! followed by what belongs to it, like its modifiers; so one data block at a time is in memory (`group`), and
//! what it says is noted (`notes`).
//!
//! What a file contains is never trusted: any bytes at all give an answer or a [`BlendError`], with bounded
//! memory.

mod bakes;
mod dna;
mod driver;
mod error;
mod file;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod group;
mod hazard;
mod header;
mod imports;
mod needs;
mod notes;
mod numbered;
mod numbering;
mod pointers;
mod reach;
mod read;
mod reference;
mod rewrite;
mod scene;
mod stream;
mod strips;
mod survey;
mod text;
mod uses;

pub use error::BlendError;
pub use file::BlendFile;
pub use framecrew_model::BlenderVersion;
pub use hazard::Hazard;
pub use needs::{Needs, SceneNeeds};
pub use numbering::{Numbering, Outside};
pub use read::{VERSION_PREFIX_BYTES, read, read_version};
pub use reference::{Field, Files, Reference, ReferenceKind};
pub use rewrite::{RewriteError, rewrite};
pub use scene::{RenderView, Scene, ViewLayer};
pub use stream::Compression;
pub use survey::{Survey, survey};
pub use text::{byte_of, bytes_of_text, text_of_bytes};
pub use uses::{BlockId, Drawn, Sight, Uses};

#[cfg(test)]
mod tests;
