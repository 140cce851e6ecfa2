//! The colour configuration (OpenColorIO) that a picture depends on. `--ocio` or the submitter's environment names
//! it, and it is sent with all the files that it names.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use framecrew_blend::{BlenderVersion, Scene};

use super::{
    collection::{Collection, fault},
    layout::Placed,
    stored::clean,
};
use crate::error::Error;

/// Folder of the project that holds the configuration.
const FOLDER: &str = "framecrew-ocio";

/// Maximum size of a configuration. The largest that studios publish have 2 MB.
const CONFIG_BYTES_MAX: u64 = 16 << 20;

/// Maximum number of files of a configuration. The largest that studios publish have some hundreds.
const FILES_MAX: usize = 10_000;

/// Maximum number of folders that a search path may lead above the configuration's own.
const ASCENT_MAX: usize = 3;

/// The newest Blender whose configuration is known here.
const KNOWN: BlenderVersion = BlenderVersion::new(5, 0);

/// Names of the views in the configurations of Blender 2.6x to 5.0.
const VIEWS: [&str; 29] = [
    "",
    "None",
    "Default",
    "Standard",
    "Raw",
    "RRT",
    "Film",
    "Log",
    "Filmic",
    "Filmic Log",
    "False Color",
    "DCI",
    "AgX",
    "AgX - SDR",
    "AgX - HDR 1000 nits",
    "Khronos PBR Neutral",
    "ACES 1.3",
    "ACES 1.3 - SDR",
    "ACES 1.3 - HDR 1000 nits",
    "ACES 1.3 - HDR 2000 nits",
    "ACES 1.3 - HDR 4000 nits",
    "ACES 2.0",
    "ACES 2.0 - SDR",
    "ACES 2.0 - HDR 500 nits",
    "ACES 2.0 - HDR 1000 nits",
    "ACES 2.0 - HDR 2000 nits",
    "ACES 2.0 - HDR 4000 nits",
    "sRGB EOTF",
    "Rec.709",
];
const DISPLAYS: [&str; 10] = [
    "",
    "None",
    "sRGB",
    "XYZ",
    "rec709",
    "Display P3",
    "Rec.1886",
    "Rec.2020",
    "Rec.2100-PQ",
    "Rec.2100-HLG",
];

/// Ends of the names of Blender's own looks. A look of a view has the view's name in front. Up to Blender 2.78
/// looks were named after films.
const LOOKS: [&str; 6] =
    ["Contrast", "Punchy", "Greyscale", "Reference Gamut Compression", "Base", "None"];

/// Blender's own colour spaces.
const SPACES: [&str; 42] = [
    "",
    "Linear",
    "Raw",
    "Linear ACES",
    "Linear ACEScg",
    "nuke_rec709",
    "XYZ",
    "dci_xyz",
    "lg10",
    "sRGB",
    "Non-Color",
    "Non-Colour Data",
    "Filmic Log",
    "Filmic sRGB",
    "False Color",
    "VD16",
    "rec709",
    "AppleP3",
    "Linear CIE-XYZ E",
    "Linear CIE-XYZ D65",
    "Linear Rec.709",
    "Linear DCI-P3 D65",
    "Linear Rec.2020",
    "ACES2065-1",
    "ACEScg",
    "Linear FilmLight E-Gamut",
    "Display P3",
    "Rec.1886",
    "Rec.2020",
    "AgX Log",
    "AgX Base Rec.2020",
    "AgX Base sRGB",
    "AgX Base Display P3",
    "AgX Base Rec.1886",
    "Khronos PBR Neutral sRGB",
    "Rec.2100-PQ",
    "Rec.2100-HLG",
    "ACES 1.3 sRGB",
    "ACES 2.0 sRGB",
    "ACEScc",
    "ACEScct",
    "Luminance Compensation Rec.2020",
];

