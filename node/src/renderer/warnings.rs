//! Interprets Blender's own lines about the picture. A line about something that was left out, not found or
//! replaced becomes a warning of the job. A line that is known to mean nothing is dropped. An unknown line that
//! looks like a warning is passed on unchanged. None of them decides whether a frame is good. What the worker
//! checks itself is not repeated here.

use std::path::Path;

use super::warning::{Warning, WarningKind};

/// The situation in which a line was written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    /// The file that Blender has opened; empty before the first one.
    pub(crate) blend: &'a Path,
    /// Whether the file's own Python runs. If it does not, the worker reports what fails because of that.
    pub(crate) scripts: bool,
}

/// The meaning of a line that contains certain words.
enum Meaning {
    /// The picture may differ from what its author sees.
    Matters(WarningKind),
    /// The file that the line names in quotes or brackets is missing.
    Missing,
    /// The file that the line names does not have the expected format.
    Unreadable,
    /// It also occurs in good runs, or the worker has reported it better.
    Noise,
}

use Meaning::{Matters, Missing, Noise, Unreadable};
use WarningKind::{Color, Incomplete};

/// Words of known lines. The first row whose words all occur in a line counts. Real lines, with how often each was
/// seen, are in `tests/fixtures/blender-warnings.txt`.
const KNOWN: &[(&[&str], Meaning)] = &[
    // The worker reports missing libraries. Data-blocks that are missing in an existing library have their own
    // function.
    (&["Warning: Unable to open '", "': No such file"], Noise),
    (&["Cannot find lib '"], Noise),
    (&["linked data-blocks are missing"], Noise),
    (&["Unrecognized file format '"], Unreadable),
    // Engines, cameras and scripts: the frame fails, or the worker reports it.
    (&["Engine '", "' not available for scene"], Noise),
    (&["Cannot render, no camera"], Noise),
    (&["No camera found in scene"], Noise),
    (&["scripts disabled for "], Noise),
    (&["restricted access disallows name"], Noise),
    // Saving a file packs fonts. The next rows name the missing one.
    (&["Unable to pack file, source path '"], Noise),
    (&["Font file doesn't exist: "], Missing),
    (&["Image file '", "' does not exist"], Missing),
    (&["Image file '", "' failed to open"], Unreadable),
    (&["Image file '", "' failed to load"], Unreadable),
    (&[": unknown file-format ("], Unreadable),
    (&["unknown fileformat ("], Unreadable),
    (&["Can't load font: "], Matters(Incomplete)),
    (&["Error encountered while opening font file"], Noise),
    // A missing file of a modifier.
    (&["BKE_modifier_set_error", "No such file or directory"], Noise),
    (&["object.modifier", "No such file or directory"], Noise),
    (&["Could not create cache reader for file"], Matters(Incomplete)),
    (&["Could not open Alembic archive"], Matters(Incomplete)),
    // Colour management.
    (&["Color management:", "not found"], Matters(Color)),
    (&["color_management", "not found"], Matters(Color)),
    (&["Color management:", "could not"], Matters(Color)),
    (&["OpenColorIO Error"], Matters(Color)),
    (&["Colorspace ", " not found, using raw instead"], Matters(Color)),
    (&["Colorspace ", " cannot be converted to scene_linear"], Matters(Color)),
    // Universal Scene Description writes a line for each missing layer.
    (&["Could not load sublayer"], Matters(Incomplete)),
    (&["Could not open asset @"], Matters(Incomplete)),
    (&["unresolved reference"], Matters(Incomplete)),
    (&["Unresolved reference prim path"], Matters(Incomplete)),
    // Open Shading Language.
    (&["hader graph: failed to read file"], Matters(Incomplete)),
    (&["hader graph: failed to compile"], Matters(Incomplete)),
    (&["OSL query error"], Matters(Incomplete)),
    (&["ERROR: Failed parse of preloaded OSO code"], Matters(Incomplete)),
    (&["ERROR: error: Input file \"", ".osl\" not found"], Noise),
    (&["ERROR: Attempt to load shader with empty name"], Noise),
    (&["ERROR: Error, line :"], Noise),
    // Truncated images.
    (&["libpng error"], Matters(Incomplete)),
    (&["Not a PNG file"], Matters(Incomplete)),
    (&["Premature end of JPEG file"], Matters(Incomplete)),
    (&["moov atom not found"], Matters(Incomplete)),
    (&["Invalid data found when processing input"], Matters(Incomplete)),
    // Graphics without a screen, memory at exit, and values that the worker queries.
    (&["EGL Error ("], Noise),
    (&["surfaceless EGL"], Noise),
    (&["Not freed memory blocks"], Noise),
    (&["Error: Not freed"], Noise),
    (&["pyrna_enum_to_py: current value"], Noise),
    // Of a fluid that is not baked, which the worker reports.
    (&["Fluid Error -- Cannot open file "], Noise),
    // Of the sound of a strip that shows a scene, which has no picture.
    (&["Failed to add relation \"Sequence Scene Audio"], Noise),
    (&["Could not find op_from: ComponentKey(", ", AUDIO)"], Noise),
    // Of a rigid body whose mesh comes later in the evaluation.
    (&["no vertices to define Convex Hull collision shape with"], Noise),
    (&["region type ", " missing in space type "], Noise),
    (&["RNA_float_get: "], Noise),
    (&["RNA_enum_get: "], Noise),
    (&["RNA_boolean_get: "], Noise),
    (&["RNA_int_get: "], Noise),
    (&["found unknown IDProperty type"], Noise),
    (&["CustomDataLayer->data is NULL"], Noise),
    (&["unknown libpng chunk"], Noise),
    (&["iCCP: known incorrect sRGB profile"], Noise),
    (&["DDS: trying to read beyond end of stream"], Noise),
    (&["OpenImageIO exited with a pending error message"], Noise),
    (&["retrieved via OIIO::geterror()"], Noise),
    // The list is not available behind the walls.
    (&["ould not get a list of mounted file-systems"], Noise),
    (&["ALSA lib "], Noise),
    (&["AL lib: "], Noise),
    (&["JackShmReadWritePtr"], Noise),
    (&["jack server is not running"], Noise),
    (&["XDG_RUNTIME_DIR"], Noise),
    (&["Read library: "], Noise),
    (&["Read blend: "], Noise),
    // The worker reports the failed render in words.
    (&["Error: Python: Traceback"], Noise),
];

