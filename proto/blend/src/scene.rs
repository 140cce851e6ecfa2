//! A scene, as it would be rendered.

use crate::{
    BlenderVersion,
    group::{Group, View},
    needs::{SceneNeeds, has_camera},
    strips::Strips,
};

/// What Blender 2.4x, which knew no other, calls its engine later.
const FIRST_ENGINE: &str = "BLENDER_RENDER";

/// Numbers of `R_IMF_IMTYPE_*` that are movies: AVI raw, JPEG and codec, QuickTime, FFmpeg, frame server,
/// H.264, Xvid, Theora, AV1.
const MOVIES: [i32; 10] = [15, 16, 18, 19, 24, 25, 31, 32, 33, 36];

/// Blender's names of the formats, by the numbers of `R_IMF_IMTYPE_*`.
const FORMATS: [(i32, &str); 24] = [
    (0, "TARGA"),
    (1, "IRIS"),
    (4, "JPEG"),
    (7, "IRIS"),
    (14, "TARGA_RAW"),
    (15, "AVI_RAW"),
    (16, "AVI_JPEG"),
    (17, "PNG"),
    (18, "AVI_CODEC"),
    (19, "QUICKTIME"),
    (20, "BMP"),
    (21, "HDR"),
    (22, "TIFF"),
    (23, "OPEN_EXR"),
    (24, "FFMPEG"),
    (25, "FRAMESERVER"),
    (26, "CINEON"),
    (27, "DPX"),
    (28, "OPEN_EXR_MULTILAYER"),
    (30, "JPEG2000"),
    (31, "H264"),
    (32, "XVID"),
    (33, "THEORA"),
    (35, "WEBP"),
];

/// Bits per channel, by the bits of `R_IMF_CHAN_DEPTH_*`.
const DEPTHS: [(u64, u32); 7] = [(1, 1), (2, 8), (4, 10), (8, 12), (16, 16), (32, 24), (64, 32)];

/// `R_DOSEQ`, `R_DOCOMP`, `R_MULTIVIEW`.
pub(crate) const USES_SEQUENCER: u64 = 1 << 0;
const USES_COMPOSITOR: u64 = 1 << 6;
const MULTIVIEW: u64 = 1 << 21;

/// The first Blender whose Cycles denoises unless told otherwise; files of older ones keep it off.
const DENOISES: BlenderVersion = BlenderVersion::new(3, 0);

/// Properties looked at to find one.
const PROPERTIES_MAX: usize = 10_000;

/// A scene, as it would be rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scene {
    /// Its name.
    pub name: String,
    /// The first frame.
    pub first: i32,
    /// The last frame. A file may say one before the first.
    pub last: i32,
    /// Every how many frames one is drawn; at least 1.
    pub step: u32,
    /// Width in pixels, before the percentage.
    pub width: u32,
    /// Height in pixels, before the percentage.
    pub height: u32,
    /// Percentage of width and height that is drawn.
    pub percentage: u32,
    /// Frames per second: this divided by that. 24 is (24, 1), 23.98 is (24000, 1001).
    pub frame_rate: (u32, u32),
    /// The engine's identifier, like `CYCLES` or `BLENDER_EEVEE_NEXT`.
    pub engine: String,
    /// The output format's identifier, like `PNG` or `OPEN_EXR_MULTILAYER`; empty for one not known.
    pub format: String,
    /// Whether the output is set to a movie, which frames drawn apart cannot be written to.
    pub format_is_movie: bool,
    /// Bits per channel: 8, 16, 32; 0 for what is not known.
    pub color_depth: u32,
    /// Channels: `BW`, `RGB` or `RGBA`.
    pub color_mode: &'static str,
    /// Where Blender would write, as stored: `//render/`.
    pub output_path: String,
    /// Whether a camera is chosen, or bound to a marker: without, nothing can be rendered.
    pub has_camera: bool,
    /// The name of the chosen camera.
    pub camera: Option<String>,
    /// The names of all cameras in the scene, sorted. One that lies in a library is known if it is the chosen one.
    pub cameras: Vec<String>,
    /// The view layers, in the scene's order.
    pub view_layers: Vec<ViewLayer>,
    /// The suffixes of the pictures of a scene in stereo, or from more views: `_L`, `_R`. None for plain pictures.
    pub views: Vec<RenderView>,
    /// Whether Cycles denoises: as stored; where nothing is, as the Blender that saved the file did.
    pub uses_denoising: bool,
    /// Whether strips of sound would be in a movie of it.
    pub has_sound: bool,
    /// Whether the strips of the video sequencer are drawn, in place of the scene.
    pub uses_sequencer: bool,
    /// Whether the pictures go through the compositor.
    pub uses_compositor: bool,
    /// What it needs of the Blender that draws it.
    pub needs: SceneNeeds,
}

