//! Objects: modifiers, particles and simulations.

use std::collections::HashSet;

use super::{Linked, Notes, PARTS_MAX, ParticleSystem, Particles, pointed};
use crate::{
    BlendError, Files, Hazard, ReferenceKind,
    bakes::NodesModifier,
    group::{Group, View},
    hazard::FLUID,
};

/// `OB_CAMERA`.
const CAMERA: i32 = 11;

/// `eModifierMode_Render`.
const MODIFIER_RENDERED: u64 = 1 << 1;

/// `FLUID_DOMAIN_BAKED_DATA`.
const FLUID_BAKED: u64 = 1 << 1;

/// `PSYS_HAIR_DYNAMICS`.
const HAIR_DYNAMICS: u64 = 1 << 2;

impl Notes {
    pub(super) fn object(&mut self, group: &Group<'_>) -> Result<(), BlendError> {
        let (object, name) = (group.id(), group.name());
        if object.int("type") == Some(CAMERA) {
            self.link(1)?;
            self.cameras.insert(object.address, Linked { name: name.clone(), is_camera: true });
        }
        for modifier in group.all("MeshCacheModifierData") {
            let owner = named_part(&name, &modifier);
            let before = self.references.len();
            self.refer(ReferenceKind::MeshCache, owner, modifier.path("filepath"), Files::One)?;
            if !rendered(&modifier) {
                self.excuse(before);
            }
        }
        for modifier in group.all("OceanModifierData") {
            // What is not baked is computed for any frame.
            if modifier.flag("cached", u64::MAX) {
                let (owner, path) = (named_part(&name, &modifier), modifier.path("cachepath"));
                let before = self.references.len();
                self.refer(ReferenceKind::OceanCache, owner, path, Files::Folder)?;
                if !rendered(&modifier) {
                    self.excuse(before);
                }
            }
        }
        self.fluids(group, &name)?;
        self.soft_things(group, &name)?;
        self.particle_systems(group, &name)?;
        self.nodes_modifiers(group, &name)
    }

    pub(super) fn fluids(&mut self, group: &Group<'_>, name: &str) -> Result<(), BlendError> {
        for modifier in group.all("FluidModifierData") {
            // `MOD_FLUID_TYPE_DOMAIN`.
            let Some(domain) = pointed(group, &modifier, "domain", "FluidDomainSettings") else {
                continue;
            };
            if !modifier.flag("type", 1) {
                continue;
            }
            let (owner, path) = (named_part(name, &modifier), domain.path("cache_directory"));
            let folder = path.as_ref().map(|(folder, _)| folder.clone());
            let before = self.references.len();
            self.refer(ReferenceKind::FluidCache, owner.clone(), path, Files::Folder)?;
            if domain.flag("cache_flag", FLUID_BAKED) {
                continue;
            }
            // It may never have been played.
            self.excuse(before);
            if rendered(&modifier) {
                let folders = folder.map(|folder| vec![vec![folder]]).unwrap_or_default();
                self.hazard_unless(folders, Hazard::NotSimulated { owner, what: FLUID });
            }
        }
        // Up to Blender 2.81, of which no other draws these simulations.
        for modifier in group.all("SmokeModifierData") {
            let domain = pointed(group, &modifier, "domain", "SmokeDomainSettings");
            if let Some(domain) = domain.filter(|_| modifier.flag("type", 1)) {
                let owner = named_part(name, &modifier);
                // The first of two.
                self.caches(group, &owner, domain.first_pointer("point_cache"))?;
                if rendered(&modifier) {
                    self.hazard(Hazard::LostSimulation { owner, what: "smoke" });
                }
            }
        }
        for fluid in group.all("FluidsimSettings") {
            // `OB_FLUIDSIM_DOMAIN`.
            if fluid.flag("type", 1 << 1) {
                let path = fluid.path("surfdataPath");
                self.refer(ReferenceKind::FluidCache, name.to_owned(), path, Files::Folder)?;
                self.hazard(Hazard::LostSimulation { owner: name.to_owned(), what: "liquid" });
            }
        }
        Ok(())
    }

