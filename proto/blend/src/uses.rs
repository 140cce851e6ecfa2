//! Data blocks by index, which of them use which, and what of them a render draws.

use std::collections::HashMap;

/// Maximum number of data blocks of a file, ten times that of the largest film sets.
pub(crate) const DATA_BLOCKS_MAX: usize = 2_000_000;

/// A data block of a file, by its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub(crate) u32);

impl BlockId {
    pub(crate) const FIRST: Self = Self(0);
}

/// The data blocks of a file, and which of them use which.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Uses {
    pub(crate) blocks: Vec<DataBlock>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DataBlock {
    /// The name with the letters of its type: `OBCube`.
    pub(crate) name: Box<str>,
    /// The library that contains it, if it is only linked here.
    pub(crate) library: Option<BlockId>,
    pub(crate) uses: Vec<BlockId>,
    pub(crate) hidden: Hidden,
}

/// In which pictures a data block appears neither by itself nor through others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Hidden {
    /// It may appear in all.
    #[default]
    Never,
    /// Only a view layer that is switched off has it.
    WithoutLayersThatAreOff,
    /// In all.
    Always,
}

/// Which objects of a file a render sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// All: a library does not tell what other files do with its objects.
    All,
    /// Those in any view layer, even one that is switched off.
    OfAllLayers,
    /// Those in the view layers that are switched on.
    OfLayersThatAreOn,
}

/// The data blocks of a file that are drawn.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Drawn(Vec<bool>);

impl Drawn {
    /// Whether a data block is drawn, or something drawn may depend on it.
    #[must_use]
    pub fn contains(&self, block: BlockId) -> bool {
        self.0.get(block.0 as usize).copied().unwrap_or(false)
    }
}

impl Uses {
    /// Returns the data block of the file itself with this name, like `OBCube`.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<BlockId> {
        let is_it = |block: &DataBlock| &*block.name == name && block.library.is_none();
        self.ids().zip(&self.blocks).find(|(_, block)| is_it(block)).map(|(id, _)| id)
    }

    /// Returns all scenes of the file itself.
    pub fn scenes(&self) -> impl Iterator<Item = BlockId> {
        let is_scene = |block: &DataBlock| block.name.starts_with("SC") && block.library.is_none();
        self.ids().zip(&self.blocks).filter(move |(_, block)| is_scene(block)).map(|(id, _)| id)
    }

    /// Returns all data blocks of the file itself by name.
    #[must_use]
    pub fn by_name(&self) -> HashMap<&str, BlockId> {
        let own = self.ids().zip(&self.blocks).filter(|(_, block)| block.library.is_none());
        own.map(|(id, block)| (&*block.name, id)).collect()
    }

    /// Adds a data block and everything in sight that it uses to `drawn`. Returns the linked data blocks: the
    /// library and the name in it.
    pub fn draw<'u>(
        &'u self,
        drawn: &mut Drawn,
        block: BlockId,
        sight: Sight,
    ) -> Vec<(BlockId, &'u str)> {
        drawn.0.resize(self.blocks.len(), false);
        let mut linked = Vec::new();
        let mut next = vec![block];
        while let Some(id) = next.pop() {
            let Some(is_drawn) = drawn.0.get_mut(id.0 as usize) else { continue };
            let Some(block) = self.blocks.get(id.0 as usize).filter(|_| !*is_drawn) else {
                continue;
            };
            *is_drawn = true;
            next.extend(block.uses.iter().filter(|used| self.is_seen(**used, sight)));
            if let Some(library) = block.library {
                linked.push((library, &*block.name));
                next.push(library);
            }
        }
        linked
    }

    fn is_seen(&self, block: BlockId, sight: Sight) -> bool {
        let hidden = self.blocks.get(block.0 as usize).map_or(Hidden::Never, |it| it.hidden);
        match sight {
            Sight::All => true,
            Sight::OfAllLayers => hidden != Hidden::Always,
            Sight::OfLayersThatAreOn => hidden == Hidden::Never,
        }
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = BlockId> + use<> {
        // The number of data blocks is limited, so it fits.
        (0..u32::try_from(self.blocks.len()).unwrap_or(u32::MAX)).map(BlockId)
    }
}
