//! What a frame's files are called. Everything here comes from the .blend, and none of it is a path yet: names
//! go to whoever fetches the frames.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;

/// Maximum length of a file's name in bytes, as file systems limit it.
const NAME_BYTES_MAX: usize = 255;

/// Bytes of a file's name that are kept free for a number that makes it unique.
const DISTINCT_BYTES: usize = 5;

/// Maximum length of a folder's name in bytes. The whole path with all folders stays below the limit of 1,024
/// bytes.
const FOLDER_BYTES_MAX: usize = 180;

/// Folders of a name; a path that has more loses its first ones.
const FOLDERS_MAX: usize = 4;

/// Extensions that Blender takes off before it puts the format's own on.
const EXTENSIONS: [&str; 12] =
    ["png", "jpg", "jpeg", "tif", "tiff", "exr", "webp", "bmp", "tga", "hdr", "dpx", "jp2"];

/// Where a File Output node writes one of its slots.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct FileOutput {
    /// Folder in the frame's own.
    pub(crate) folder: String,
    /// What the file's name there begins with.
    pub(crate) prefix: String,
    /// The folder that the .blend names.
    pub(crate) base: String,
    /// The node's name.
    pub(crate) node: String,
    /// The path below that folder that the .blend names, with `#` for the frame's digits.
    pub(crate) path: String,
}

/// A frame's name by Blender's `####` convention, without an extension.
pub(crate) fn frame_name(frame: i32) -> String {
    let sign = if frame < 0 { "-" } else { "" };
    format!("{sign}{:04}", frame.unsigned_abs())
}

/// Gives the files of one frame their names, no name twice.
#[derive(Debug)]
pub(crate) struct Names<'a> {
    frame: i32,
    outputs: &'a [FileOutput],
    /// Folder of each of `outputs`, in the same order.
    folders: Vec<String>,
    taken: HashSet<String>,
}

impl<'a> Names<'a> {
    pub(crate) fn new(frame: i32, outputs: &'a [FileOutput]) -> Self {
        Self { frame, outputs, folders: name_folders(outputs), taken: HashSet::new() }
    }

    /// The name of the frame's own image, whose file is called `file`; `wanted` is how Blender would call it,
    /// without its extension.
    pub(crate) fn image(&mut self, wanted: &str, file: &str) -> String {
        let number = self.frame.unsigned_abs().to_string();
        let stem = clean(wanted);
        // One that lost its frame would be the same for all frames.
        let rest = self.rest(file, "");
        let tells = stem.len() + rest.len() <= NAME_BYTES_MAX
            && stem.contains(&number)
            && (self.frame >= 0 || stem.contains('-'));
        let stem = if tells { stem } else { frame_name(self.frame) };
        self.distinct(&stem, &rest)
    }

    /// The name of the file `file` in the folder `folder` of the frame's own.
    pub(crate) fn other(&mut self, folder: &str, file: &str) -> String {
        let output = self
            .outputs
            .iter()
            .zip(&self.folders)
            .find(|(output, _)| output.folder == folder && file.starts_with(&output.prefix));
        let Some((output, directory)) = output else {
            let (stem, rest) = file.split_at(file.find('.').unwrap_or(file.len()));
            let rest = clean_rest(rest);
            let stem = cut_to(clean(stem), NAME_BYTES_MAX - DISTINCT_BYTES - rest.len());
            let stem =
                if folder.is_empty() { stem } else { format!("{}/{stem}", cut(clean(folder))) };
            return self.distinct(&stem, &rest);
        };
        let mut parts = vec![directory.clone()];
        parts.extend(output.path.split(['/', '\\']).map(clean).filter(|part| !part.is_empty()));
        let last = if parts.len() > 1 { parts.pop().unwrap_or_default() } else { String::new() };
        let rest = self.rest(file, &output.prefix);
        let last = without_extension(self.numbered(&last, NAME_BYTES_MAX - rest.len()));
        let first = parts.len().saturating_sub(FOLDERS_MAX - 1).max(1);
        let folders = std::iter::once(&parts[0]).chain(&parts[first..]);
        let mut stem: String = folders.map(|part| format!("{}/", cut(part.clone()))).collect();
        stem += &last;
        self.distinct(&stem, &rest)
    }

    /// What follows the frame's number in a file's name: the view and the extension.
    fn rest(&self, file: &str, prefix: &str) -> String {
        let rest = file.strip_prefix(prefix).unwrap_or(file);
        clean_rest(rest.strip_prefix(&frame_name(self.frame)).unwrap_or(rest))
    }

