//! Kinds of things that are stored and sent as numbers.

use serde::{Deserialize, Serialize};

/// Defines an enum that is stored as a number. A number never changes its meaning, or stored jobs would.
macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident, $what:literal { $($(#[$variant_doc:meta])* $variant:ident = $number:literal,)* }) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
        )]
        #[serde(into = "i32", try_from = "i32")]
        pub enum $name {
            $($(#[$variant_doc])* $variant = $number,)*
        }

        impl From<$name> for i32 {
            fn from(kind: $name) -> Self {
                kind as Self
            }
        }

        impl TryFrom<i32> for $name {
            type Error = UnknownNumber;

            fn try_from(number: i32) -> Result<Self, UnknownNumber> {
                match number {
                    $($number => Ok(Self::$variant),)*
                    _ => Err(UnknownNumber { what: $what, number }),
                }
            }
        }
    };
}

/// A number that no kind has; perhaps a later version wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{number} is no {what}")]
pub struct UnknownNumber {
    /// The kind that was read.
    pub what: &'static str,
    /// The number.
    pub number: i32,
}

numbered! {
    /// A render engine.
    RenderEngine, "engine" {
        /// As the file says.
        #[default]
        OfFile = 0,
        /// Cycles.
        Cycles = 1,
        /// EEVEE.
        Eevee = 2,
        /// Workbench.
        Workbench = 3,
    }
}

numbered! {
    /// A format of frames.
    ImageFormat, "image format" {
        /// As the file says.
        #[default]
        OfFile = 0,
        /// PNG.
        Png = 1,
        /// JPEG.
        Jpeg = 2,
        /// OpenEXR.
        OpenExr = 3,
        /// TIFF.
        Tiff = 4,
        /// OpenEXR with one file for all passes.
        OpenExrMultilayer = 5,
        /// WebP.
        Webp = 6,
    }
}

impl ImageFormat {
    /// Whether it is OpenEXR, whose scene-linear values no movie can hold.
    #[must_use]
    pub fn is_open_exr(self) -> bool {
        matches!(self, Self::OpenExr | Self::OpenExrMultilayer)
    }
}

numbered! {
    /// A format of movies.
    MovieFormat, "movie format" {
        /// MP4.
        #[default]
        Mp4 = 1,
        /// Matroska.
        Mkv = 2,
        /// QuickTime.
        Mov = 3,
        /// WebM.
        Webm = 4,
    }
}

numbered! {
    /// How a node runs a Blender.
    BlenderKind, "kind of Blender" {
        /// Not stated.
        #[default]
        Unspecified = 0,
        /// As a program.
        Executable = 1,
        /// As a Python module.
        Module = 2,
        /// It draws test pictures without Blender.
        Synthetic = 3,
        /// The node fetches it when a job needs it.
        Provisionable = 4,
    }
}

numbered! {
    /// The subject of a warning.
    WarningKind, "kind of warning" {
        /// Not stated, or from a later version of the node.
        #[default]
        Unspecified = 0,
        /// A file that the scene uses is missing.
        MissingFile = 1,
        /// A library that the scene links is missing.
        MissingLibrary = 2,
        /// A script was not allowed to run.
        ScriptBlocked = 3,
        /// The engine.
        Engine = 4,
        /// The denoiser.
        Denoiser = 5,
        /// The format of the output.
        Format = 6,
        /// A simulation without a bake.
        Unbaked = 7,
        /// Color management.
        Color = 8,
        /// A frame that is incomplete.
        Incomplete = 9,
        /// An add-on.
        Addon = 10,
        /// Blender crashed after the frame.
        CrashedAfter = 11,
        /// Another message of Blender.
        Blender = 12,
    }
}
