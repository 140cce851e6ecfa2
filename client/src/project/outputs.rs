//! Predicts the names of the frames' files as far as the .blend tells, so that files in their way are found before
//! anything is sent. Nodes decide the final names; other conflicts are found when a file is fetched.

use framecrew_blend::Scene;
use framecrew_model::FrameSet;
use framecrew_proto::v1::{ImageFormat, RenderSettings};

/// Digits of a frame's number if the path does not specify them.
const DIGITS: usize = 4;
/// Extensions that Blender removes before it appends the one of the format.
const ENDINGS: [&str; 12] =
    ["png", "jpg", "jpeg", "tif", "tiff", "exr", "webp", "bmp", "tga", "hdr", "dpx", "jp2"];

/// The likely names of the files of frames.
#[derive(Debug, Clone)]
pub(super) struct LikelyNames {
    /// The text before and after the frame's number.
    around: (String, String),
    digits: usize,
    /// Possible suffixes: those of the views, or an empty one.
    suffixes: Vec<String>,
    ending: &'static str,
    frames: FrameSet,
}

impl LikelyNames {
    /// Returns `None` if only Blender can tell the names.
    pub(super) fn of(scene: &Scene, settings: &RenderSettings, frames: &FrameSet) -> Option<Self> {
        let suffixes = scene.views.iter().map(|view| view.suffix.clone()).collect();
        Self::new(&scene.output_path, ending(scene, settings)?, suffixes, frames)
    }

    fn new(
        path: &str,
        ending: &'static str,
        mut suffixes: Vec<String>,
        frames: &FrameSet,
    ) -> Option<Self> {
        let last = path.rsplit(['/', '\\']).next().unwrap_or_default();
        // Blender 4.5 replaces these templates.
        if path.contains('{') {
            return None;
        }
        let (before, digits, after) = match last.rfind('#') {
            None => (last, DIGITS, ""),
            Some(at) => {
                let before = last[..at].trim_end_matches('#');
                (before, at + 1 - before.len(), without_ending(&last[at + 1..]))
            }
        };
        let before = clean(before).trim_start_matches(['.', ' ']).to_owned();
        suffixes.push(String::new());
        Some(Self {
            around: (before, clean(after)),
            digits,
            suffixes,
            ending,
            frames: frames.clone(),
        })
    }

    /// Whether a frame's file is likely to have this name.
    pub(super) fn contain(&self, name: &str) -> bool {
        let Some((stem, ending)) = name.rsplit_once('.') else { return false };
        let (before, after) = &self.around;
        let Some(rest) = stem.strip_prefix(before.as_str()) else { return false };
        let is_one = |suffix: &String| {
            let number = rest.strip_suffix(suffix.as_str())?.strip_suffix(after.as_str())?;
            let (sign, digits) = match number.strip_prefix('-') {
                Some(digits) => ("-", digits),
                None => ("", number),
            };
            let frame: i32 = number.parse().ok().filter(|frame| self.frames.contains(*frame))?;
            let expected = format!("{:0width$}", frame.unsigned_abs(), width = self.digits);
            (digits == expected && (sign == "-") == (frame < 0)).then_some(())
        };
        ending.eq_ignore_ascii_case(self.ending)
            && self.suffixes.iter().any(|suffix| is_one(suffix).is_some())
    }
}

/// The extension of the format that the frames will have.
fn ending(scene: &Scene, settings: &RenderSettings) -> Option<&'static str> {
    let own = match scene.format.as_str() {
        _ if scene.format_is_movie => Some("png"),
        "BMP" => Some("bmp"),
        "TARGA" | "TARGA_RAW" => Some("tga"),
        "HDR" => Some("hdr"),
        name => of_format(ImageFormat::from_str_name(&format!("IMAGE_FORMAT_{name}"))?),
    };
    of_format(settings.format()).or(own)
}

fn of_format(format: ImageFormat) -> Option<&'static str> {
    match format {
        ImageFormat::Unspecified => None,
        ImageFormat::Png => Some("png"),
        ImageFormat::Jpeg => Some("jpg"),
        ImageFormat::OpenExr | ImageFormat::OpenExrMultilayer => Some("exr"),
        ImageFormat::Tiff => Some("tif"),
        ImageFormat::Webp => Some("webp"),
    }
}

fn without_ending(text: &str) -> &str {
    match text.rsplit_once('.') {
        Some((stem, ending)) if ENDINGS.iter().any(|it| ending.eq_ignore_ascii_case(it)) => stem,
        _ => text,
    }
}

/// Replaces the characters that not every system allows, as nodes do.
fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if "/\\:*?\"<>|".contains(c) || c.is_control() { '_' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn names(path: &str, ending: &'static str, views: &[&str]) -> LikelyNames {
        let views = views.iter().map(|suffix| (*suffix).into()).collect();
        LikelyNames::new(path, ending, views, &"-3,1-12,10000".parse().unwrap()).unwrap()
    }

    #[test]
    fn names_that_blender_would_use_are_likely() {
        for (path, name) in [
            ("//render/", "0001.png"),
            ("//render/", "-0003.png"),
            ("//render/", "10000.PNG"),
            ("/tmp/shot_", "shot_0012.png"),
            ("C:\\render\\sh##_take_###_v2.png", "sh##_take_007_v2.png"),
            ("//take##", "take12.png"),
            ("//####.exr", "0001.png"),
            ("//a:b_", "a_b_0001.png"),
        ] {
            assert!(names(path, "png", &[]).contain(name), "{path}: {name}");
        }
        assert!(names("//", "jpg", &["_L", "_R"]).contain("0001_R.jpg"));
        assert!(names("//", "exr", &[]).contain("0001.exr"));
    }

    #[test]
    fn other_files_are_not_in_the_way() {
        for name in [
            "0013.png",
            "0001.jpg",
            "1.png",
            "00001.png",
            "ref_0001.png",
            "0001_L.png",
            "0001",
            "-0001.png",
            "0001.png.bak",
            "notes.txt",
            ".png",
        ] {
            assert!(!names("//render/", "png", &[]).contain(name), "{name}");
        }
    }

    #[test]
    fn names_that_only_blender_can_tell_are_not_predicted() {
        let frames: FrameSet = "1".parse().unwrap();
        assert!(LikelyNames::new("//{blend_name}_", "png", Vec::new(), &frames).is_none());
    }
}
