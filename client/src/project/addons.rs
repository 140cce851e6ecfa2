//! Add-ons that are sent with a project, as .zip files that Blender can install.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use framecrew_proto::limits::ADDONS_MAX;

use super::{collection::fault, layout::Placed};
use crate::error::Error;

/// Folder of the project that holds the add-ons.
const FOLDER: &str = "framecrew-addons";

/// Maximum size of an add-on. Add-ons that include whole libraries have some hundred megabytes.
const ADDON_BYTES_MAX: u64 = 512 << 20;

/// Maximum size of the central directory of an archive: enough for 100,000 names.
const LIST_BYTES_MAX: u32 = 16 << 20;

/// Size of the part at the end of an archive in which the end record begins: the record and the longest comment.
const END_BYTES: u64 = 22 + 65_535;

/// Checks add-ons and assigns their places in the project.
pub(crate) fn load(files: &[PathBuf]) -> Result<Vec<Placed>, Error> {
    if let Some(more) = files.get(ADDONS_MAX) {
        return Err(fault(more, "is one add-on too many: --addon takes 16 at most"));
    }
    let mut placed: Vec<Placed> = Vec::new();
    for file in files {
        let size_bytes = check(file)?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let name = name.replace(|c: char| matches!(c, ':' | '\\') || c.is_control(), "_");
        let place = format!("{FOLDER}/{name}");
        if placed.iter().any(|other| other.place.to_lowercase() == place.to_lowercase()) {
            return Err(fault(file, "has the same name as another add-on; rename one"));
        }
        placed.push(Placed {
            place,
            source: file.clone(),
            size_bytes,
            texts: Vec::new(),
            other_text: None,
        });
    }
    Ok(placed)
}

/// Checks that Blender could install the file, as far as its list of names tells. Returns its size in bytes.
fn check(file: &Path) -> Result<u64, Error> {
    let unreadable = |error: std::io::Error| Error::Project {
        path: file.into(),
        message: format!("is named with --addon and cannot be read ({error})"),
        source: Some(Box::new(error)),
    };
    let size_bytes = file.metadata().map_err(unreadable)?.len();
    if size_bytes > ADDON_BYTES_MAX {
        return Err(fault(file, "is larger than 512 MiB, the most that an add-on may have"));
    }
    let names = names(file).map_err(unreadable)?.ok_or_else(|| {
        fault(file, "is not a .zip archive; --addon takes a FILE.zip that Blender can install")
    })?;
    let is_stray = |name: &&String| {
        name.starts_with(['/', '\\']) || name.split(['/', '\\']).any(|part| part == "..")
    };
    if let Some(stray) = names.iter().find(is_stray) {
        return Err(fault(
            file,
            format!("holds `{stray}`, which leads out of its folder; it is not sent"),
        ));
    }
    // At the top level, or in a folder at the top level.
    let is_at_top = |name: &String| name.matches('/').count() <= 1;
    let is_module =
        |name: &String| name.ends_with("__init__.py") || name.ends_with("blender_manifest.toml");
    let is_script = |name: &String| !name.contains('/') && name.ends_with(".py");
    if names.iter().any(|name| is_at_top(name) && (is_module(name) || is_script(name))) {
        return Ok(size_bytes);
    }
    Err(fault(
        file,
        "holds no add-on: there is neither an __init__.py nor a blender_manifest.toml in it, at the top or in a folder \
         there",
    ))
}

/// Returns the names that an archive lists, or `None` if the file is no archive.
fn names(path: &Path) -> std::io::Result<Option<Vec<String>>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(END_BYTES)))?;
    let mut end = Vec::new();
    file.by_ref().take(END_BYTES).read_to_end(&mut end)?;
    let Some(at) = end.windows(4).rposition(|bytes| bytes == b"PK\x05\x06") else {
        return Ok(None);
    };
    let (Some(size), Some(begin)) = (number(&end, at + 12, 4), number(&end, at + 16, 4)) else {
        return Ok(None);
    };
    if size > LIST_BYTES_MAX || u64::from(begin) + u64::from(size) > length {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(begin.into()))?;
    let mut list = Vec::new();
    file.take(size.into()).read_to_end(&mut list)?;
    Ok(read_list(&list))
}

/// Reads the names from the central directory.
fn read_list(list: &[u8]) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut at = 0;
    while at < list.len() {
        if list.get(at..at + 4)? != b"PK\x01\x02" {
            return None;
        }
        let length = |place| number(list, at + place, 2).map(|length| length as usize);
        let (name, extra, comment) = (length(28)?, length(30)?, length(32)?);
        let bytes = list.get(at + 46..at + 46 + name)?;
        names.push(String::from_utf8_lossy(bytes).into_owned());
        at += 46 + name + extra + comment;
    }
    Some(names)
}

/// Reads a number of two or four bytes.
fn number(bytes: &[u8], at: usize, len_bytes: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + len_bytes)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::*;

    /// Returns an archive that only consists of its list of (empty) files.
    fn archive(names: &[&str]) -> Vec<u8> {
        let mut list = Vec::new();
        for name in names {
            let mut entry = vec![0; 46];
            entry[..4].copy_from_slice(b"PK\x01\x02");
            entry[28] = u8::try_from(name.len()).unwrap();
            list.extend(entry);
            list.extend(name.as_bytes());
        }
        let mut end = vec![0; 22];
        end[..4].copy_from_slice(b"PK\x05\x06");
        end[12..16].copy_from_slice(&u32::try_from(list.len()).unwrap().to_le_bytes());
        [list, end, b"a comment".to_vec()].concat()
    }

    #[test]
    fn only_archives_that_blender_could_install_are_sent() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tool.zip");
        let loaded = |bytes: &[u8]| {
            fs::write(&file, bytes).unwrap();
            load(std::slice::from_ref(&file)).map_err(|error| error.to_string())
        };
        for names in [
            &["tool/__init__.py", "tool/sub/x.py"][..],
            &["blender_manifest.toml", "__init__.py"],
            &["tool/", "tool/blender_manifest.toml"],
            &["tool.py"],
        ] {
            let placed = loaded(&archive(names)).unwrap();
            assert_eq!(placed[0].place, "framecrew-addons/tool.zip", "{names:?}");
        }
        for (bytes, words) in [
            (archive(&["a/b/__init__.py", "notes.txt"]), "holds no add-on"),
            (archive(&["tool/__init__.py", "../../x.py"]), "leads out of its folder"),
            (archive(&["/etc/x.py"]), "leads out of its folder"),
            (b"Dear Blender".to_vec(), "is not a .zip archive"),
            (b"PK\x05\x06".to_vec(), "is not a .zip archive"),
        ] {
            let text = loaded(&bytes).err().unwrap();
            assert!(text.contains(words), "{text}");
        }
        let gone = folder.path().join("gone.zip");
        assert!(load(&[gone]).unwrap_err().to_string().contains("--addon"));
    }

    #[test]
    fn two_add_ons_with_the_same_name_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let files = ["a", "b"].map(|name| {
            let file = folder.path().join(name).join("Tool.zip");
            fs::create_dir(file.parent().unwrap()).unwrap();
            fs::write(&file, archive(&["__init__.py"])).unwrap();
            file
        });
        assert!(load(&files).unwrap_err().to_string().contains("another add-on"));
        assert!(load(&vec![files[0].clone(); 17]).unwrap_err().to_string().contains("too many"));
    }
}