/// A configuration that is to be sent.
pub(crate) struct ColorConfig {
    /// Place of the configuration in the project.
    pub(crate) place: String,
    /// The configuration and the files that it needs.
    pub(crate) files: Vec<Placed>,
}

/// Returns the names in a scene's colour settings that no Blender has in its own configuration.
pub(crate) fn unknown_names(collection: &Collection, scene: &Scene) -> Vec<String> {
    if collection.main().survey.file.version > KNOWN {
        return Vec::new();
    }
    let needs = &scene.needs;
    let mut names = Vec::new();
    let mut check = |what: &str, name: &str, is_known: bool| {
        if !is_known {
            names.push(format!("the {what} `{name}`"));
        }
    };
    let view = needs.view_transform.as_str();
    check("view", view, VIEWS.contains(&view));
    let look = needs.look.as_str();
    let is_film = collection.main().survey.file.version < BlenderVersion::new(2, 79);
    let is_own = look.is_empty() || is_film || LOOKS.iter().any(|end| look.ends_with(end));
    check("look", look, is_own);
    check("display", &needs.display_device, DISPLAYS.contains(&needs.display_device.as_str()));
    names
}

/// The configuration that the environment names. Like Blender, this ignores an empty variable.
pub(crate) fn environment() -> Option<PathBuf> {
    std::env::var_os("OCIO").filter(|ocio| !ocio.is_empty()).map(PathBuf::from)
}

/// Describes names that no Blender has, when there is no configuration that may have them.
pub(crate) fn unknown(names: &[String]) -> Option<String> {
    (!names.is_empty()).then(|| {
        format!(
            "the scene has {}, which Blender's own colour configuration lacks, so Blender draws other colours; --ocio \
             FILE sends the configuration that has it",
            names.join(" and ")
        )
    })
}

/// Colour spaces used by pictures that Blender's own configuration lacks.
fn unknown_spaces(collection: &Collection) -> BTreeSet<&str> {
    let spaces = collection.blends.iter().flat_map(|blend| blend.survey.needs.color_spaces.keys());
    spaces.map(String::as_str).filter(|name| !SPACES.contains(name)).collect()
}

/// The role of the environment's configuration in a job that does not name one.
pub(crate) enum OfEnvironment {
    /// The file needs it, so it is sent. The texts say what the file needs it for.
    Needed(ColorConfig, Vec<String>),
    /// The file does not need it, so it is not sent, whether or not it can be read. The text says why that matters.
    Stays(String),
    /// The file needs it or may need it, but it cannot be sent. The text says why.
    Unreadable(String),
}

/// Reads the configuration that `OCIO` names in the environment, and decides whether to send it.
pub(crate) fn of_environment(collection: &Collection, scene: &Scene, ocio: &Path) -> OfEnvironment {
    let shown = ocio.display();
    let mut needed = unknown_names(collection, scene);
    match read(ocio) {
        // An archive is not read. It may contain any of the colour spaces.
        Ok(text) => {
            let of_it = |space: &&str| text.as_deref().is_none_or(|text| text.contains(*space));
            let spaces = unknown_spaces(collection).into_iter().filter(of_it);
            needed.extend(spaces.map(|space| format!("the colour space `{space}`")));
            if needed.is_empty() {
                return OfEnvironment::Stays(format!(
                    "OCIO is set to {shown} here, but nodes draw with Blender's own colour configuration; --ocio {shown} \
                     sends this one"
                ));
            }
            match load(ocio) {
                Ok(config) => OfEnvironment::Needed(config, needed),
                Err(error) => OfEnvironment::Unreadable(format!(
                    "the colours will differ from those here: {error}"
                )),
            }
        }
        Err(error) => {
            let text = format!(
                "OCIO is set here, but nodes draw with Blender's own colour configuration: {error}"
            );
            // Blender itself draws with its own configuration then, which has all that such a file needs.
            let is_needed = !needed.is_empty() || !unknown_spaces(collection).is_empty();
            if is_needed { OfEnvironment::Unreadable(text) } else { OfEnvironment::Stays(text) }
        }
    }
}

