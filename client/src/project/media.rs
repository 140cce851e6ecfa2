//! What kinds of files a project may hold: those that Blender reads.
//!
//! A .blend from elsewhere can name any file of this machine. What is no picture, sound, typeface, volume or
//! cache is no use to Blender, and is never sent.

use std::{
    fs::File,
    io::Read as _,
    path::{Component, Path},
};

use framecrew_blend::ReferenceKind;

/// Endings of what Blender reads.
const ENDINGS: &[&str] = &[
    // Pictures.
    "png", "jpg", "jpeg", "jp2", "j2c", "tif", "tiff", "tga", "bmp", "exr", "hdr", "dds", "psd",
    "psb", "sgi", "rgb", "rgba", "bw", "cin", "dpx", "webp", "gif", "pic", "pdd", "iff", "tx",
    "ico", "svg", // Movies.
    "avi", "mov", "mp4", "m4v", "mkv", "webm", "mpg", "mpeg", "mp2", "m2v", "m2t", "m2ts", "mts",
    "ts", "dv", "flv", "f4v", "ogv", "ogg", "wmv", "vob", "divx", "xvid", "r3d", "3gp", "mxf",
    "flc", "fli", "mpg2", "movie", "mv", "avs", // Sounds.
    "wav", "mp3", "oga", "flac", "aac", "m4a", "ac3", "eac3", "aif", "aiff", "au", "wma", "opus",
    "mka", // Typefaces.
    "ttf", "otf", "ttc", "otc", "pfb", "pfa", "woff", "woff2",
    // Volumes, geometry and simulations.
    "vdb", "nvdb", "abc", "usd", "usda", "usdc", "usdz", "mdd", "pc2", "bphys", "uni", "bobj",
    "raw", "obj", "ply", "stl", "blob", "btx", // Light profiles, shaders.
    "ies", "osl", "oso", // Libraries.
    "blend",
];

/// Endings of Blender's own caches that it compresses; other compressed files are none of its business.
const COMPRESSED: [&str; 2] = [".bobj.gz", ".bvel.gz"];

/// Extensions that only geometry nodes read: tables and plain text.
const IMPORTED: [&str; 2] = ["csv", "txt"];

/// How pictures begin whose names do not tell.
const PICTURES: &[&[u8]] = &[
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"II*\0",
    b"MM\0*",
    b"\x76\x2f\x31\x01",
    b"#?RADIANCE",
    b"DDS ",
    b"8BPS",
    b"\x01\xda",
    b"SDPX",
    b"XPDS",
    b"\x80\x2a\x5f\xd7",
];

/// Bytes that tell what a file is.
const SNIFFED_BYTES: u64 = 12;

/// Whether Blender could have a use for a regular file, by its name or else by how it begins.
pub(super) fn is_read_by_blender(file: &Path, kind: ReferenceKind) -> bool {
    let ending = || file.extension()?.to_str().map(str::to_ascii_lowercase);
    let is_imported = kind == ReferenceKind::Import
        && ending().is_some_and(|ending| IMPORTED.contains(&ending.as_str()));
    is_imported
        || has_ending(file)
        || is_compressed_cache(file)
        || is_of_nodes_cache(file)
        || begins_as_picture(file)
}

fn is_compressed_cache(file: &Path) -> bool {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    COMPRESSED.iter().any(|ending| name.ends_with(ending))
}

fn has_ending(file: &Path) -> bool {
    let ending = file.extension().and_then(|ending| ending.to_str());
    ending.is_some_and(|ending| {
        let ending = ending.to_ascii_lowercase();
        ENDINGS.contains(&ending.as_str()) || ending.strip_prefix("blend").is_some_and(is_number)
    })
}

/// Of `scene.blend1`, which Blender keeps as a copy.
fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A simulation of geometry nodes is described by `meta/00001.json`.
pub(super) fn is_of_nodes_cache(file: &Path) -> bool {
    let in_meta = file.parent().is_some_and(|folder| folder.ends_with("meta"));
    let name = file.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    let is_frame = name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_' || byte == b'-');
    in_meta && is_frame && file.extension().is_some_and(|ending| ending == "json")
}

fn begins_as_picture(file: &Path) -> bool {
    // What the system makes up as it is read is nobody's picture.
    let made_up =
        |part: Component<'_>| ["proc", "sys", "dev"].iter().any(|name| part.as_os_str() == *name);
    if file.components().nth(1).is_some_and(made_up) {
        return false;
    }
    let mut start = Vec::new();
    let read = File::open(file).and_then(|file| file.take(SNIFFED_BYTES).read_to_end(&mut start));
    let is_webp = start.starts_with(b"RIFF") && start.ends_with(b"WEBP");
    read.is_ok() && (is_webp || PICTURES.iter().any(|picture| start.starts_with(picture)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_no_blender_reads_stays_here() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let is_read_by_blender =
            |file: &Path| super::is_read_by_blender(file, ReferenceKind::Image);
        for taken in [
            "Wood.PNG",
            "a.b.exr",
            "cloth_000001_00.bphys",
            "rooms.blend",
            "rooms.blend1",
            "serif.OTC",
            "old.movie",
            "old.mv",
            "old.avs",
            "fluidsurface_final_0001.bobj.gz",
        ] {
            assert!(is_read_by_blender(&file(taken, b"")), "{taken}");
        }
        assert!(is_read_by_blender(&file("nodes/meta/00012_00.json", b"{}")));
        assert!(is_read_by_blender(&file("wood", b"\x89PNG\r\n\x1a\n....")));
        for left in [
            "id_rsa",
            ".env",
            "passwd",
            "notes.txt",
            "config.json",
            "meta/keys.json",
            "a.blendx",
            "backup.tar.gz",
        ] {
            assert!(!is_read_by_blender(&file(left, b"secret")), "{left}");
        }
        // Only if a node imports it.
        let table = file("points.CSV", b"x,y");
        assert!(!is_read_by_blender(&table));
        assert!(super::is_read_by_blender(&table, ReferenceKind::Import));
    }
}
