//! What goes wrong with a .blend on another machine, without a word.

use std::fmt;

use crate::BlockId;

/// A simulation that not even its first frame shows, unless it is baked or was played.
pub(crate) const FLUID: &str = "fluid";

/// Something that Blender draws wrong in silence. Its text is one sentence that says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hazard {
    /// A text that runs as a script when the file is opened, if scripts may.
    RegisteredText {
        /// The text.
        name: String,
    },
    /// A driver that needs Python, so that it stands still unless scripts may run.
    Driver {
        /// The data block.
        owner: String,
        /// What it computes.
        expression: String,
    },
    /// A simulation that is not stored: a frame drawn alone, without those before, shows another state.
    UnbakedSimulation {
        /// The data block, and which part of it.
        owner: String,
        /// Like `cloth`.
        what: &'static str,
    },
    /// A simulation that is not stored, and that Blender computes only while the file is played, never in a render.
    NotSimulated {
        /// The object, and the modifier.
        owner: String,
        /// Like `fluid`.
        what: &'static str,
    },
    /// A node that imports a file whose path is computed, so that it is not known before the node runs.
    ComputedPath {
        /// The node tree.
        owner: String,
    },
    /// A simulation of Blender 2.81 or earlier. No later version supports it, or a bake of it.
    LostSimulation {
        /// The data block, and the part of it.
        owner: String,
        /// The kind of simulation, such as `smoke`.
        what: &'static str,
    },
}

/// The subject of a hazard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct About {
    /// The data block.
    pub(crate) block: BlockId,
    /// Lists of folders as stored in the file. If each list has a folder with a bake, there is no hazard.
    pub(crate) folders: Vec<Vec<String>>,
}

impl Hazard {
    /// Whether a scene that begins with frame `begins` shows less than it should at one of these frames.
    #[must_use]
    pub fn lacks_at(&self, mut frames: impl Iterator<Item = i32>, begins: i32) -> bool {
        match self {
            Self::NotSimulated { what, .. } => *what == FLUID || frames.any(|frame| frame > begins),
            _ => false,
        }
    }
}

impl fmt::Display for Hazard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RegisteredText { name } => write!(
                f,
                "the text `{name}` is a script that runs when the file is opened; allow scripts if the picture needs it"
            ),
            Self::Driver { owner, expression } => write!(
                f,
                "a driver of `{owner}` computes `{expression}` in Python and stands still unless scripts are allowed"
            ),
            Self::UnbakedSimulation { owner, what } => write!(
                f,
                "the {what} of `{owner}` is not baked, so frames drawn separately do not match; bake it and save"
            ),
            Self::NotSimulated { owner, what } => write!(
                f,
                "the {what} of `{owner}` is not baked, and a render does not simulate it; bake it and save"
            ),
            Self::ComputedPath { owner } => write!(
                f,
                "the geometry nodes `{owner}` import a file whose path they compute; it is not sent: put the path into \
                 the node itself, or into an input of the modifier"
            ),
            Self::LostSimulation { owner, what } => write!(
                f,
                "the {what} of `{owner}` is of a kind that no Blender since 2.82 reads, nor its cache; simulate it \
                 anew in a newer Blender"
            ),
        }
    }
}