    /// Cloth, soft bodies, painted surfaces.
    pub(super) fn soft_things(&mut self, group: &Group<'_>, name: &str) -> Result<(), BlendError> {
        let of_hair: HashSet<_> =
            group.all("ParticleSystem").filter_map(|system| system.pointer("clmd")).collect();
        for modifier in group.all("ClothModifierData") {
            if rendered(&modifier) && !of_hair.contains(&modifier.address) {
                let cache = modifier.pointer("point_cache");
                self.simulation(group, named_part(name, &modifier), "cloth", cache)?;
            }
        }
        for modifier in group.all("SoftbodyModifierData").filter(rendered) {
            for body in group.all("SoftBody") {
                self.part(1)?;
                let shared = pointed(group, &body, "shared", "SoftBody_Shared");
                let cache = shared.and_then(|shared| shared.pointer("pointcache"));
                let cache = cache.or_else(|| body.pointer("pointcache"));
                self.simulation(group, named_part(name, &modifier), "soft body", cache)?;
            }
        }
        for surface in group.all("DynamicPaintSurface") {
            // `MOD_DPAINT_ACTIVE`; a sequence of images (2) is baked into files that are used as such.
            if surface.flag("flags", 1) && surface.int("format") != Some(2) {
                let surface_name = surface.text("name").unwrap_or_default();
                let owner = format!("{name}/{surface_name}");
                let cache = surface.pointer("pointcache");
                self.simulation(group, owner, "dynamic paint", cache)?;
            }
        }
        Ok(())
    }

    pub(super) fn particle_systems(
        &mut self,
        group: &Group<'_>,
        name: &str,
    ) -> Result<(), BlendError> {
        let drawn: HashSet<_> = group
            .all("ParticleSystemModifierData")
            .filter(rendered)
            .filter_map(|modifier| modifier.pointer("psys"))
            .collect();
        for system in group.all("ParticleSystem") {
            let system_name = system.text("name").unwrap_or_default();
            let owner = format!("{name}/{system_name}");
            let is_stored = self.caches(group, &owner, system.pointer("pointcache"))?;
            if let Some(settings) = system.pointer("part")
                && drawn.contains(&system.address)
                && !is_stored
            {
                self.link(1)?;
                self.particle_systems.push(ParticleSystem {
                    block: self.block,
                    owner,
                    settings,
                    has_hair_dynamics: system.flag("flag", HAIR_DYNAMICS),
                });
            }
        }
        Ok(())
    }

    pub(super) fn nodes_modifiers(
        &mut self,
        group: &Group<'_>,
        name: &str,
    ) -> Result<(), BlendError> {
        for modifier in group.all("NodesModifierData") {
            let owner = named_part(name, &modifier);
            let folder = modifier.either("bake_directory", "simulation_bake_directory");
            let folder = folder.and_then(|address| group.text_at(address));
            let shared = folder.as_ref().map(|(folder, _)| folder.clone());
            self.refer(ReferenceKind::NodesCache, owner.clone(), folder, Files::Folder)?;
            let bakes = modifier.pointer("bakes");
            let bakes = || bakes.into_iter().flat_map(|at| group.at(at, "NodesModifierBake"));
            self.part(bakes().take(PARTS_MAX + 1).count())?;
            self.imports.modifier(group, &modifier, &owner, self.block);
            for bake in bakes() {
                let folder = bake.pointer("directory").and_then(|at| group.text_at(at));
                self.refer(ReferenceKind::NodesCache, owner.clone(), folder, Files::Folder)?;
            }
            if let Some(tree) = modifier.pointer("node_group")
                && rendered(&modifier)
            {
                self.link(1)?;
                let about = (self.block, owner, tree);
                self.node_modifiers.push(NodesModifier::of(group, &modifier, shared, about));
            }
        }
        Ok(())
    }

    pub(super) fn particle_settings(&mut self, group: &Group<'_>) -> Result<(), BlendError> {
        let settings = group.id();
        let particles = match (settings.int("type"), settings.int("phystype")) {
            // `PART_HAIR`.
            (Some(2), _) => Particles::Hair,
            // `PART_PHYS_NO`.
            (_, Some(0)) => Particles::Still,
            _ => Particles::Flying,
        };
        self.link(1)?;
        self.particles.insert(settings.address, particles);
        Ok(())
    }
}

/// The object's name and the modifier's.
fn named_part(object: &str, modifier: &View<'_>) -> String {
    format!("{object}/{}", modifier.text("modifier.name").unwrap_or_default())
}

fn rendered(modifier: &View<'_>) -> bool {
    modifier.flag("modifier.mode", MODIFIER_RENDERED)
}
