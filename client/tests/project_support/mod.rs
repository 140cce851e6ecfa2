//! A small project on the disk: `shot.blend` with the picture `//tex/wood.png` and the library `lib/props.blend`,
//! which has the picture `//../tex/metal.png`. Any of the paths can be changed.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

/// A .blend with its files, in a folder of its own.
pub struct Shot {
    pub base: tempfile::TempDir,
}

impl Shot {
    /// As it was made.
    pub fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        let shot = Self { base };
        for name in ["shot.blend", "lib/props.blend", "tex/wood.png", "tex/metal.png"] {
            shot.copy(name, name);
        }
        shot
    }

    /// A path in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    /// Puts a copy of one of the files at `to`.
    pub fn copy(&self, name: &str, to: &str) -> PathBuf {
        let to = self.path(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(Path::new(FIXTURES).join(name), &to).unwrap();
        to
    }

    /// Moves one of the files.
    pub fn rename(&self, from: &str, to: &str) -> PathBuf {
        let to = self.path(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::rename(self.path(from), &to).unwrap();
        to
    }

    /// Writes a file.
    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Changes the path that the data block `owner` of a .blend refers to.
    pub fn point(&self, blend: &str, owner: &str, text: &str) {
        let blend = self.path(blend);
        let survey = framecrew_blend::survey(&blend).unwrap();
        let reference = survey.references.iter().find(|reference| reference.owner == owner);
        let field = reference.unwrap_or_else(|| panic!("{:?}", survey.references)).field;
        let changed = blend.with_extension("changed");
        let mut to = File::create(&changed).unwrap();
        framecrew_blend::rewrite(&blend, &mut to, &[(field, text.to_owned())]).unwrap();
        fs::rename(&changed, &blend).unwrap();
    }

    /// The whole .blend, decompressed.
    pub fn bytes(&self) -> Vec<u8> {
        zstd::decode_all(File::open(self.path("shot.blend")).unwrap()).unwrap()
    }
}

/// Names of what is in a folder, with those in it.
pub fn tree(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(&at).into_iter().flatten() {
            let path = entry.unwrap().path();
            names.push(path.strip_prefix(folder).unwrap().display().to_string());
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            }
        }
    }
    names.sort();
    names
}
