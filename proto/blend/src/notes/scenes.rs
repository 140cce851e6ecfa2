//! Scenes and their strips.

use std::collections::HashSet;

use super::{Notes, PARTS_MAX, SCENES_MAX, SceneLinks, pointed};
use crate::{
    BlendError, Files, Numbering, ReferenceKind, Scene,
    group::{Group, View},
    scene::USES_SEQUENCER,
    strips::Strips,
};

/// Views of a scene.
const VIEWS_MAX: usize = 256;

impl Notes {
    pub(super) fn scene(&mut self, group: &Group<'_>) -> Result<(), BlendError> {
        if self.scenes.len() == SCENES_MAX {
            return Err(BlendError::TooMany { what: "scenes", limit: SCENES_MAX });
        }
        let scene = Scene::parse(group, self.saved_by);
        let scene = scene.ok_or(BlendError::Damaged("a scene of it makes no sense"))?;
        let objects: HashSet<_> =
            group.all("Base").filter_map(|base| base.pointer("object")).collect();
        self.link(objects.len())?;
        let links = SceneLinks {
            block: self.block,
            camera: group.id().pointer("camera"),
            objects: objects.into_iter().collect(),
        };
        self.scenes.push((group.id().address, scene, links));
        let render = group.id();
        self.remaps_time |= render.int("r.framapto") != render.int("r.images");
        self.strips(group)?;
        for world in group.all("RigidBodyWorld") {
            // `RBW_FLAG_MUTED`; without a collection nothing moves.
            if world.pointer("group").is_some() && !world.flag("flag", 1) {
                let shared = pointed(group, &world, "shared", "RigidBodyWorld_Shared");
                let cache = shared.and_then(|shared| shared.pointer("pointcache"));
                let cache = cache.or_else(|| world.pointer("pointcache"));
                self.simulation(group, group.name(), "rigid body world", cache)?;
            }
        }
        Ok(())
    }

    /// Of all scenes' strips, those in meta strips included: all belong to the scene.
    pub(super) fn strips(&mut self, group: &Group<'_>) -> Result<(), BlendError> {
        let is_off = !group.id().flag("r.scemode", USES_SEQUENCER);
        let strips = Strips::of(group);
        for strip in group.all("Sequence") {
            // `SEQ_TYPE_*`: a picture, a movie, two kinds of sound.
            let Some(kind @ (0 | 3 | 4 | 5)) = strip.int("type") else { continue };
            let Some(data) = pointed(group, &strip, "strip", "Strip") else { continue };
            let Some(elements) = data.pointer("stripdata") else { continue };
            let name = strip.text("name").unwrap_or_default();
            let owner = format!("{}/{}", group.name(), name.get(2..).unwrap_or_default());
            let folder = data.path_or_empty("dir");
            let Some((folder, field)) = folder else { continue };
            let before = self.references.len();
            if kind == 0 {
                let names = group.at(elements, "StripElem").filter_map(|it| it.text("name"));
                let names: Vec<_> = names.take(PARTS_MAX + 1).collect();
                self.part(names.len())?;
                let count = names.len();
                let names = names.into_iter().filter(|name| !name.is_empty());
                let names = view_names(group, &strip, names);
                self.part(names.len())?;
                // Only then the strip's numbers are those of the names.
                let is_numbered = names.len() == count && !has_views(&strip);
                if !names.is_empty() {
                    let files = Files::Named(names);
                    self.refer(ReferenceKind::Strip, owner, Some((folder, field)), files)?;
                    let numbering = Numbering::of_strip(group, &strips, &strip);
                    if let Some(numbering) = numbering.filter(|_| is_numbered)
                        && let Some(reference) = self.references.last_mut()
                    {
                        reference.numberings = vec![(self.block, numbering)];
                    }
                }
            } else if let Some(element) = group.at(elements, "StripElem").next()
                && let Some((file, name)) = element.path("name")
            {
                let slash =
                    if folder.is_empty() || folder.ends_with(['/', '\\']) { "" } else { "/" };
                let path = format!("{folder}{slash}{file}");
                let path = Some((path, field.with_name(name)));
                self.refer(ReferenceKind::Strip, owner, path, Files::One)?;
            }
            if is_off || strips.part(&strip).is_muted {
                self.excuse(before);
            }
        }
        Ok(())
    }
}

/// Whether each view of a strip is in a file of its own: `SEQ_USE_VIEWS`, and `R_IMF_VIEWS_INDIVIDUAL`.
fn has_views(strip: &View<'_>) -> bool {
    strip.flag("flag", 1 << 29) && strip.int("views_format") == Some(0)
}

/// The names of a strip's pictures, of each eye where each has its own.
fn view_names(
    group: &Group<'_>,
    strip: &View<'_>,
    names: impl Iterator<Item = String>,
) -> Vec<String> {
    if !has_views(strip) {
        return names.collect();
    }
    let suffixes: Vec<_> = group
        .all("SceneRenderView")
        .take(VIEWS_MAX)
        .filter_map(|view| view.text("suffix"))
        .filter(|suffix| !suffix.is_empty())
        .collect();
    names
        .flat_map(|name| {
            let (stem, end) = name.rsplit_once('.').unwrap_or((&name, ""));
            let bare = suffixes.iter().find_map(|suffix| stem.strip_suffix(&**suffix));
            match bare {
                Some(bare) => {
                    suffixes.iter().map(|suffix| format!("{bare}{suffix}.{end}")).collect()
                }
                None => vec![name],
            }
        })
        .take(PARTS_MAX + 1)
        .collect()
}