/// Lower-case words that mark a line as a complaint.
const COMPLAINTS: &[&str] = &[
    "warning:",
    "error:",
    "could not",
    "couldn't",
    "cannot ",
    "can't ",
    "failed",
    "unable to",
    "not found",
    "not supported",
    "unsupported",
    "is missing",
    "are missing",
    "does not exist",
    "doesn't exist",
    "corrupt",
    "falling back",
    "skipping",
];

/// Parses a line. `exists` checks whether a file exists.
pub(crate) fn parse(
    line: &str,
    context: Context<'_>,
    exists: impl Fn(&Path) -> bool,
) -> Option<Warning> {
    let warning = |kind: WarningKind, text| Some(Warning { kind, text });
    if let Some(library) = incomplete_library(line) {
        // Blender writes a line for each data block; one warning for the library is enough. If the whole library
        // is missing, the worker has reported it.
        let library = Path::new(library);
        return exists(library)
            .then(|| shown(library, context.blend))
            .map(|library| {
                format!(
                    "the library {library} lacks parts that are linked from it: they are not drawn"
                )
            })
            .and_then(|text| warning(WarningKind::MissingLibrary, text));
    }
    let known = KNOWN.iter().find(|(words, _)| words.iter().all(|word| line.contains(word)));
    let (level, text) = without_dialect(line);
    let named = || named_file(text).map(|path| shown(Path::new(path), context.blend));
    match known.map(|(_, meaning)| meaning) {
        Some(Noise) => None,
        // Blender starts with its own scene, whose colour names a studio's configuration may lack.
        Some(Matters(Color))
            if context.blend.as_os_str().is_empty() && text.contains(" not found") =>
        {
            None
        }
        Some(Matters(kind)) => warning(*kind, text.to_owned()),
        Some(Missing) => warning(WarningKind::MissingFile, format!("{} is missing", named()?)),
        Some(Unreadable) if text.contains("Unrecognized file format") => {
            let text = format!("the library {} is not a file that Blender can read", named()?);
            warning(WarningKind::MissingLibrary, text)
        }
        Some(Unreadable) => {
            let text = format!("{} is not an image that Blender can read", named()?);
            warning(WarningKind::MissingFile, text)
        }
        // The worker counts the drivers that were not run.
        None if !context.scripts && text.contains("Error in PyDriver") => None,
        None if complains(level, text) => warning(WarningKind::Blender, without_addresses(text)),
        None => None,
    }
}

/// Returns the library in `LIB: Object: 'Crate' missing from '/a/lib.blend', parent '<direct>'`.
fn incomplete_library(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("LIB: ")?;
    let (_, rest) = rest.split_once("' missing from '")?;
    rest.split_once("', parent '").map(|(library, _)| library)
}

/// Takes off when and where a line was written:
/// `WARN (bke.vfont): source/…/vfont.cc:225 function: text` up to 4.x and
/// `00:01.200  geom.vfont       | WARNING text` from 5.0. Gives its level, empty where it has none.
fn without_dialect(line: &str) -> (&str, &str) {
    let line = line.trim();
    // `Warning: in _ReportErrors at line 3258 of …/stage.cpp -- text (instantiating stage on stage @…@ <0x…>)`,
    // from Universal Scene Description.
    if line.starts_with("Warning")
        && let Some((place, text)) = line.split_once(" -- ")
        && place.contains(" at line ")
    {
        return ("WARNING", text.split(" (instantiating stage").next().unwrap_or(text));
    }
    if let Some((prefix, rest)) = line.split_once('|')
        && super::progress::is_log_prefix(prefix)
    {
        let rest = rest.trim();
        let level =
            rest.split(' ').next().filter(|level| matches!(*level, "WARNING" | "ERROR" | "FATAL"));
        let level = level.unwrap_or_default();
        return (level, rest[level.len()..].trim_start());
    }
    for level in ["WARN (", "ERROR (", "FATAL ("] {
        if let Some((_, place)) = line.strip_prefix(level).and_then(|rest| rest.split_once("): "))
            && let Some((source, text)) = place.split_once(": ")
            && source.contains(".c")
        {
            return (level.trim_end_matches(" ("), text);
        }
    }
    ("", line)
}

