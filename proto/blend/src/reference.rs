//! What a .blend refers to outside itself, and where in the file it says so.

use std::{
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use crate::{BlockId, Numbering, header::LengthPlace};

/// How long a path may be that is not stored in a field of fixed size, in bytes: as long as Blender's longest field
/// for one.
const FREE_TEXT_BYTES_MAX: usize = 1_024;

/// A file, or a row of files, outside the .blend that it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// What it is there for.
    pub kind: ReferenceKind,
    /// The data block that refers to it, like `Wood`, and a part of it, like `Scene/Strip.001`.
    pub owner: String,
    /// As stored: `//tex/a.png` beside the .blend, `/srv/a.png`, `C:\a.png`. What is not Unicode in it is replaced.
    pub path: String,
    /// The path with a stand-in for each byte that is not Unicode, if there are any.
    /// [`bytes_of_text`](crate::bytes_of_text) converts it back to the stored bytes.
    pub raw_path: Option<String>,
    /// How it stands for many files.
    pub files: Files,
    /// Where the path is stored.
    pub field: Field,
    /// The data block that refers to it.
    pub block: BlockId,
    /// For a sequence of files, the data blocks that show it and how each numbers it. Empty if only Blender can
    /// tell.
    pub numberings: Vec<(BlockId, Numbering)>,
    /// How the names of a point cache's files begin, if it shares a folder with others.
    pub cache_name: Option<String>,
    /// Whether a render can do without it: it is used if it exists, and not missed otherwise.
    pub is_optional: bool,
}

/// What an external file is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReferenceKind {
    /// Another .blend of which data blocks are used.
    Library,
    /// A picture, or a numbered row of them.
    Image,
    /// A movie used as a picture.
    Movie,
    /// A movie or row of pictures for tracking and compositing.
    MovieClip,
    /// A typeface.
    Font,
    /// A sound.
    Sound,
    /// Volumes: OpenVDB.
    Volume,
    /// Moving geometry: Alembic, USD.
    Cache,
    /// A folder of a baked smoke or liquid simulation.
    FluidCache,
    /// A folder of a baked simulation of particles, cloth and the like.
    PointCache,
    /// A file of points over time: MDD, PC2.
    MeshCache,
    /// A folder of baked ocean waves.
    OceanCache,
    /// A folder of a baked simulation of geometry nodes.
    NodesCache,
    /// A file that geometry nodes import.
    Import,
    /// The displacement of a multiresolution mesh, in a separate file.
    Displacement,
    /// What a strip of the video sequencer shows or plays.
    Strip,
    /// How a lamp spreads its light.
    Ies,
    /// A shader in the Open Shading Language.
    ShaderScript,
    /// A text whose words are in the .blend, too: nothing is missing without it.
    Text,
}

impl Reference {
    /// The path to look for. [`bytes_of_text`](crate::bytes_of_text) returns its bytes.
    #[must_use]
    pub fn stored_path(&self) -> &str {
        self.raw_path.as_deref().unwrap_or(&self.path)
    }
}

impl fmt::Display for ReferenceKind {
    /// As in `the image `Wood``.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Library => "library",
            Self::Image => "image",
            Self::Movie => "movie",
            Self::MovieClip => "movie clip",
            Self::Font => "font",
            Self::Sound => "sound",
            Self::Volume => "volume",
            Self::Cache => "geometry cache",
            Self::FluidCache => "fluid cache",
            Self::PointCache => "simulation cache",
            Self::MeshCache => "mesh cache",
            Self::OceanCache => "ocean cache",
            Self::NodesCache => "geometry nodes cache",
            Self::Import => "imported file",
            Self::Displacement => "multires displacement",
            Self::Strip => "strip",
            Self::Ies => "light profile",
            Self::ShaderScript => "shader script",
            Self::Text => "text",
        })
    }
}

/// How one path stands for files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Files {
    /// For one file.
    One,
    /// For one file per frame: the last digits of its name count.
    Sequence {
        /// The first number, where the file says so. Others may be used at other frames: take all there are.
        first: Option<i32>,
        /// How many, where the file says so.
        frames: Option<u32>,
    },
    /// For one file per tile: `<UDIM>` or `<UVTILE>` in its name (or, from Blender 2.8x, the number of the first
    /// tile, 1001) stands for the tile.
    Tiles {
        /// The numbers of the tiles: 1001, 1002, 1011.
        numbers: Vec<i32>,
    },
    /// For a folder, with all that is in it.
    Folder,
    /// For a folder, of which the files of these names are used.
    Named(Vec<String>),
}

/// Where a path is stored in a .blend. Good for [`rewrite`](crate::rewrite) of the same file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// In the decompressed file.
    pub(crate) at: u64,
    pub(crate) len_bytes: usize,
    /// Of all bytes there: tells whether the file is still the one that was surveyed.
    pub(crate) digest: u64,
    /// Where the field is a block of its own, which may be given any length.
    pub(crate) block: Option<LengthPlace>,
    /// Where the name of the file is stored apart from its folder.
    pub(crate) name: Option<Part>,
}

/// Another place of which the bytes are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) at: u64,
    pub(crate) len_bytes: usize,
    pub(crate) digest: u64,
}

impl Field {
    pub(crate) fn new(at: u64, bytes: &[u8], block: Option<LengthPlace>) -> Self {
        Self { at, len_bytes: bytes.len(), digest: digest(bytes), block, name: None }
    }

    /// Of a path that Blender makes up from the .blend's own.
    pub(crate) fn nowhere() -> Self {
        Self::new(0, b"", None)
    }

    /// With the file's name in another field.
    pub(crate) fn with_name(self, name: Self) -> Self {
        let part = Part { at: name.at, len_bytes: name.len_bytes, digest: name.digest };
        Self { name: Some(part), ..self }
    }

    /// How many bytes of text it takes; where the file's name is stored apart from its folder, how many the folder
    /// may have. None for a path that is not stored: Blender makes it up from the .blend's own.
    #[must_use]
    pub fn capacity(&self) -> usize {
        // Blender wants an end mark behind it.
        let len_bytes = if self.block.is_some() { FREE_TEXT_BYTES_MAX } else { self.len_bytes };
        len_bytes.saturating_sub(1)
    }
}

pub(crate) fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
