//! Whether a .blend can be rendered as it is asked for: its scene, engine, camera and frames.

use std::collections::BTreeSet;

use framecrew_blend::{BlendFile, BlenderVersion, Scene};
use framecrew_model::{FrameRange, FrameSet};
use framecrew_proto::v1::{ImageFormat, RenderSettings};

use crate::spec::JobSpec;

/// Engines that every Blender brings, of whichever generation it is.
const ENGINES: [&str; 4] = ["CYCLES", "BLENDER_EEVEE", "BLENDER_EEVEE_NEXT", "BLENDER_WORKBENCH"];

/// The last Blender that wrote them: previews of 2.80 still did.
const LAST_OF_OLD: BlenderVersion = BlenderVersion::new(2, 80);

/// Those that Blender had until 2.79, by name.
const ENGINES_OF_OLD: [(&str, &str); 2] =
    [("BLENDER_RENDER", "Blender Render"), ("BLENDER_GAME", "the Game Engine")];

/// Blender's formats that a node cannot read back, so it could not tell whether a frame is complete.
const NOT_KEPT: [(&str, &str); 4] =
    [("DPX", "DPX"), ("CINEON", "Cineon"), ("JPEG2000", "JPEG 2000"), ("IRIS", "Iris")];

/// The first Blender that reads files of Blender 5.0, which have another file format.
const READS_FORM_OF_5: BlenderVersion = BlenderVersion::new(4, 5);

/// The first Blender that survives files of 4.0. Version 3.4.1 crashed with a segmentation fault on files of 4.0
/// and of 4.5.
const SURVIVES_FILES_OF_4: BlenderVersion = BlenderVersion::new(3, 6);

/// The scene to render, which must exist whether or not its range is used.
pub(crate) fn scene<'a>(blend: &'a BlendFile, wanted: &str) -> Result<&'a Scene, String> {
    let found = match wanted {
        "" => blend.active(),
        name => blend.scenes.iter().find(|scene| scene.name == name),
    };
    found.ok_or_else(|| {
        if blend.scenes.is_empty() {
            return "has no scene to render; name the .blend that uses it".into();
        }
        let names = blend.scenes.iter().map(|scene| scene.name.as_str());
        format!("has no scene `{wanted}`; name one of {} with --scene", listed(names))
    })
}

/// The range and step that were set in Blender.
pub(crate) fn own_frames(scene: &Scene) -> Result<FrameSet, String> {
    let range = FrameRange::new(scene.first, scene.last, scene.step);
    range.and_then(|range| FrameSet::new(vec![range])).map_err(|error| {
        format!(
            "has an animation that cannot be rendered as it is: {error}, or name frames with -f"
        )
    })
}

/// What draws a scene that was made for an engine of old: Blender itself puts EEVEE in its place when it opens the
/// file.
pub(crate) fn engine_replaced(saved_by: BlenderVersion, scene: &Scene) -> Option<String> {
    let name = engine_of_old(scene).filter(|_| saved_by <= LAST_OF_OLD)?;
    Some(format!(
        "the scene was made for {name}, which Blender has not had since 2.80: EEVEE draws it in its place, and lights \
         and materials look different; --engine chooses another"
    ))
}

fn engine_of_old(scene: &Scene) -> Option<&'static str> {
    let of_old = ENGINES_OF_OLD.iter().find(|(identifier, _)| *identifier == scene.engine);
    of_old.map(|(_, name)| *name)
}

/// Why the scene's own engine draws nothing, if it is one that no Blender has: each would take EEVEE in its place,
/// without a word.
pub(crate) fn engine_fault(saved_by: BlenderVersion, scene: &Scene) -> Option<String> {
    let engine = scene.engine.as_str();
    if ENGINES.contains(&engine) || engine_replaced(saved_by, scene).is_some() {
        return None;
    }
    let what = engine_of_old(scene).map_or_else(
        || format!("`{engine}`, which is not part of Blender"),
        |name| format!("{name}, which Blender has not had since 2.80"),
    );
    let send = if engine_of_old(scene).is_none() {
        "send the add-on that brings it with --addon FILE.zip, or "
    } else {
        ""
    };
    Some(format!(
        "is to be drawn by {what}; {send}choose another with --engine cycles, --engine eevee or --engine workbench, and \
         expect its materials to look different"
    ))
}

