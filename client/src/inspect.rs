//! What a .blend is, what it needs, and what will go wrong: without Blender, and without a cluster.

use std::{collections::HashMap, path::Path};

use framecrew_blend::{BlendFile, Compression, Files, Scene, ViewLayer};
use serde::Serialize;

use crate::{
    error::Error,
    project::{
        admission,
        collection::{Collection, Entry},
        color::{self, OfEnvironment},
        layout::Layout,
        notes, order, script_pictures,
        stored::StoredAs,
    },
    spec::JobSpec,
    words,
};

/// Environment variables that make Blender load scripts, files or devices other than its own.
const VARIABLES: [&str; 9] = [
    "BLENDER_USER_RESOURCES",
    "BLENDER_USER_CONFIG",
    "BLENDER_USER_SCRIPTS",
    "BLENDER_USER_EXTENSIONS",
    "BLENDER_USER_DATAFILES",
    "BLENDER_SYSTEM_RESOURCES",
    "BLENDER_SYSTEM_SCRIPTS",
    "BLENDER_SYSTEM_DATAFILES",
    "CYCLES_SHADER_PATH",
];

/// The newest Blender whose files have been tried.
const KNOWN_VERSION: (u16, u16) = (5, 2);

/// What there is to know about a .blend. As JSON it is one object with these fields in lowerCamelCase; counts and
/// sizes are numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Inspection {
    /// The .blend, as it was named.
    pub file: String,
    /// Version of the Blender that saved the file, like `4.5`. An older Blender may lose some of it.
    pub version: String,
    /// `none`, `gzip` or `zstd`.
    pub compression: &'static str,
    /// Its scenes, in the order of the file.
    pub scenes: Vec<SceneFacts>,
    /// Everything that it and its libraries refer to, each path once for each .blend that has it.
    pub references: Vec<ReferenceFacts>,
    /// The folder that becomes the project: the deepest one that holds the .blend and all that is beside it.
    pub root: String,
    /// Files that a submission would send where the cluster has none of them, the .blend included.
    pub files: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// What will go wrong, what stands in the way first.
    pub problems: Vec<Problem>,
    /// Whether a job without any flags would be accepted.
    pub can_be_rendered: bool,
}

/// A scene, as it would be rendered.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct SceneFacts {
    /// Its name.
    pub name: String,
    /// Whether it is rendered if none is named.
    pub is_active: bool,
    /// The camera that is chosen, by name; absent where none is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub camera: Option<String>,
    /// All cameras that lie in the file itself.
    pub cameras: Vec<String>,
    /// The view layers.
    pub view_layers: Vec<ViewLayerFacts>,
    /// Suffixes of the pictures of a scene in stereo, like `_L`; none for plain ones.
    pub views: Vec<String>,
    /// First frame of its range.
    pub first_frame: i32,
    /// Last frame of its range.
    pub last_frame: i32,
    /// Every how many frames one is drawn.
    pub frame_step: u32,
    /// The engine's identifier, like `CYCLES`.
    pub engine: String,
    /// Width of its frames in pixels, the percentage counted.
    pub width: u32,
    /// Height of its frames in pixels, the percentage counted.
    pub height: u32,
    /// Frames per second.
    pub frame_rate: f64,
    /// The output format's identifier, like `OPEN_EXR_MULTILAYER`; empty for one that is not known.
    pub format: String,
    /// Bits of a channel in its output; 0 for what is not known.
    pub color_depth: u32,
    /// Whether its output is set to a movie.
    pub is_movie: bool,
    /// Where Blender would write, as stored. A job's frames go elsewhere.
    pub output_path: String,
    /// Whether Cycles denoises it.
    pub uses_denoising: bool,
}

/// A view layer of a scene.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ViewLayerFacts {
    /// Its name.
    pub name: String,
    /// Whether it is drawn.
    pub is_rendered: bool,
}

/// A path that a .blend refers to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ReferenceFacts {
    /// What it is there for, like `image`.
    pub kind: String,
    /// The path as it is stored.
    pub path: String,
    /// Where that leads on this machine.
    pub leads_to: String,
    /// The data blocks that refer to it.
    pub owners: Vec<String>,
    /// The .blend that refers to it.
    pub wanted_by: String,
    /// `relative`, `absolute`, or `bare`: a name without a folder, which Blender looks for where it was started.
    pub stored_as: &'static str,
    /// Whether it lies outside the project's root, so that it is moved into it on the way.
    pub is_outside: bool,
    /// Whether one path stands for many files: `sequence`, `tiles` or `folder`; `file` otherwise.
    pub stands_for: &'static str,
    /// Files that are there.
    pub files: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// Files that are not there.
    pub missing: u64,
    /// Why nothing of it is sent; absent where something is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub absence: Option<String>,
}

