//! Which of Blender's own lines tell that a picture will not look as it should. They are told as warnings, and
//! never decide whether a frame is good. What the worker can look up itself is not among them.

use std::path::Path;

use framecrew_proto::v1::{Warning, WarningKind};

/// Reads a line about what is missing. `blend` is the file that Blender has opened; `exists` looks for a file.
pub(crate) fn parse(line: &str, blend: &Path, exists: impl Fn(&Path) -> bool) -> Option<Warning> {
    let warning = |kind: WarningKind, text| Some(Warning { kind: kind.into(), text });
    // `LIB: Object: 'Crate' missing from '/a/lib.blend', parent '<direct>'`. Once for each thing; one warning
    // for the library is enough. Where all of it is missing the worker has told so.
    if let Some((_, rest)) = line.split_once("LIB: ")
        && let Some((_, rest)) = rest.split_once("' missing from '")
        && let Some((library, _)) = rest.split_once("', parent '")
    {
        let library = Path::new(library);
        return exists(library)
            .then(|| {
                let library = shown(library, blend);
                format!(
                    "the library {library} lacks parts that are linked from it: they are not drawn"
                )
            })
            .and_then(|text| warning(WarningKind::MissingLibrary, text));
    }
    // `IMB_ibImageFromMemory: unknown file-format (/a/b.jpg)`; the function has other names in other versions.
    if line.starts_with("IMB_")
        && let Some((_, rest)) = line.split_once(": unknown file-format (")
        && let Some(path) = rest.strip_suffix(')')
    {
        let text =
            format!("{} is not an image that Blender can read", shown(Path::new(path), blend));
        return warning(WarningKind::MissingFile, text);
    }
    None
}

/// A path as people know it: from the .blend on.
fn shown(path: &Path, blend: &Path) -> String {
    let inside = blend.parent().and_then(|folder| path.strip_prefix(folder).ok());
    inside.unwrap_or_else(|| path.file_name().map_or(path, Path::new)).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Real lines, each before what it means.
    const FIXTURE: &str = include_str!("../../tests/fixtures/blender-warnings.txt");

    #[test]
    fn real_lines_warn_of_what_the_fixture_says() {
        let mut lines = FIXTURE.lines().filter(|line| !line.starts_with('#'));
        let mut seen = 0;
        while let (Some(line), Some(meaning)) = (lines.next(), lines.next()) {
            let exists = |path: &Path| !path.ends_with("gone.blend");
            let got = parse(line, Path::new("/shot/main.blend"), exists);
            let got = got.map_or("nothing".into(), |warning| {
                format!("{}: {}", warning.kind().as_str_name(), warning.text)
            });
            assert_eq!(Some(got.as_str()), meaning.strip_prefix("=> "), "{line}");
            seen += 1;
        }
        assert!(seen > 8, "{seen}");
    }
}