/// Finds a configuration and the files that it needs. Blocks.
pub(crate) fn load(config: &Path) -> Result<ColorConfig, Error> {
    let text = read(config)?;
    let path = std::path::absolute(config).map_err(|error| unreadable(config, error))?;
    let path = clean(&path);
    let named = text.as_deref().map_or_else(Vec::new, |text| named_files(&path, text));
    let mut files = BTreeSet::from([path.clone()]);
    for file in named {
        if files.len() == FILES_MAX {
            return Err(fault(config, "names more than 10,000 files, the most that can be sent"));
        }
        files.insert(file);
    }
    // All files keep their relative places, so that relative paths still work.
    let folder = path.parent().unwrap_or(&path);
    let is_around = |root: &&Path| files.iter().all(|file| file.starts_with(root));
    let root = folder.ancestors().take(ASCENT_MAX + 1).find(is_around).ok_or_else(|| {
        let far = files.iter().find(|file| !file.starts_with(folder)).unwrap_or(&path);
        fault(
            config,
            format!(
                "needs {}, which is in a folder too far from it to be sent with it; copy the configuration with its tables \
                 into one folder",
                far.display()
            ),
        )
    })?;
    let place = |file: &Path| {
        let inside = file.strip_prefix(root).unwrap_or(file);
        let parts: Vec<_> = inside.iter().map(|part| part.to_string_lossy()).collect();
        format!("{FOLDER}/{}", parts.join("/"))
    };
    let placed = files.iter().map(|file| {
        let size_bytes = file.metadata().map(|metadata| metadata.len()).unwrap_or(0);
        let mut placed = Placed {
            place: place(file),
            source: file.clone(),
            size_bytes,
            texts: Vec::new(),
            other_text: None,
        };
        if *file == path
            && let Some(text) =
                text.as_deref().and_then(|text| with_relative_paths(text, folder, &files))
        {
            placed.size_bytes = text.len() as u64;
            placed.other_text = Some(text);
        }
        placed
    });
    Ok(ColorConfig { place: place(&path), files: placed.collect() })
}

/// Reads the text of a configuration; `None` for an archive, which contains everything that it needs.
fn read(config: &Path) -> Result<Option<String>, Error> {
    let metadata = config.metadata().map_err(|error| unreadable(config, error))?;
    if !metadata.is_file() {
        return Err(fault(config, "is not a file; name the config.ocio in it"));
    }
    if config.extension().is_some_and(|ending| ending == "ocioz") {
        return Ok(None);
    }
    if metadata.len() > CONFIG_BYTES_MAX {
        return Err(fault(config, "is larger than any colour configuration; name a config.ocio"));
    }
    let bytes = fs::read(config).map_err(|error| unreadable(config, error))?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    if !text.lines().any(|line| line.starts_with("ocio_profile_version:")) {
        return Err(fault(
            config,
            "is not a colour configuration; name a config.ocio or an .ocioz",
        ));
    }
    Ok(Some(text))
}

fn unreadable(config: &Path, error: std::io::Error) -> Error {
    let message = format!(
        "is named as the colour configuration and cannot be read ({error}); check --ocio, or the variable OCIO"
    );
    Error::Project { path: config.into(), message, source: Some(Box::new(error)) }
}

/// Returns the text of a configuration with relative paths in the place of the absolute ones that lead to `files`;
/// `None` if it has none.
fn with_relative_paths(text: &str, folder: &Path, files: &BTreeSet<PathBuf>) -> Option<String> {
    let mut stored = search_path(text);
    stored.extend(sources(text));
    stored.retain(|stored| Path::new(stored).is_absolute());
    // Each is a part of the text.
    stored.sort_unstable_by_key(|stored| stored.as_ptr());
    let mut changed = String::new();
    let mut done = 0;
    for stored in stored {
        let target = clean(Path::new(stored));
        let at = stored.as_ptr().addr() - text.as_ptr().addr();
        if at < done || !files.iter().any(|file| file.starts_with(&target)) {
            continue;
        }
        changed.push_str(&text[done..at]);
        changed.push_str(&way(folder, &target));
        done = at + stored.len();
    }
    changed.push_str(&text[done..]);
    (done > 0).then_some(changed)
}