    /// Puts the frame's number where Blender puts it: in place of the last `#`s, or at the end. Returns at most
    /// `room` bytes.
    fn numbered(&self, text: &str, room: usize) -> String {
        let sign = if self.frame < 0 { "-" } else { "" };
        let number = |digits| format!("{sign}{:0digits$}", self.frame.unsigned_abs());
        let at_the_end = || {
            let number = frame_name(self.frame);
            cut_to(text.to_owned(), room - DISTINCT_BYTES - number.len()) + &number
        };
        match text.rfind('#') {
            None => at_the_end(),
            Some(last) => {
                let first = text[..last].trim_end_matches('#').len();
                let numbered =
                    format!("{}{}{}", &text[..first], number(last + 1 - first), &text[last + 1..]);
                if numbered.len() + DISTINCT_BYTES <= room { numbered } else { at_the_end() }
            }
        }
    }

    fn distinct(&mut self, stem: &str, rest: &str) -> String {
        let mut name = format!("{stem}{rest}");
        let mut count = 1;
        // Where case does not count, two names that differ only in it are one file.
        while !self.taken.insert(name.to_lowercase()) {
            count += 1;
            name = format!("{stem}-{count}{rest}");
        }
        name
    }
}

/// A folder for each File Output slot: the last part of the path that the .blend names. Where two paths end in the same
/// name, or one has none, the node's name.
fn name_folders(outputs: &[FileOutput]) -> Vec<String> {
    let mut owners: BTreeMap<String, &str> = BTreeMap::new();
    let mut names: BTreeMap<(&str, &str), String> = BTreeMap::new();
    let name = |output: &FileOutput| {
        let mut parts = output.base.split(['/', '\\']).map(clean);
        parts.rfind(|part| !part.is_empty()).unwrap_or_default()
    };
    for output in outputs {
        names.entry((&output.base, &output.folder)).or_insert_with(|| {
            let mut candidates = [name(output), clean(&output.node)].into_iter().map(cut);
            let mut free = |candidate: &String| {
                !candidate.is_empty()
                    && *owners.entry(candidate.to_lowercase()).or_insert(&output.base)
                        == output.base
            };
            let found = candidates.find(&mut free);
            found.unwrap_or_else(|| {
                let numbered = (1_u32..).map(|n| format!("output-{n}"));
                numbered.into_iter().find(free).unwrap_or_default()
            })
        });
    }
    outputs
        .iter()
        .map(|output| names[&(output.base.as_str(), output.folder.as_str())].clone())
        .collect()
}

/// A text as part of a name that every file system takes: no separators, drives, wildcards or control
/// characters, and no dot at its beginning, which would hide it.
fn clean(text: &str) -> String {
    let kept = text.chars().map(|c| match c {
        '/' | '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|' => '_',
        c if c.is_control() => '_',
        c => c,
    });
    let kept: String = kept.collect();
    kept.trim_start_matches(['.', ' ']).trim_end().to_owned()
}

