//! Finds what the text of a shader script in the Open Shading Language refers to: the files that it includes, and the
//! pictures that it reads.
//!
//! Cycles compiles a script on the machine that draws. `#include "x.h"` is looked for beside the file that includes it.
//! A relative path in `texture()` starts at the folder in which Blender was started, not at the script's.

use std::{
    collections::{BTreeSet, HashSet},
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use framecrew_blend::ReferenceKind;

use super::{
    files::{Found, Needed},
    media,
    stored::{Stored, clean},
};

/// Maximum number of files that one script includes.
const INCLUDED_MAX: usize = 1_000;

/// Maximum number of bytes that are read of a script.
const SCRIPT_BYTES_MAX: u64 = 4 << 20;

/// Endings of files that a script may include. A script from elsewhere could name any file of this machine, so all
/// others stay here.
const INCLUDED: [&str; 5] = ["h", "hpp", "hh", "inc", "osl"];

/// Endings of scripts.
const SCRIPTS: [&str; 2] = ["osl", "oso"];

/// What a script and the files that it includes say.
#[derive(Debug, Default)]
struct Script {
    /// The existing files that it includes, by absolute paths.
    included: Vec<PathBuf>,
    /// Its texts between quotation marks.
    texts: BTreeSet<String>,
}

/// Adds the files that a script includes, which must keep their relative places.
pub(super) fn add_included(stored: &Stored, found: &mut Found) {
    if found.files.is_empty() {
        return;
    }
    // The compiled form stays beside its script.
    let script = stored.path.with_extension("osl");
    let included: Vec<Needed> =
        Script::read(&script).included.iter().filter_map(|path| needed(path)).collect();
    let mut anchor = stored.path.parent().unwrap_or(&stored.path);
    for file in &included {
        let shared = anchor.ancestors().find(|folder| file.path.starts_with(folder));
        anchor = shared.unwrap_or(anchor);
    }
    // The root of the disk contains everything.
    let is_other = anchor.parent().is_some() && Some(anchor) != stored.path.parent();
    found.anchor = is_other.then(|| anchor.to_owned());
    if script == stored.path {
        found.files.extend(included);
    }
}

/// The texts between quotation marks of a script and of what it includes.
pub(super) fn texts(script: &Path) -> BTreeSet<String> {
    Script::read(script).texts
}

/// Whether a path is that of an existing picture, or of pictures in tiles.
pub(super) fn is_picture(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let path = path.with_file_name(name.replace("<UDIM>", "1001"));
    path.is_file()
        && !has_ending(&path, &SCRIPTS)
        && media::is_read_by_blender(&path, ReferenceKind::Image)
}

fn has_ending(path: &Path, endings: &[&str]) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str());
    ending.is_some_and(|ending| endings.contains(&ending.to_ascii_lowercase().as_str()))
}

/// A file that may be included, with its size. A link must lead to such a file, too.
fn needed(path: &Path) -> Option<Needed> {
    let is_link = path.symlink_metadata().ok()?.is_symlink();
    let target = if is_link { path.canonicalize().ok()? } else { path.to_owned() };
    let metadata = path.metadata().ok()?;
    (metadata.is_file() && has_ending(&target, &INCLUDED)).then(|| Needed {
        path: path.to_owned(),
        from: None,
        size_bytes: metadata.len(),
        is_link,
    })
}

impl Script {
    /// Reads a script and all that it includes.
    fn read(script: &Path) -> Self {
        let mut read = Self::default();
        let mut seen = HashSet::from([script.to_owned()]);
        let mut next = vec![script.to_owned()];
        while let Some(path) = next.pop() {
            let mut text = Vec::new();
            let file = File::open(&path);
            if file.and_then(|it| it.take(SCRIPT_BYTES_MAX).read_to_end(&mut text)).is_err() {
                continue;
            }
            let (included, texts) = quoted(&text);
            read.texts.extend(texts);
            for name in included.iter().filter(|name| Path::new(name).is_relative()) {
                let folders = [path.parent(), script.parent()].into_iter().flatten();
                let mut paths = folders.map(|folder| clean(&folder.join(name)));
                // Others, like `stdosl.h`, are part of Blender.
                let Some(path) = paths.find(|path| needed(path).is_some()) else { continue };
                if seen.len() <= INCLUDED_MAX && seen.insert(path.clone()) {
                    read.included.push(path.clone());
                    next.push(path);
                }
            }
        }
        read.included.sort_unstable();
        read
    }
}