/// The relative path from a folder to another path.
fn way(from: &Path, to: &Path) -> String {
    let shared = from.ancestors().find(|folder| to.starts_with(folder)).unwrap_or(from);
    let ascent = from.strip_prefix(shared).map_or(0, |rest| rest.iter().count());
    let rest = to.strip_prefix(shared).unwrap_or(to);
    let rest = rest.iter().map(|part| part.to_string_lossy());
    let parts: Vec<_> = std::iter::repeat_n("..".into(), ascent).chain(rest).collect();
    if parts.is_empty() { ".".to_owned() } else { parts.join("/") }
}

/// Returns the existing files that a configuration names. They are looked for as OpenColorIO does: next to the
/// configuration, then along its search path.
fn named_files(config: &Path, text: &str) -> Vec<PathBuf> {
    let folder = config.parent().unwrap_or(config);
    let mut folders = vec![folder.to_owned()];
    folders.extend(search_path(text).into_iter().map(|part| clean(&folder.join(part))));
    let mut files = Vec::new();
    for source in sources(text).into_iter().collect::<BTreeSet<_>>() {
        // A variable in the name may have any value, so every file that could be meant is included.
        if source.contains(['$', '%']) {
            let ending = Path::new(source).extension().map(ToOwned::to_owned);
            let entries =
                folders.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten());
            let paths = entries.flatten().map(|entry| entry.path());
            files.extend(
                paths.filter(|path| path.is_file() && path.extension() == ending.as_deref()),
            );
            continue;
        }
        let paths = folders.iter().map(|folder| clean(&folder.join(source)));
        files.extend(paths.filter(|path| path.is_file()).take(1));
    }
    files
}

/// Returns the folders of `search_path: "luts:filmic"`, or of a list.
fn search_path(text: &str) -> Vec<&str> {
    let mut lines = text.lines().skip_while(|line| !line.starts_with("search_path:"));
    let Some(first) = lines.next().and_then(|line| line.split_once(':')) else { return Vec::new() };
    let value = first.1.trim();
    if value.is_empty() {
        let items = lines.map_while(|line| line.trim_start().strip_prefix("- "));
        return items.map(unquoted).collect();
    }
    match value.strip_prefix('[') {
        Some(list) => list.trim_end_matches(']').split(',').map(unquoted).collect(),
        None => unquoted(value).split(':').collect(),
    }
}

/// Returns the `src` of each FileTransform.
fn sources(text: &str) -> Vec<&str> {
    let mut sources = Vec::new();
    for part in text.split("!<FileTransform>").skip(1) {
        let part = match part.trim_start().strip_prefix('{') {
            Some(inline) => inline.split('}').next().unwrap_or(inline),
            // On lines of its own, up to the next tag of any kind.
            None => part.split("!<").next().unwrap_or(part),
        };
        let found = part.split([',', '\n']).find_map(|field| field.trim().strip_prefix("src:"));
        sources.extend(found.map(unquoted).filter(|source| !source.is_empty()));
    }
    sources
}

