//! Images, clips, caches and volumes, and how they are numbered.

use std::collections::HashMap;

use super::Notes;
use crate::{
    BlendError, Files, Numbering, ReferenceKind,
    group::{Group, View},
    numbered,
    reference::Field,
    uses::BlockId,
};

/// Maximum number of ways in which one sequence of files is numbered. Each is computed for every frame.
const NUMBERINGS_MAX: usize = 64;

impl Notes {
    pub(super) fn image(&mut self, group: &Group<'_>) -> Result<(), BlendError> {
        let image = group.id();
        // Since Blender 2.77 packed files are a list.
        let packed = group.all("ImagePackedFile");
        let is_packed = packed.filter(|file| file.pointer("packedfile").is_some()).count() > 0;
        if image.pointer("packedfile").is_some() || is_packed {
            return Ok(());
        }
        // `IMA_SRC_*`.
        let (kind, files) = match image.int("source") {
            Some(1) => (ReferenceKind::Image, Files::One),
            Some(2) => (ReferenceKind::Image, Files::Sequence { first: None, frames: None }),
            Some(3) => (ReferenceKind::Movie, Files::One),
            Some(6) => {
                let numbers = group.all("ImageTile").filter_map(|tile| tile.int("tile_number"));
                (ReferenceKind::Image, Files::Tiles { numbers: numbers.collect() })
            }
            _ => return Ok(()),
        };
        // `IMA_USE_VIEWS`, and each view in a file of its own (`R_IMF_VIEWS_INDIVIDUAL`).
        let has_views = image.flag("flag", 1 << 14) && image.int("views_format") == Some(0);
        let views = group.all("ImageView").filter(|_| has_views);
        let views: Vec<_> = views.filter_map(|view| view.path("filepath")).collect();
        let base = file_path(&image);
        // Blender reads the views' files instead of the one that they are named after.
        let unread = base.as_ref().filter(|_| !views.is_empty()).map(|(path, _)| path.clone());
        let is_view = |path: &String| views.iter().any(|(view, _)| view == path);
        let unread = unread.filter(|path| !is_view(path));
        for path in base.into_iter().chain(views.clone()) {
            let (before, is_unread) = (self.references.len(), unread.as_ref() == Some(&path.0));
            if let Files::Tiles { numbers } = &files {
                self.part(numbers.len())?;
            }
            self.refer(kind, group.name(), Some(path), files.clone())?;
            if matches!(files, Files::Sequence { .. }) && self.references.len() > before {
                self.image_rows.push((image.address, before));
            }
            if is_unread {
                self.excuse(before);
            }
        }
        Ok(())
    }

    /// Collects the image users in this data block, and how they number sequences.
    pub(super) fn image_users(&mut self, group: &Group<'_>) -> Result<(), BlendError> {
        let users = numbered::of_images(group);
        self.part(users.len())?;
        let block = self.block;
        self.image_users.extend(users.into_iter().map(|(image, it)| (image, (block, it))));
        Ok(())
    }

    /// Assigns the numberings to image sequences.
    pub(super) fn number_images(&mut self) {
        let mut users: HashMap<u64, Vec<(BlockId, Numbering)>> = HashMap::new();
        for (image, user) in std::mem::take(&mut self.image_users) {
            let users = users.entry(image).or_default();
            if users.len() < NUMBERINGS_MAX && !users.contains(&user) {
                users.push(user);
            }
        }
        let images = std::mem::take(&mut self.image_rows);
        // With remapped time the frames do not match.
        if self.remaps_time {
            for reference in &mut self.references {
                reference.numberings.clear();
            }
            return;
        }
        for (address, reference) in images {
            if let (Some(users), Some(reference)) =
                (users.get(&address), self.references.get_mut(reference))
            {
                reference.numberings.clone_from(users);
            }
        }
    }

    /// Assigns the numbering of a clip, volume or cache file to the last reference.
    pub(super) fn number_last(&mut self, group: &Group<'_>) {
        let block = self.block;
        if let (Some(numbering), Some(reference)) =
            (Numbering::of_block(group), self.references.last_mut())
            && reference.block == block
            && matches!(reference.files, Files::Sequence { .. })
        {
            reference.numberings = vec![(block, numbering)];
        }
    }

    pub(super) fn movie_clip(&mut self, group: &Group<'_>) -> Result<(), BlendError> {
        let clip = group.id();
        let is_sequence = clip.int("source") == Some(1);
        let files =
            if is_sequence { Files::Sequence { first: None, frames: None } } else { Files::One };
        self.refer(ReferenceKind::MovieClip, group.name(), file_path(&clip), files)?;
        self.number_last(group);
        Ok(())
    }

    pub(super) fn cache_file(&mut self, group: &Group<'_>) -> Result<(), BlendError> {
        let cache = group.id();
        let files = if cache.flag("is_sequence", u64::MAX) {
            Files::Sequence { first: None, frames: None }
        } else {
            Files::One
        };
        self.refer(ReferenceKind::Cache, group.name(), cache.path("filepath"), files.clone())?;
        self.number_last(group);
        for layer in group.all("CacheFileLayer") {
            let path = layer.path("filepath");
            self.refer(ReferenceKind::Cache, group.name(), path, files.clone())?;
        }
        Ok(())
    }

    pub(super) fn volume(&mut self, group: &Group<'_>) -> Result<(), BlendError> {
        let volume = group.id();
        if volume.pointer("packedfile").is_some() {
            return Ok(());
        }
        let files = if volume.flag("is_sequence", u64::MAX) {
            let frames = volume.int("frame_duration").and_then(|frames| frames.try_into().ok());
            Files::Sequence { first: None, frames }
        } else {
            Files::One
        };
        self.refer(ReferenceKind::Volume, group.name(), volume.path("filepath"), files)?;
        self.number_last(group);
        Ok(())
    }

    /// A data block that is one file, or has it packed.
    pub(super) fn packable(
        &mut self,
        kind: ReferenceKind,
        group: &Group<'_>,
    ) -> Result<(), BlendError> {
        let id = group.id();
        if id.pointer("packedfile").is_some() {
            return Ok(());
        }
        // The font that Blender has in itself.
        let path = file_path(&id).filter(|(path, _)| path != "<builtin>");
        self.refer(kind, group.name(), path, Files::One)
    }
}

/// The path of a data block that is a file. Blender calls it `filepath` by now, but writes `name`.
fn file_path(id: &View<'_>) -> Option<(String, Field)> {
    id.path("name").or_else(|| id.path("filepath"))
}