/// A part of a scene that is drawn by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewLayer {
    /// Its name.
    pub name: String,
    /// Whether it is drawn.
    pub is_rendered: bool,
}

/// One of the views of a scene in stereo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderView {
    /// Its name, like `left`.
    pub name: String,
    /// What its camera's and its pictures' names end with, like `_L`.
    pub suffix: String,
}

impl Scene {
    /// Blender's names of the formats that the File Output nodes of its compositor write. Empty if the compositor
    /// is off.
    pub fn extra_formats(&self) -> impl Iterator<Item = &'static str> {
        let numbers = self.needs.format_numbers.iter().filter(|_| self.uses_compositor);
        numbers
            .filter_map(|number| FORMATS.iter().find(|(of, _)| of == number))
            .map(|(_, name)| *name)
    }

    /// None when the struct is not that of a scene.
    pub(crate) fn parse(group: &Group<'_>, saved_by: BlenderVersion) -> Option<Self> {
        let scene = group.id();
        let strips = Strips::of(group);
        let int = |path| scene.int(path);
        let size = |path| Some(u32::try_from(int(path)?).unwrap_or(0));
        let text = |path| scene.text(path);
        // Moved in Blender 2.61.
        let format = int("r.im_format.imtype").or_else(|| int("r.imtype"));
        let depth = |(bit, _): &&(u64, u32)| scene.flag("r.im_format.depth", *bit);
        Some(Self {
            // After two letters that tell the kind.
            name: text("id.name")?.strip_prefix("SC")?.to_owned(),
            first: int("r.sfra")?,
            last: int("r.efra")?,
            // Since Blender 2.46.
            step: int("r.frame_step").map_or(1, |step| u32::try_from(step).unwrap_or(1).max(1)),
            width: size("r.xsch")?,
            height: size("r.ysch")?,
            percentage: size("r.size")?,
            frame_rate: frame_rate(size("r.frs_sec"), scene.float("r.frs_sec_base")),
            // Since Blender 2.5.
            engine: text("r.engine")
                .filter(|engine| !engine.is_empty())
                .unwrap_or_else(|| FIRST_ENGINE.to_owned()),
            format: FORMATS
                .iter()
                .find(|(number, _)| Some(*number) == format)
                .map_or_else(String::new, |(_, name)| (*name).to_owned()),
            format_is_movie: format.is_some_and(|format| MOVIES.contains(&format)),
            color_depth: DEPTHS.iter().find(depth).map_or(0, |(_, bits)| *bits),
            color_mode: match int("r.im_format.planes").or_else(|| int("r.planes")) {
                Some(8) => "BW",
                Some(32) => "RGBA",
                _ => "RGB",
            },
            output_path: text("r.pic").unwrap_or_default(),
            has_camera: scene.has("camera").then(|| has_camera(group))?,
            // Known when all objects have come by.
            camera: None,
            cameras: Vec::new(),
            view_layers: view_layers(group),
            views: views(group),
            uses_denoising: uses_denoising(group).unwrap_or(saved_by >= DENOISES),
            has_sound: strips.shown(group).any(|strip| is_sound(&strip)),
            uses_sequencer: scene.flag("r.scemode", USES_SEQUENCER)
                && strips.shown(group).any(|strip| !is_sound(&strip)),
            uses_compositor: scene.flag("r.scemode", USES_COMPOSITOR)
                && (scene.pointer("compositing_node_group").is_some()
                    || (scene.flag("use_nodes", 1) && scene.pointer("nodetree").is_some())),
            // Completed when all data blocks have been read.
            needs: SceneNeeds::parse(&scene),
        })
    }
}