fn unquoted(text: &str) -> &str {
    text.trim().trim_matches(['"', '\''])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const CONFIG: &str = "\
ocio_profile_version: 2
search_path: \"luts:../shared\"
colorspaces:
  - !<ColorSpace>
    name: Film
    to_reference: !<GroupTransform>
      children:
        - !<ColorSpaceTransform> {src: Linear, dst: Film}
        - !<FileTransform> {src: a.spi1d, interpolation: linear}
        - !<FileTransform>
          src: 'b c.cube'
          interpolation: linear
        - !<FileTransform> {interpolation: best, src: \"gone.spi3d\"}
";

    #[test]
    fn a_configuration_is_sent_with_the_files_that_it_names() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in
            ["studio/luts/a.spi1d", "shared/b c.cube", "studio/luts/other.spi1d", "studio/key.pem"]
        {
            fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            fs::write(at(name), b"x").unwrap();
        }
        fs::write(at("studio/config.ocio"), CONFIG).unwrap();
        let config = load(&at("studio/config.ocio")).unwrap();
        assert_eq!(config.place, "framecrew-ocio/studio/config.ocio");
        let places: Vec<_> = config.files.iter().map(|file| file.place.as_str()).collect();
        let expected = ["shared/b c.cube", "studio/config.ocio", "studio/luts/a.spi1d"];
        assert_eq!(places, expected.map(|place| format!("framecrew-ocio/{place}")));
        assert_eq!(config.files[1].source, at("studio/config.ocio"));
    }

    #[test]
    fn absolute_paths_are_made_relative() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["cfg/near/a.cube", "luts/b.cube", "far/c.cube"] {
            fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            fs::write(at(name), b"x").unwrap();
        }
        let text = |near: &str, luts: &str, c: &str| {
            let file = |name: &str| format!("  - !<FileTransform> {{src: {name}}}\n");
            let files: String = ["a.cube", "b.cube", c, c].map(file).concat();
            format!("ocio_profile_version: 2\nsearch_path: \"{near}:{luts}:/nowhere\"\nx:\n{files}")
        };
        let absolute = |name: &str| at(name).display().to_string();
        let stored = text(&absolute("cfg/near"), &absolute("luts"), &absolute("far/c.cube"));
        fs::write(at("cfg/config.ocio"), stored).unwrap();
        let config = load(&at("cfg/config.ocio")).unwrap();
        let places: Vec<_> = config.files.iter().map(|file| file.place.as_str()).collect();
        let expected = ["cfg/config.ocio", "cfg/near/a.cube", "far/c.cube", "luts/b.cube"];
        assert_eq!(places, expected.map(|place| format!("framecrew-ocio/{place}")));
        let sent = config.files[0].other_text.as_deref();
        assert_eq!(sent, Some(&*text("near", "../luts", "../far/c.cube")));
        assert_eq!(config.files[1].other_text, None);
        assert_eq!(way(Path::new("/a"), Path::new("/a")), ".");
    }

    #[test]
    fn every_form_of_a_search_path_is_parsed() {
        let read = |text: &str| {
            let text = format!("a: b\nsearch_path: {text}\nroles:\n  x: y\n");
            search_path(&text).into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(read("luts"), ["luts"]);
        assert_eq!(read("'luts:../more luts'"), ["luts", "../more luts"]);
        assert_eq!(read("[luts, \"b c\"]"), ["luts", "b c"]);
        assert_eq!(read("\n  - luts\n  - b"), ["luts", "b"]);
        assert_eq!(search_path("roles:\n"), [""; 0]);
    }

    #[test]
    fn a_file_that_is_no_configuration_is_refused_with_a_reason() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.ocio");
        let refusal = |path: &Path| load(path).err().unwrap().to_string();
        assert!(refusal(&file).contains("--ocio"), "{}", refusal(&file));
        fs::write(&file, "hello").unwrap();
        assert!(refusal(&file).contains("is not a colour configuration"), "{}", refusal(&file));
        assert!(refusal(folder.path()).contains("is not a file"));
        fs::write(folder.path().join("a.ocioz"), "PK").unwrap();
        let archive = load(&folder.path().join("a.ocioz")).unwrap();
        assert_eq!((archive.place.as_str(), archive.files.len()), ("framecrew-ocio/a.ocioz", 1));
    }
}