/// The end of a name. It comes from the renderer, which has written it to the disk.
fn clean_rest(rest: &str) -> String {
    let kept = rest.chars().filter(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'));
    kept.take(50).collect()
}

/// A name without an image's extension, which it may have after its number.
fn without_extension(mut name: String) -> String {
    if let Some((stem, extension)) = name.rsplit_once('.')
        && EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
    {
        name.truncate(stem.len());
    }
    name
}

fn cut(text: String) -> String {
    cut_to(text, FOLDER_BYTES_MAX)
}

fn cut_to(mut text: String, bytes: usize) -> String {
    text.truncate(text.floor_char_boundary(bytes));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_named_as_blender_names_them() {
        assert_eq!(frame_name(42), "0042");
        assert_eq!(frame_name(0), "0000");
        assert_eq!(frame_name(-5), "-0005");
        assert_eq!(frame_name(123_456), "123456");
        assert_eq!(frame_name(i32::MIN), "-2147483648");
    }

    fn image(wanted: &str, frame: i32) -> String {
        Names::new(frame, &[]).image(wanted, &format!("{}.png", frame_name(frame)))
    }

    fn output(folder: &str, base: &str, node: &str, path: &str) -> FileOutput {
        FileOutput {
            folder: folder.into(),
            prefix: "s0_".into(),
            base: base.into(),
            node: node.into(),
            path: path.into(),
        }
    }

    fn slot(base: &str, path: &str, frame: i32) -> String {
        let outputs = [output("n0", base, "File Output", path)];
        Names::new(frame, &outputs).other("n0", &format!("s0_{}.png", frame_name(frame)))
    }

    #[test]
    fn a_frames_image_keeps_the_name_that_its_scene_gives_it() {
        assert_eq!(image("shot_0042", 42), "shot_0042.png");
        assert_eq!(image("0042", 42), "0042.png");
        assert_eq!(image("shot_-0005", -5), "shot_-0005.png");
        assert_eq!(image("日本 42 b", 42), "日本 42 b.png");
        let mut names = Names::new(42, &[]);
        assert_eq!(names.image("shot_0042", "0042_L.png"), "shot_0042_L.png");
        assert_eq!(names.image("shot_0042", "0042_R.png"), "shot_0042_R.png");
    }

    #[test]
    fn a_name_that_is_no_name_becomes_the_frames_number() {
        for wanted in
            ["", "..", "shot", "\u{1}", &"x".repeat(250), &format!("{}0042", "x".repeat(250))]
        {
            assert_eq!(image(wanted, 42), "0042.png", "{wanted:?}");
        }
        assert_eq!(image("shot_5", -5), "-0005.png");
        assert_eq!(image("../../C:\\42", 42), "_.._C__42.png");
        assert_eq!(image("..hidden42\n", 42), "hidden42_.png");
    }

    #[test]
    fn a_slot_lies_in_the_folder_that_its_node_names() {
        assert_eq!(slot("//out/masks/", "depth_", 7), "masks/depth_0007.png");
        assert_eq!(slot("C:\\renders\\masks", "Image", -7), "masks/Image-0007.png");
        assert_eq!(slot("/masks", "a_##_####_b", 7), "masks/a_##_0007_b.png");
        assert_eq!(slot("/masks", "##", 123), "masks/123.png");
        assert_eq!(slot("/masks", "all_####.png", 7), "masks/all_0007.png");
        assert_eq!(slot("/masks", "all_####.EXR", 7), "masks/all_0007.png");
        assert_eq!(slot("/masks", "all.png", 7), "masks/all.png0007.png");
        assert_eq!(slot("/masks", "sub/Image", 7), "masks/sub/Image0007.png");
        assert_eq!(slot("", "Image", 7), "File Output/Image0007.png");
        assert_eq!(slot("//", "", 7), "_/0007.png".replace('_', "File Output"));
    }

    #[test]
    fn long_names_are_kept_as_far_as_file_systems_allow() {
        let long = format!("{}_0042", "n".repeat(240));
        assert_eq!(image(&long, 42), format!("{long}.png"));
        let name = "n".repeat(240);
        assert_eq!(slot("/masks", &name, 7), format!("masks/{name}0007.png"));
        assert_eq!(slot("/masks", &format!("{name}_####"), 7), format!("masks/{name}_0007.png"));
        let cut = slot("/masks", &"n".repeat(300), 7);
        assert_eq!(cut.len(), "masks/".len() + NAME_BYTES_MAX - DISTINCT_BYTES);
        assert!(cut.ends_with("0007.png"));
    }

    #[test]
    fn a_multilayer_file_without_a_name_is_named_by_the_frame_alone() {
        let outputs =
            [FileOutput { prefix: "s".into(), ..output("n0", "//passes", "File Output", "") }];
        let mut names = Names::new(7, &outputs);
        assert_eq!(names.other("n0", "s0007.exr"), "passes/0007.exr");
    }

    #[test]
    fn no_slot_leaves_its_folder() {
        for (base, path, name) in [
            ("/../../..", "../../../x", "File Output/x0007.png"),
            ("//../../secret", "/etc/passwd", "secret/etc/passwd0007.png"),
            ("D:", "C:\\x", "D_/C_/x0007.png"),
            ("a", "a/b/c/d/e/f", "a/c/d/e/f0007.png"),
            ("a", "\0\u{7f}", "a/__0007.png"),
            (".", ".", "File Output/0007.png"),
        ] {
            let got = slot(base, path, 7);
            assert_eq!(got, name, "{base:?} {path:?}");
            assert!(got.parse::<framecrew_blobs::ProjectPath>().is_ok(), "{got}");
        }
        let long = slot(&"b".repeat(900), &format!("{0}/{0}####", "é".repeat(400)), 7);
        assert!(long.parse::<framecrew_blobs::ProjectPath>().is_ok(), "{long}");
        assert!(long.ends_with("0007.png"));
    }

    #[test]
    fn files_that_would_have_the_same_name_stay_distinct() {
        let outputs = [
            output("n0", "/a/masks", "One", "x"),
            output("n1", "/b/masks", "Two", "x"),
            output("n2", "/a/masks", "Three", "X"),
            output("n3", "/c/masks", "Two", "x"),
        ];
        let mut names = Names::new(7, &outputs);
        let all: Vec<_> = ["n0", "n1", "n2", "n3"].map(|n| names.other(n, "s0_0007.png")).into();
        assert_eq!(
            all,
            ["masks/x0007.png", "Two/x0007.png", "masks/X0007-2.png", "output-1/x0007.png"]
        );
        assert_eq!(names.other("", "0007.png"), "0007.png");
        assert_eq!(names.image("0007", "0007.png"), "0007-2.png");
    }

    #[test]
    fn a_view_and_a_file_without_a_number_keep_their_ends() {
        let outputs = [output("n0", "/masks", "One", "x")];
        let mut names = Names::new(7, &outputs);
        assert_eq!(names.other("n0", "s0_0007_L.exr"), "masks/x0007_L.exr");
        assert_eq!(names.other("n0", "s0_.exr"), "masks/x0007.exr");
        assert_eq!(names.other("n9", "who.png"), "n9/who.png");
    }
}
