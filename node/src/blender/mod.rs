//! Finding Blender on this machine, or getting it there.

mod ask;
mod fetch;
mod find;
mod libraries;
mod offered;
mod provision;
pub(crate) mod shaders;
mod telling;

use std::{env, path::PathBuf};

pub(crate) use self::{
    ask::answer,
    fetch::Fetcher,
    find::{Asked, ask, ask_patiently},
    offered::{Offered, OfferedKind},
    telling::Telling,
};
pub use self::{
    fetch::Teller,
    find::{Search, Unsure, find, search, search_in},
    libraries::{
        InstallError, MissingLibrary, install_libraries, likely_missing_libraries,
        missing_libraries,
    },
    provision::{ProvisionError, ProvisionProgress, provision, provision_version, provisionable},
};
use crate::{confine, version::Version};

/// A Blender on this machine that has told its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundBlender {
    /// What it said.
    pub version: Version,
    /// How it is run.
    pub kind: Kind,
    /// The program, or the Python interpreter that has the module.
    pub path: PathBuf,
}

/// How a Blender is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The `blender` program.
    Executable,
    /// The `bpy` module in a Python interpreter.
    Module,
}

impl FoundBlender {
    /// Folders that its program reads besides the system's: its own, and those of Python's modules.
    pub(crate) fn folders(&self) -> Vec<PathBuf> {
        let mut folders = confine::installation(&self.path);
        if self.kind == Kind::Module {
            folders.extend(env::home_dir().map(|home| home.join(".local/lib")));
            let more = env::var_os("PYTHONPATH").unwrap_or_default();
            folders.extend(env::split_paths(&more).filter(|folder| confine::is_narrow(folder)));
        }
        folders
    }
}

/// Where Blenders are provisioned unless one is told otherwise: `framecrew` in the user's cache folder.
#[must_use]
pub fn default_cache() -> PathBuf {
    let home = env::home_dir().unwrap_or_else(env::temp_dir);
    let cache = env::var_os(if cfg!(windows) { "LOCALAPPDATA" } else { "XDG_CACHE_HOME" });
    let cache = cache.map(PathBuf::from).filter(|cache| cache.is_absolute());
    cache
        .unwrap_or_else(|| {
            home.join(if cfg!(target_os = "macos") { "Library/Caches" } else { ".cache" })
        })
        .join("framecrew")
}