/// Whether an unknown line reads like a warning.
fn complains(level: &str, text: &str) -> bool {
    if !level.is_empty() {
        return true;
    }
    let text = text.to_ascii_lowercase();
    text.starts_with("warning") || COMPLAINTS.iter().any(|words| text.contains(words))
}

/// Replaces memory addresses, which differ each time.
fn without_addresses(text: &str) -> String {
    let mut parts = text.split("0x");
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        kept.push_str("0x…");
        kept.push_str(part.trim_start_matches(|c: char| c.is_ascii_hexdigit()));
    }
    kept
}

/// Returns the path that a line names: in quotes, in brackets at its end, or after its last colon.
fn named_file(text: &str) -> Option<&str> {
    if let Some((_, rest)) = text.split_once('\'')
        && let Some((path, _)) = rest.split_once('\'')
    {
        return Some(path);
    }
    if let Some(rest) = text.strip_suffix(')') {
        // The name may contain brackets too.
        return rest.split_once(" (").map(|(_, path)| path);
    }
    text.rsplit_once(": ").map(|(_, path)| path)
}

/// A path as people know it: from the .blend on.
fn shown(path: &Path, blend: &Path) -> String {
    let inside = blend.parent().and_then(|folder| path.strip_prefix(folder).ok());
    let path = match path.to_str().and_then(|path| path.strip_prefix("//")) {
        Some(relative) => Path::new(relative),
        None => inside.unwrap_or_else(|| path.file_name().map_or(path, Path::new)),
    };
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Real lines with how often each was seen. Each is followed by its meaning.
    const FIXTURE: &str = include_str!("../../tests/fixtures/blender-warnings.txt");

    fn meaning(line: &str, scripts: bool) -> String {
        let exists = |path: &Path| !path.ends_with("gone.blend");
        let context = Context { blend: Path::new("/shot/main.blend"), scripts };
        parse(line, context, exists).map_or("nothing".into(), |warning| {
            format!(
                "{}: {}",
                framecrew_proto::v1::WarningKind::from(warning.kind).as_str_name(),
                warning.text
            )
        })
    }

    #[test]
    fn real_lines_warn_of_what_the_fixture_says() {
        let mut lines = FIXTURE.lines().filter(|line| !line.starts_with('#'));
        let mut seen = 0;
        while let (Some(line), Some(expected)) = (lines.next(), lines.next()) {
            let (count, line) = line.trim_start().split_once(" × ").unwrap();
            assert!(count.parse::<u32>().unwrap() > 0, "{line}");
            assert_eq!(Some(meaning(line, false).as_str()), expected.strip_prefix("=> "), "{line}");
            seen += 1;
        }
        assert!(seen > 50, "{seen}");
    }

    #[test]
    fn every_row_of_the_table_is_reached() {
        for (number, (words, _)) in KNOWN.iter().enumerate() {
            let line = words.join(" x ");
            let first =
                KNOWN.iter().position(|(words, _)| words.iter().all(|word| line.contains(word)));
            assert_eq!(first, Some(number), "an earlier row hides {words:?}");
        }
    }

    #[test]
    fn warnings_about_the_startup_scene_are_ignored() {
        let line =
            r#"Color management: scene view "AgX" not found, setting default "Studio Look"."#;
        let warned = |blend| {
            let context = Context { blend: Path::new(blend), scripts: false };
            parse(line, context, |_| true).map(|warning| warning.kind)
        };
        assert_eq!(warned(""), None);
        assert_eq!(warned("/shot/main.blend"), Some(WarningKind::Color));
    }

    #[test]
    fn an_unknown_complaint_is_passed_on_unchanged() {
        for (line, said) in [
            ("Warning: the moon is not full", "Warning: the moon is not full"),
            ("00:12.345  moon             | WARNING it is not full", "it is not full"),
            ("ERROR (bke.moon): source/a/moon.cc:12 full: It is not", "It is not"),
            ("The moon could not be reached", "The moon could not be reached"),
            ("Error: <0x7f08dc0ee4a0> and <0x1>", "Error: <0x…> and <0x…>"),
        ] {
            assert_eq!(meaning(line, false), format!("WARNING_KIND_BLENDER: {said}"), "{line}");
        }
        for line in
            ["Fra:1 Mem:2M", "", "|", ":", "WARN (", "00:01.000  render | Saved: 'x'", "(", "'"]
        {
            assert_eq!(meaning(line, false), "nothing", "{line}");
        }
    }

    #[test]
    fn a_failing_driver_is_reported_only_if_scripts_run() {
        let line = "Error in PyDriver: expression failed: nonsense + 1";
        assert_eq!(meaning(line, false), "nothing");
        assert!(meaning(line, true).starts_with("WARNING_KIND_BLENDER"));
    }
}
