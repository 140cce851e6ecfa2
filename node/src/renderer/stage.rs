//! Prepares a project the way one Blender needs it.
//!
//! Layouts are shared and never change. Their files are links into the cache, read-only by their modes and behind
//! the walls. Blender reads nearly everything that way. It opens a few kinds of files for reading *and writing*,
//! or writes next to them, even if it only draws:
//!
//! | file | Blender | what it does |
//! |---|---|---|
//! | `meta/*.json` of a simulation or a Bake node, baked to disk | 4.5, 5.0 | opens each with `O_RDWR`; refused, the object is empty |
//! | `.oso` beside the `.osl` of a script node | all | compiles the script, and writes the result beside it; refused, the shader is black |
//!
//! Tracing showed that only `O_RDONLY` is used for point caches, external multires, images and libraries (3.4.1,
//! 4.5.15), and for Alembic and USD (4.5.15). Fluids, oceans, Dynamic Paint images, fonts and sounds were not
//! checked for write access.
//!
//! If a project has such files, its Blender gets a stand-in for the layout in its own folder. The stand-in has
//! real folders on the way to these files, private copies of them, and symbolic links to everything else. So
//! nothing that Blender writes reaches the layout, and nothing large is copied.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

/// Name of the folder for stand-ins in a Blender's own folder, the same as that of the layouts.
const STAGES: &str = "layouts";

/// Maximum size of a file that is copied. The metadata files of a bake have some kilobytes.
const COPIED_BYTES_MAX: u64 = 16 << 20;

/// Maximum size of all private copies for one Blender, enough for a bake of 100,000 frames. Files beyond it are
/// linked, and can only be read.
const COPIES_BYTES_MAX: u64 = 1 << 30;

/// Maximum depth of nested folders. File systems allow paths of some thousand bytes.
const DEPTH_MAX: usize = 512;

/// Returns where a Blender with the private folder `home` finds `blend`, a file in one of the `layouts`: at its
/// own path, or in a stand-in that this function creates. A stand-in for another project is removed. Blocks.
pub(super) fn set(blend: &Path, layouts: &Path, home: &Path) -> io::Result<PathBuf> {
    let stages = home.join(STAGES);
    let inside = blend.strip_prefix(layouts).ok();
    let Some(key) = inside.and_then(|inside| inside.components().next()) else {
        return Ok(blend.to_owned());
    };
    let (layout, stage) = (layouts.join(key), stages.join(key));
    if !stage.exists() {
        if stages.exists() {
            fs::remove_dir_all(&stages)?;
        }
        let plan = Folder::read(&layout, 0)?;
        if !cfg!(unix) || !plan.is_private {
            return Ok(blend.to_owned());
        }
        let mut room = COPIES_BYTES_MAX;
        if let Err(error) = plan.build(&layout, &stage, &mut room) {
            // An incomplete stand-in would pass for a complete one.
            let _ = fs::remove_dir_all(&stage);
            return Err(error);
        }
    }
    Ok(inside.map_or_else(|| blend.to_owned(), |inside| stages.join(inside)))
}

/// The contents of a folder of a layout.
#[derive(Debug, Default)]
struct Folder {
    folders: Vec<(PathBuf, Folder)>,
    files: Vec<PathBuf>,
    /// Whether Blender writes into the folder or into one below it.
    is_private: bool,
}

impl Folder {
    fn read(folder: &Path, depth: usize) -> io::Result<Self> {
        let mut read = Self::default();
        if depth > DEPTH_MAX {
            return Ok(read);
        }
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = PathBuf::from(entry.file_name());
            if entry.file_type()?.is_dir() {
                let below = Self::read(&entry.path(), depth + 1)?;
                read.is_private |= below.is_private;
                read.folders.push((name, below));
            } else {
                read.is_private |= is_written(&entry.path());
                read.files.push(name);
            }
        }
        Ok(read)
    }

    fn build(&self, from: &Path, to: &Path, room: &mut u64) -> io::Result<()> {
        fs::create_dir_all(to)?;
        for (name, folder) in &self.folders {
            let (from, to) = (from.join(name), to.join(name));
            match folder.is_private {
                true => folder.build(&from, &to, room)?,
                false => link(&from, &to)?,
            }
        }
        for name in &self.files {
            let (from, to) = (from.join(name), to.join(name));
            let bytes = fs::metadata(&from)?.len();
            if is_written(&from) && bytes <= COPIED_BYTES_MAX.min(*room) {
                *room -= bytes;
                // Not `fs::copy`, which also copies the read-only mode.
                io::copy(&mut fs::File::open(&from)?, &mut fs::File::create(&to)?)?;
            } else {
                link(&from, &to)?;
            }
        }
        Ok(())
    }
}