/// Returns why the requested Blender cannot read the file at all. Only major and minor version count.
fn blender_fault(saved_by: BlenderVersion, wanted: BlenderVersion) -> Option<String> {
    (saved_by.major >= 5 && wanted < READS_FORM_OF_5).then(|| {
        format!(
            "was saved by Blender {saved_by}, whose files no Blender before {READS_FORM_OF_5} can read; --blender \
             {wanted} cannot draw it, --blender {READS_FORM_OF_5} may"
        )
    })
}

/// Describes the risk of a requested Blender that is older than the file. It is no fault, because the person chose
/// it.
pub(crate) fn blender_older(saved_by: BlenderVersion, wanted: &str) -> Option<String> {
    let wanted = asked_for(wanted).filter(|wanted| *wanted < saved_by)?;
    let what = if saved_by.major >= 4 && wanted < SURVIVES_FILES_OF_4 {
        "is known to crash on such files"
    } else {
        "may lose data that only newer ones know"
    };
    Some(format!(
        "the file was saved by Blender {saved_by}; {wanted}, which --blender asks for, {what}; without --blender one \
         that is not older draws it"
    ))
}

/// Parses the major and minor version of `4.5` or `4.5.15`; `None` for any other text.
pub(crate) fn asked_for(blender: &str) -> Option<BlenderVersion> {
    let BlenderVersion { major, minor, .. } = blender.parse().ok()?;
    Some(BlenderVersion::new(major, minor))
}

/// Why there is nothing to see in the scene through the camera `wanted`; empty: through its own.
pub(crate) fn camera_fault(scene: &Scene, wanted: &str) -> Option<String> {
    let Scene { name, cameras, .. } = scene;
    let names = || listed(cameras.iter().map(String::as_str));
    // Sequencer strips need no camera. The compositor needs the cameras of the scenes that it shows.
    if scene.uses_compositor && !scene.uses_sequencer && wanted.is_empty() {
        let shown = scene.needs.cameraless.first()?;
        return Some(if shown == name {
            format!(
                "has no camera in the scene `{name}`, which its compositor shows; set one in Blender"
            )
        } else {
            format!(
                "has no camera in the scene `{shown}`, which the compositor of the scene `{name}` shows; set one in \
                 Blender"
            )
        });
    }
    if wanted.is_empty() {
        let lacks_camera = !scene.has_camera && !scene.uses_sequencer;
        let advice = if cameras.is_empty() {
            "set one in Blender".to_owned()
        } else {
            format!("choose one in Blender, or name one of {} with --camera", names())
        };
        return lacks_camera.then(|| format!("has no camera in the scene `{name}`; {advice}"));
    }
    // Those that lie in libraries are not among them.
    let is_sure = !cameras.is_empty() && !cameras.iter().any(|camera| camera == wanted);
    (is_sure && scene.camera.as_deref() != Some(wanted)).then(|| {
        format!(
            "has no camera `{wanted}` in the scene `{name}`; name one of {} with --camera",
            names()
        )
    })
}

/// Returns why the frames cannot be written in the scene's own format.
pub(crate) fn format_fault(scene: &Scene) -> Option<String> {
    let name = not_kept(&scene.format)?;
    Some(format!(
        "writes {name}, which nodes cannot read back, so they could not tell whether a frame is whole; choose another \
         format: --format PNG --depth 16 keeps most, --format OPEN_EXR keeps the full dynamic range"
    ))
}

/// Describes what happens to File Output nodes whose format cannot be kept.
pub(crate) fn extra_formats_replaced(scene: &Scene) -> Option<String> {
    let names: BTreeSet<_> = scene.extra_formats().filter_map(not_kept).collect();
    let names = names.into_iter().collect::<Vec<_>>().join(" and ");
    (!names.is_empty()).then(|| {
        format!(
            "File Output nodes write {names}, which nodes cannot read back: they write PNG instead; choose another \
             format in the node if that does not suit"
        )
    })
}