/// Something that will go wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Problem {
    /// Whether a job without flags is refused for it.
    pub blocks: bool,
    /// What it is and what to do: a sentence, perhaps with a list on lines of its own below it.
    pub text: String,
}

/// Reads a .blend and looks for all that it and its libraries need.
///
/// ```no_run
/// # async fn example() -> Result<(), framecrew::Error> {
/// let inspection = framecrew::inspect("shot.blend").await?;
/// println!("{} files, {} bytes", inspection.files, inspection.bytes);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Project`] when the file cannot be read or is not a .blend.
pub async fn inspect(file: impl AsRef<Path>) -> Result<Inspection, Error> {
    let file = file.as_ref().to_owned();
    match tokio::task::spawn_blocking(move || inspect_blocking(&file)).await {
        Ok(inspection) => inspection,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn inspect_blocking(file: &Path) -> Result<Inspection, Error> {
    let mut collection = Collection::of(file, "", "")?;
    let scene = admission::scene(&collection.main().survey.file, "");
    if let Some(frames) = scene.ok().and_then(|scene| admission::own_frames(scene).ok()) {
        collection.note_gaps(&frames);
    }
    let blend = &collection.main().survey.file;
    let layout = Layout::of(&collection, false);
    let mut problems = Vec::new();
    let mut blocking = |text: String| problems.push(Problem { blocks: true, text });
    if let Err(error) = &layout {
        blocking(error.to_string());
    }
    let scene = admission::scene(blend, "");
    match &scene {
        Err(fault) => blocking(format!("{} {fault}", file.display())),
        Ok(scene) => {
            let faults = [
                admission::engine_fault(blend.version, scene),
                admission::camera_fault(scene, ""),
                admission::format_fault(scene),
                admission::own_frames(scene).err(),
            ];
            faults
                .into_iter()
                .flatten()
                .for_each(|fault| blocking(format!("{} {fault}", file.display())));
        }
    }
    let can_be_rendered = problems.is_empty();
    let layout = layout.ok();
    let mut spec = JobSpec::animation(file);
    spec.settings.in_order = (scene.as_ref().ok())
        .and_then(|scene| admission::own_frames(scene).ok())
        .is_some_and(|frames| order::in_order(&spec, &frames, &order::unbaked(&collection)));
    let mut remarks =
        notes::notes(&collection, layout.as_ref(), scene.as_ref().ok().copied(), &spec);
    if let Ok(scene) = &scene {
        remarks.extend(colors(&collection, scene));
    }
    remarks.extend(script_pictures::fixed(&collection));
    remarks.extend(foreign_trees(&collection));
    remarks.extend(environment());
    remarks.extend(hints(blend));
    problems.extend(remarks.into_iter().map(|text| Problem { blocks: false, text }));
    Ok(Inspection {
        file: file.display().to_string(),
        version: blend.version.to_string(),
        compression: match blend.compression {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        },
        scenes: scenes(blend),
        references: references(&collection, layout.as_ref()),
        root: layout.as_ref().map_or_else(String::new, |layout| layout.root.display().to_string()),
        files: layout.as_ref().map_or(0, |layout| layout.files.len() as u64),
        bytes: layout.as_ref().map_or(0, Layout::size_bytes),
        problems,
        can_be_rendered,
    })
}

/// Describes what the colours depend on outside the file.
fn colors(collection: &Collection, scene: &Scene) -> Option<String> {
    let Some(ocio) = color::environment() else {
        return color::unknown(&color::unknown_names(collection, scene));
    };
    Some(match color::of_environment(collection, scene, &ocio) {
        OfEnvironment::Needed(_, needed) => format!(
            "a submission sends the colour configuration of OCIO ({}), too: it has {}",
            ocio.display(),
            needed.join(", ")
        ),
        OfEnvironment::Stays(text) | OfEnvironment::Unreadable(text) => text,
    })
}

/// Describes node trees of add-ons. No picture shows them, but it may show what an add-on makes of them.
fn foreign_trees(collection: &Collection) -> Option<String> {
    let trees = collection.blends.iter().flat_map(|blend| &blend.survey.needs.foreign_trees);
    let trees: Vec<_> = trees.map(|(kind, tree)| format!("`{tree}` ({kind})")).collect();
    (!trees.is_empty()).then(|| {
        format!(
            "the file has node trees of add-ons, like {}: Blender draws it without them; if the add-on changes the \
             scene as it is drawn, send it with --addon FILE.zip",
            words::printable(&trees.iter().take(2).cloned().collect::<Vec<_>>().join(" and "))
        )
    })
}

/// Names environment variables that change what Blender draws here and that nodes do not have.
fn environment() -> Option<String> {
    let is_set = |name: &&&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let set: Vec<&str> = VARIABLES.iter().filter(is_set).copied().collect();
    (!set.is_empty()).then(|| {
        format!(
            "{} set here and may change what Blender draws on this machine; nodes ignore that and draw with \
             factory settings",
            match &set[..] {
                [one] => format!("{one} is"),
                _ => format!("{} are", set.join(", ")),
            }
        )
    })
}

/// What depends on the nodes, so that nobody can say yet whether it will go wrong.
fn hints(blend: &BlendFile) -> Vec<String> {
    let mut hints = Vec::new();
    if (blend.version.major, blend.version.minor) > KNOWN_VERSION {
        hints.push(format!(
            "Blender {} saved the file, which is newer than any that Framecrew was tried with; nodes need that version, \
             and what is said here may be incomplete",
            blend.version
        ));
    }
    let Some(scene) = blend.active() else { return hints };
    if scene.engine == "CYCLES" && scene.uses_denoising {
        hints.push(
            "the scene is denoised, which some Blenders cannot (Debian's 3.4 has no OpenImageDenoise); --denoise off \
             renders without, or name a Blender with --blender"
                .into(),
        );
    }
    if scene.engine.starts_with("BLENDER_") {
        hints.push(
            "the scene is drawn by EEVEE or Workbench, which need a graphics card: a node without one draws them on its \
             processor, many times slower"
                .into(),
        );
    }
    hints
}

fn scenes(blend: &BlendFile) -> Vec<SceneFacts> {
    let pixels = |full: u32, percentage: u32| {
        u32::try_from(u64::from(full) * u64::from(percentage) / 100).unwrap_or(u32::MAX)
    };
    let view_layer = |layer: &ViewLayer| ViewLayerFacts {
        name: layer.name.clone(),
        is_rendered: layer.is_rendered,
    };
    let facts = |(number, scene): (usize, &Scene)| SceneFacts {
        name: scene.name.clone(),
        is_active: number == blend.active_scene,
        camera: scene.camera.clone(),
        cameras: scene.cameras.clone(),
        view_layers: scene.view_layers.iter().map(view_layer).collect(),
        views: scene.views.iter().map(|view| view.suffix.clone()).collect(),
        first_frame: scene.first,
        last_frame: scene.last,
        frame_step: scene.step,
        engine: scene.engine.clone(),
        width: pixels(scene.width, scene.percentage),
        height: pixels(scene.height, scene.percentage),
        frame_rate: f64::from(scene.frame_rate.0) / f64::from(scene.frame_rate.1.max(1)),
        format: scene.format.clone(),
        color_depth: scene.color_depth,
        is_movie: scene.format_is_movie,
        output_path: scene.output_path.clone(),
        uses_denoising: scene.uses_denoising,
    };
    blend.scenes.iter().enumerate().map(facts).collect()
}

fn references(collection: &Collection, layout: Option<&Layout>) -> Vec<ReferenceFacts> {
    let mut all: Vec<ReferenceFacts> = Vec::new();
    let mut places = HashMap::new();
    for entry in &collection.entries {
        let key = (entry.wanted_by, entry.reference.kind, entry.reference.path.as_str());
        let owner = entry.reference.owner.clone();
        let place = *places.entry(key).or_insert_with(|| {
            all.push(facts(collection, entry, layout));
            all.len() - 1
        });
        all[place].owners.push(owner);
    }
    all
}

fn facts(collection: &Collection, entry: &Entry, layout: Option<&Layout>) -> ReferenceFacts {
    let Entry { wanted_by, reference, stored, found, .. } = entry;
    ReferenceFacts {
        kind: reference.kind.to_string(),
        path: reference.path.clone(),
        leads_to: stored.path.display().to_string(),
        owners: Vec::new(),
        wanted_by: collection.blends[*wanted_by].path.display().to_string(),
        stored_as: match stored.stored_as {
            StoredAs::Relative => "relative",
            StoredAs::Absolute => "absolute",
            StoredAs::Bare => "bare",
        },
        is_outside: layout.is_some_and(|layout| layout.is_outside(&stored.path)),
        stands_for: match reference.files {
            Files::One => "file",
            Files::Sequence { .. } => "sequence",
            Files::Tiles { .. } => "tiles",
            Files::Folder | Files::Named(_) => "folder",
        },
        files: found.files.len() as u64,
        bytes: found.files.iter().map(|file| file.size_bytes).sum(),
        missing: found.missing as u64,
        absence: found.absence.as_ref().map(ToString::to_string),
    }
}
