//! What a .blend is, and its scenes.

use crate::{BlenderVersion, Compression, Scene};

/// What a .blend says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlendFile {
    /// What saved it.
    pub version: BlenderVersion,
    /// How it is compressed.
    pub compression: Compression,
    /// Its scenes, in the order of the file. A library may have none.
    pub scenes: Vec<Scene>,
    /// Which of the scenes was open when it was saved, and is rendered if none is named.
    pub active_scene: usize,
}

impl BlendFile {
    /// The scene that is rendered if none is named.
    #[must_use]
    pub fn active(&self) -> Option<&Scene> {
        self.scenes.get(self.active_scene)
    }
}