fn not_kept(format: &str) -> Option<&'static str> {
    NOT_KEPT.iter().find(|(identifier, _)| *identifier == format).map(|(_, name)| *name)
}

/// Why the view layer asked for cannot be rendered.
fn view_layer_fault(scene: &Scene, wanted: &str) -> Option<String> {
    if wanted.is_empty() || scene.view_layers.iter().any(|layer| layer.name == wanted) {
        return None;
    }
    let names = scene.view_layers.iter().map(|layer| layer.name.as_str());
    let names = listed(names);
    Some(format!(
        "has no view layer `{wanted}` in the scene `{}`; name one of {names} with --view-layer",
        scene.name
    ))
}

/// Why the frames cannot have as many bits as asked for. What the file's own format has is known only of those that
/// frames are written in.
fn depth_fault(scene: &Scene, settings: &RenderSettings) -> Option<String> {
    let wanted = settings.color_depth?;
    let format = match settings.format() {
        ImageFormat::Unspecified => {
            ImageFormat::from_str_name(&format!("IMAGE_FORMAT_{}", scene.format))?
        }
        chosen => chosen,
    };
    let depths: &[u32] = match format {
        ImageFormat::Unspecified => return None,
        ImageFormat::Png | ImageFormat::Tiff => &[8, 16],
        ImageFormat::OpenExr | ImageFormat::OpenExrMultilayer => &[16, 32],
        ImageFormat::Jpeg | ImageFormat::Webp => &[8],
    };
    let has = depths.iter().map(u32::to_string).collect::<Vec<_>>().join(" or ");
    let name = format.as_str_name().trim_start_matches("IMAGE_FORMAT_");
    (!depths.contains(&wanted)).then(|| {
        format!("cannot be written with {wanted} bits a channel: {name} has {has}; choose with --depth and --format")
    })
}

/// Whether the job can be rendered, as far as the .blend tells; which frames it has.
pub(crate) fn admit(blend: &BlendFile, spec: &JobSpec) -> Result<FrameSet, String> {
    let settings = &spec.settings;
    let scene = scene(blend, &settings.scene)?;
    // An add-on may provide it.
    if settings.engine == 0
        && (spec.addons.is_empty() || engine_of_old(scene).is_some())
        && let Some(fault) = engine_fault(blend.version, scene)
    {
        return Err(fault);
    }
    if settings.engine == 0
        && spec.strict
        && let Some(replaced) = engine_replaced(blend.version, scene)
    {
        return Err(format!("is not rendered, because of --strict: {replaced}"));
    }
    if let Some(wanted) = asked_for(&settings.blender)
        && let Some(fault) = blender_fault(blend.version, wanted)
    {
        return Err(fault);
    }
    if let Some(fault) = camera_fault(scene, &settings.camera) {
        return Err(fault);
    }
    if let Some(fault) = view_layer_fault(scene, &settings.view_layer) {
        return Err(fault);
    }
    if settings.format == 0
        && let Some(fault) = format_fault(scene)
    {
        return Err(fault);
    }
    if spec.strict
        && let Some(replaced) = extra_formats_replaced(scene)
    {
        return Err(format!("is not rendered, because of --strict: {replaced}"));
    }
    if let Some(fault) = depth_fault(scene, settings) {
        return Err(fault);
    }
    let is_linear = scene.format.starts_with("OPEN_EXR") || scene.format == "HDR";
    if spec.movie.is_some() && settings.format == 0 && is_linear {
        let name = if scene.format == "HDR" { "HDR" } else { "OpenEXR" };
        return Err(format!(
            "writes {name}, of which no movie can be made; choose another format with --format, like --format PNG, or \
             drop --movie"
        ));
    }
    match &spec.frames {
        Some(Ok(frames)) => Ok(frames.clone()),
        // A fault is found before the file is read.
        Some(Err(fault)) => Err(fault.to_string()),
        None => own_frames(scene),
    }
}

/// Names, for a sentence.
fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
