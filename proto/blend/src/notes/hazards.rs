//! Scripts and simulations that may not give the same picture.

use super::{DISK_CACHES, Notes, pointed};
use crate::{
    BlendError, Files, Hazard, ReferenceKind, driver::needs_scripts, group::Group, reference::Field,
};

/// `PTCACHE_BAKED`, `PTCACHE_DISK_CACHE`, `PTCACHE_EXTERNAL`.
const CACHE_BAKED: u64 = 1 << 0;
const CACHE_ON_DISK: u64 = 1 << 6;
const CACHE_EXTERNAL: u64 = 1 << 9;

/// `FCURVE_MUTED`.
const CURVE_MUTED: u64 = 1 << 4;

/// `TXT_ISSCRIPT`.
const TEXT_REGISTERED: u64 = 1 << 4;

/// Variables of a driver.
const VARIABLES_MAX: usize = 1_000;

impl Notes {
    pub(super) fn drivers(&mut self, group: &Group<'_>) {
        for curve in group.all("FCurve") {
            let Some(driver) = pointed(group, &curve, "driver", "ChannelDriver") else { continue };
            // `DRIVER_TYPE_PYTHON`.
            if driver.int("type") != Some(1) || curve.flag("flag", CURVE_MUTED) {
                continue;
            }
            let Some(expression) = driver.text("expression") else { continue };
            let mut variables = Vec::new();
            let mut next = driver.pointer("variables.first");
            for _ in 0..VARIABLES_MAX {
                let variable = next.and_then(|at| group.at(at, "DriverVar").next());
                let Some(variable) = variable else { break };
                variables.extend(variable.text("name"));
                next = variable.pointer("next");
            }
            if needs_scripts(&expression, &variables) {
                self.hazard(Hazard::Driver { owner: group.name(), expression });
            }
        }
    }

    /// A simulation that is computed from one frame to the next, by its cache.
    pub(super) fn simulation(
        &mut self,
        group: &Group<'_>,
        owner: String,
        what: &'static str,
        cache: Option<u64>,
    ) -> Result<(), BlendError> {
        if !self.caches(group, &owner, cache)? {
            self.hazard(Hazard::UnbakedSimulation { owner, what });
        }
        Ok(())
    }

    /// Notes where a cache lies. Says whether it is complete, as far as the file tells.
    pub(super) fn caches(
        &mut self,
        group: &Group<'_>,
        owner: &str,
        cache: Option<u64>,
    ) -> Result<bool, BlendError> {
        let cache = cache.and_then(|address| group.at(address, "PointCache").next());
        let Some(cache) = cache else { return Ok(false) };
        let is_external = cache.flag("flag", CACHE_EXTERNAL);
        if is_external {
            let path = cache.path("path");
            self.refer(ReferenceKind::PointCache, owner.to_owned(), path, Files::Folder)?;
        } else if cache.flag("flag", CACHE_ON_DISK) {
            let path = Some((DISK_CACHES.to_owned(), Field::nowhere()));
            self.refer(ReferenceKind::PointCache, owner.to_owned(), path, Files::Folder)?;
            // All caches of a file share the folder. One without a name of its own has the object's, in hexadecimal.
            let hex = || group.name().bytes().map(|byte| format!("{byte:02X}")).collect();
            let name = cache.text("name").filter(|name| !name.is_empty()).unwrap_or_else(hex);
            if let Some(reference) = self.references.last_mut() {
                reference.cache_name = Some(name);
            }
        }
        Ok(is_external || cache.flag("flag", CACHE_BAKED))
    }

    pub(super) fn text(&mut self, group: &Group<'_>) -> Result<(), BlendError> {
        let text = group.id();
        if text.flag("flags", TEXT_REGISTERED) {
            self.hazard(Hazard::RegisteredText { name: group.name() });
        }
        let path = text.either("name", "filepath").and_then(|address| group.text_at(address));
        self.refer(ReferenceKind::Text, group.name(), path, Files::One)
    }

    pub(super) fn shader_nodes(&mut self, group: &Group<'_>) -> Result<(), BlendError> {
        for (structure, kind) in [
            ("NodeShaderTexIES", ReferenceKind::Ies),
            ("NodeShaderScript", ReferenceKind::ShaderScript),
        ] {
            for node in group.all(structure) {
                // `NODE_IES_EXTERNAL`, `NODE_SCRIPT_EXTERNAL`: else it is a text in the .blend.
                if node.int("mode") == Some(1) {
                    let path = node.path("filepath");
                    let script = path.as_ref().map(|(path, _)| path.clone()).unwrap_or_default();
                    self.refer(kind, group.name(), path, Files::One)?;
                    if let Some(stem) = script.strip_suffix(".osl") {
                        self.compiled_script(group, format!("{stem}.oso"))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Refers to the compiled form of a shader script, which Cycles uses as long as it is newer.
    pub(super) fn compiled_script(
        &mut self,
        group: &Group<'_>,
        path: String,
    ) -> Result<(), BlendError> {
        let path = Some((path, Field::nowhere()));
        self.refer(ReferenceKind::ShaderScript, group.name(), path, Files::One)?;
        if let Some(reference) = self.references.last_mut() {
            reference.is_optional = true;
        }
        Ok(())
    }
}