/// Whether Blender opens a file for writing, or writes next to it, even if it only draws.
fn is_written(path: &Path) -> bool {
    let is = |name: Option<&OsStr>, wanted: &str| {
        name.is_some_and(|name| name.to_string_lossy().eq_ignore_ascii_case(wanted))
    };
    let extension = path.extension();
    let is_of_a_bake = is(extension, "json") && is(path.parent().and_then(Path::file_name), "meta");
    is_of_a_bake || is(extension, "osl") || is(extension, "oso")
}

#[cfg(unix)]
fn link(from: &Path, to: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(from, to)
}

#[cfg(not(unix))]
fn link(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Creates a layout of read-only files and a folder for a Blender.
    fn layout(files: &[&str]) -> (tempfile::TempDir, PathBuf, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let (layouts, home) = (folder.path().join("layouts"), folder.path().join("home"));
        fs::create_dir_all(&home).unwrap();
        for file in files {
            let path = layouts.join("key").join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, file).unwrap();
            let mut mode = fs::metadata(&path).unwrap().permissions();
            mode.set_readonly(true);
            fs::set_permissions(&path, mode).unwrap();
        }
        (folder, layouts, home)
    }

    #[test]
    fn a_project_that_blender_only_reads_stays_in_its_layout() {
        let (_folder, layouts, home) = layout(&["a/shot.blend", "a/meta.json", "meta/x.png"]);
        let blend = layouts.join("key/a/shot.blend");
        assert_eq!(set(&blend, &layouts, &home).unwrap(), blend);
        assert_eq!(fs::read_dir(&home).unwrap().count(), 0);
        let elsewhere = Path::new("/elsewhere/shot.blend");
        assert_eq!(set(elsewhere, &layouts, &home).unwrap(), elsewhere);
    }

    #[test]
    fn blender_writes_into_private_copies_and_nothing_else_is_copied() {
        let files = ["a/shot.blend", "a/bake/meta/1.json", "a/bake/blobs/1.blob", "b/c.png"];
        let (_folder, layouts, home) = layout(&files);
        let staged = set(&layouts.join("key/a/shot.blend"), &layouts, &home).unwrap();
        assert_eq!(staged, home.join("layouts/key/a/shot.blend"));
        let root = home.join("layouts/key");
        for file in files {
            assert_eq!(fs::read_to_string(root.join(file)).unwrap(), file);
        }
        assert!(fs::symlink_metadata(root.join("b")).unwrap().is_symlink());
        assert!(fs::symlink_metadata(root.join("a/bake/blobs")).unwrap().is_symlink());
        let meta = root.join("a/bake/meta/1.json");
        fs::File::options().read(true).write(true).open(&meta).unwrap();
        fs::write(&meta, "changed").unwrap();
        fs::write(root.join("a/bake/meta/new"), "new").unwrap();
        let kept = layouts.join("key/a/bake/meta");
        assert_eq!(fs::read_to_string(kept.join("1.json")).unwrap(), "a/bake/meta/1.json");
        assert_eq!(fs::read_dir(kept).unwrap().count(), 1);
    }

    #[test]
    fn a_stand_in_is_removed_when_its_blender_gets_another_project() {
        let (_folder, layouts, home) = layout(&["shot.blend", "x.osl"]);
        set(&layouts.join("key/shot.blend"), &layouts, &home).unwrap();
        assert!(home.join("layouts/key/x.osl").exists());
        let other = layouts.join("other/shot.blend");
        fs::create_dir_all(layouts.join("other")).unwrap();
        fs::write(&other, "").unwrap();
        assert_eq!(set(&other, &layouts, &home).unwrap(), other);
        assert!(!home.join("layouts").exists());
        assert!(layouts.join("key/x.osl").exists());
    }
}
