//! Compiled shaders, kept from one Blender to the next. EEVEE takes half a minute of a processor to compile its own,
//! and a Blender within walls cannot keep them where the next one looks: each gets a copy, and gives a larger one
//! back. None does in which a file's own Python ran.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Files and bytes that are kept, at most: EEVEE of one version has 300 with 12 MB, and nothing is ever sorted out.
const FILES_MAX: usize = 8_192;
const BYTES_MAX: u64 = 256 << 20;

/// Levels of folders below a cache; Mesa's has one.
const DEPTH_MAX: usize = 4;

/// Variables that tell drivers where to keep what they compile.
pub(crate) const VARIABLES: [&str; 3] =
    ["MESA_SHADER_CACHE_DIR", "__GL_SHADER_DISK_CACHE_PATH", "CUDA_CACHE_PATH"];

/// Files below a folder, as paths in it, with their sizes. Links are none.
fn files(folder: &Path, depth: usize) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (name, kind) = (PathBuf::from(entry.file_name()), entry.file_type()?);
        if kind.is_file() {
            all.push((name, entry.metadata()?.len()));
        } else if kind.is_dir() && depth > 0 {
            let below = files(&entry.path(), depth - 1)?;
            all.extend(below.into_iter().map(|(path, bytes)| (name.join(path), bytes)));
        }
    }
    Ok(all)
}

/// Copies what was `kept` to where a new Blender will look. Blocks; whatever goes wrong costs only time.
/// Returns how many bytes that is.
pub(crate) fn lend(kept: &Path, to: &Path) -> u64 {
    copy(kept, to).unwrap_or(0)
}

/// Keeps what a Blender has by now, if that is more than the bytes it was `lent`. Blocks. Returns how many are kept.
pub(crate) fn take_back(kept: &Path, from: &Path, lent: u64) -> u64 {
    let Ok(has) = files(from, DEPTH_MAX) else { return lent };
    let bytes: u64 = has.iter().map(|(_, bytes)| bytes).sum();
    if bytes <= lent || has.len() > FILES_MAX || bytes > BYTES_MAX {
        return lent;
    }
    match replace(kept, from) {
        Ok(()) => bytes,
        Err(_) => lent,
    }
}

/// The new ones take the place of the old ones as a whole: caches have indexes that belong to their other files.
fn replace(kept: &Path, from: &Path) -> io::Result<()> {
    let beside = kept.parent().unwrap_or(Path::new(""));
    let swap = tempfile::Builder::new().prefix("shaders-").tempdir_in(beside)?;
    let (new, old) = (swap.path().join("new"), swap.path().join("old"));
    copy(from, &new)?;
    match fs::rename(kept, old) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::rename(new, kept)
}

fn copy(from: &Path, to: &Path) -> io::Result<u64> {
    fs::create_dir_all(to)?;
    let all = files(from, DEPTH_MAX)?;
    for (path, _) in &all {
        let target = to.join(path);
        fs::create_dir_all(target.parent().unwrap_or(to))?;
        fs::copy(from.join(path), target)?;
    }
    Ok(all.iter().map(|(_, bytes)| bytes).sum())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_next_blender_has_what_the_last_one_compiled() {
        let folder = tempfile::tempdir().unwrap();
        let [kept, first, second] =
            ["kept", "first", "second"].map(|name| folder.path().join(name));
        assert_eq!(lend(&kept, &first), 0);
        fs::create_dir(first.join("ab")).unwrap();
        fs::write(first.join("ab/cd"), "compiled").unwrap();
        assert_eq!(take_back(&kept, &first, 0), 8);
        assert_eq!(lend(&kept, &second), 8);
        assert_eq!(fs::read_to_string(second.join("ab/cd")).unwrap(), "compiled");
        // What is no news is not copied again.
        fs::write(second.join("ab/cd"), "other").unwrap();
        assert_eq!(take_back(&kept, &second, 8), 8);
        assert_eq!(fs::read_to_string(kept.join("ab/cd")).unwrap(), "compiled");
        fs::write(second.join("ef"), "more").unwrap();
        assert_eq!(take_back(&kept, &second, 8), 9);
        assert_eq!(fs::read_to_string(kept.join("ef")).unwrap(), "more");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "nothing is left beside");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let [kept, from] = ["kept", "from"].map(|name| folder.path().join(name));
        fs::create_dir(&from).unwrap();
        fs::write(from.join("a"), "1").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", from.join("b")).unwrap();
        assert_eq!(take_back(&kept, &from, 0), 1);
        assert!(!kept.join("b").exists());
    }
}
