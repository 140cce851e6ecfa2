use crate::group::View;

/// What Blender 2.4x, which knew no other, calls its engine later.
const FIRST_ENGINE: &str = "BLENDER_RENDER";

/// Numbers of `R_IMF_IMTYPE_*` that are movies: AVI raw, JPEG and codec, QuickTime, FFmpeg, frame server,
/// H.264, Xvid, Theora, AV1.
const MOVIES: [i32; 10] = [15, 16, 18, 19, 24, 25, 31, 32, 33, 36];

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
    /// The engine's identifier, like `CYCLES` or `BLENDER_EEVEE_NEXT`.
    pub engine: String,
    /// Whether the output is set to a movie, which frames drawn apart cannot be written to.
    pub format_is_movie: bool,
    /// Whether a camera is chosen: without, nothing can be rendered.
    pub has_camera: bool,
}

impl Scene {
    /// None when the struct is not that of a scene.
    pub(crate) fn parse(scene: &View<'_>) -> Option<Self> {
        let int = |path| scene.int(path);
        let size = |path| Some(u32::try_from(int(path)?).unwrap_or(0));
        let text = |path| scene.text(path);
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
            // Since Blender 2.5.
            engine: text("r.engine")
                .filter(|engine| !engine.is_empty())
                .unwrap_or_else(|| FIRST_ENGINE.to_owned()),
            // Moved in Blender 2.61.
            format_is_movie: int("r.im_format.imtype")
                .or_else(|| int("r.imtype"))
                .is_some_and(|format| MOVIES.contains(&format)),
            has_camera: scene.has("camera").then(|| scene.pointer("camera").is_some())?,
        })
    }
}