/// Returns the names after `#include`, and the other texts between quotation marks, without those in comments.
fn quoted(text: &[u8]) -> (Vec<String>, Vec<String>) {
    let (mut included, mut texts) = (Vec::new(), Vec::new());
    // The line up to here.
    let mut line = Vec::new();
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match (byte, bytes.peek()) {
            (b'\n', _) => line.clear(),
            (b'/', Some(b'/')) => while bytes.next_if(|byte| *byte != b'\n').is_some() {},
            (b'/', Some(b'*')) => {
                bytes.next();
                let mut before = 0;
                for byte in bytes.by_ref() {
                    if (before, byte) == (b'*', b'/') {
                        break;
                    }
                    before = byte;
                }
            }
            (b'"', _) => {
                let mut quoted = Vec::new();
                while let Some(byte) = bytes.next_if(|byte| *byte != b'\n') {
                    match byte {
                        b'"' => break,
                        b'\\' => quoted.extend(bytes.next()),
                        _ => quoted.push(byte),
                    }
                }
                let of_its_kind = if is_include(&line) { &mut included } else { &mut texts };
                of_its_kind.extend(String::from_utf8(quoted).ok());
            }
            _ => line.push(byte),
        }
    }
    (included, texts)
}

/// Whether a line begins with `#include`, which may have spaces in it.
fn is_include(line: &[u8]) -> bool {
    let directive = line.trim_ascii().strip_prefix(b"#");
    directive.is_some_and(|directive| directive.trim_ascii() == b"include")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use framecrew_blend::Files;
    use proptest::{collection::vec, prelude::*};

    use super::{super::files, *};

    #[test]
    fn a_script_is_sent_with_what_it_includes() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let put = |name: &str, text: &str| {
            fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            fs::write(at(name), text).unwrap();
        };
        put(
            "osl/t.osl",
            "#include \"stdosl.h\"\n # include \"a.h\"\n// #include \"no.h\"\nshader t() {}",
        );
        put("osl/no.h", "");
        put("osl/a.h", "#include \"../shared/b.h\"\n#include \"a.h\"\n#include \"key.pem\"");
        put("osl/key.pem", "secret");
        put("shared/b.h", "");
        let find = |name: &str| {
            let stored = Stored::read(name, folder.path());
            let mut found = files::find(&stored, &Files::One, ReferenceKind::ShaderScript, 10);
            add_included(&stored, &mut found);
            found
        };
        let found = find("//osl/t.osl");
        let paths: Vec<_> = found.files.iter().map(|file| file.path.clone()).collect();
        assert_eq!(paths, [at("osl/t.osl"), at("osl/a.h"), at("shared/b.h")]);
        assert_eq!(found.anchor.as_deref(), Some(folder.path()));
        put("osl/t.oso", "");
        let compiled = find("//osl/t.oso");
        assert_eq!((compiled.files.len(), compiled.anchor), (1, found.anchor));
    }

    #[test]
    fn texts_are_told_from_comments_and_includes() {
        let text =
            "a = \"x \\\" y\"; /* \"no\" * / */ # \"b\"\n#include \"c.h\" // \"no\"\n\"open\n\"d\"";
        let (included, texts) = quoted(text.as_bytes());
        assert_eq!(included, ["c.h"]);
        assert_eq!(texts, ["x \" y", "b", "open", "d"]);
    }

    #[test]
    fn only_existing_pictures_count() {
        let folder = tempfile::tempdir().unwrap();
        let is_picture = |name: &str| is_picture(&folder.path().join(name));
        for name in ["a.png", "t.1001.exr", "t.osl", "id_rsa"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        assert!(is_picture("a.png") && is_picture("t.<UDIM>.exr"));
        for other in ["gone.png", "t.osl", "id_rsa", "sRGB", "", ".", ".."] {
            assert!(!is_picture(other), "{other}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer(text in vec(any::<u8>(), 0..500)) {
            quoted(&text);
        }
    }
}