/// `SEQ_TYPE_SOUND_RAM`, `SEQ_TYPE_SOUND_HD`.
fn is_sound(strip: &View<'_>) -> bool {
    matches!(strip.int("type"), Some(4 | 5))
}

fn view_layers(group: &Group<'_>) -> Vec<ViewLayer> {
    let named =
        |layer: &View<'_>, is_rendered| Some(ViewLayer { name: layer.text("name")?, is_rendered });
    // `VIEW_LAYER_RENDER`.
    let layers = group.all("ViewLayer").filter_map(|layer| named(&layer, layer.flag("flag", 1)));
    // Before Blender 2.8, `SCE_LAY_DISABLE`.
    let old = group
        .all("SceneRenderLayer")
        .filter_map(|layer| named(&layer, !layer.flag("layflag", 1 << 15)));
    layers.chain(old).collect()
}

fn views(group: &Group<'_>) -> Vec<RenderView> {
    let scene = group.id();
    if !scene.flag("r.scemode", MULTIVIEW) {
        return Vec::new();
    }
    // `SCE_VIEWS_FORMAT_STEREO_3D`, which has two whatever others there are.
    let is_stereo = scene.int("r.views_format") == Some(0);
    group
        .all("SceneRenderView")
        // `SCE_VIEW_DISABLE`.
        .filter(|view| !view.flag("viewflag", 1))
        .filter_map(|view| {
            Some(RenderView { name: view.text("name")?, suffix: view.text("suffix")? })
        })
        .filter(|view| !is_stereo || matches!(&*view.name, "left" | "right"))
        .collect()
}

/// Of the scene's own properties, where Cycles keeps its settings.
fn uses_denoising(group: &Group<'_>) -> Option<bool> {
    let scene = group.id();
    // Since Blender 5.0 the settings of what is part of Blender lie apart.
    let roots = [scene.pointer("id.system_properties"), scene.pointer("id.properties")];
    roots.into_iter().flatten().find_map(|root| {
        let cycles = child(group, group.at(root, "IDProperty").next()?, "cycles")?;
        child(group, cycles, "use_denoising")?.int("data.val").map(|value| value != 0)
    })
}

fn child<'g>(group: &'g Group<'_>, of: View<'_>, name: &str) -> Option<View<'g>> {
    let mut next = of.pointer("data.group.first");
    for _ in 0..PROPERTIES_MAX {
        let property = group.at(next?, "IDProperty").next()?;
        if property.text("name")? == name {
            return Some(property);
        }
        next = property.pointer("next");
    }
    None
}

/// As two whole numbers.
fn frame_rate(frames: Option<u32>, base: Option<f32>) -> (u32, u32) {
    let frames = u64::from(frames.unwrap_or(0).clamp(1, i16::MAX.unsigned_abs().into()));
    let base = base.filter(|base| *base >= 0.001 && *base < 1e6).unwrap_or(1.0);
    // The base is a number like 1.001, in single precision.
    let thousands = (f64::from(base) * 1_000.0).round() as u64;
    let (mut a, mut b) = (frames * 1_000, thousands);
    while b > 0 {
        (a, b) = (b, a % b);
    }
    let whole = |number: u64| u32::try_from(number / a.max(1)).unwrap_or(u32::MAX);
    (whole(frames * 1_000), whole(thousands))
}
