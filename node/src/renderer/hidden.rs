//! Replaces the node's own folders in a renderer's output. They differ from node to node and mean nothing to
//! people. Paths in a project are shown relative to the .blend, as Blender writes them (`//textures/wood.png`).

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::project::LAYOUTS;

/// The node's folders and their replacements, the longest folder first.
#[derive(Debug, Default)]
pub(crate) struct Hidden {
    names: Vec<(String, String)>,
}

impl Hidden {
    /// Creates the replacements for a renderer that works in `work` and has opened a .blend at each of `blends`.
    pub(crate) fn new(work: &Path, blends: &[&Path]) -> Self {
        let mut hidden = Self::default();
        let mut add = |folder: &Path, name: &str| {
            // Blender may have resolved links.
            let real = fs::canonicalize(folder).ok();
            for folder in [Some(folder.to_owned()), real].into_iter().flatten() {
                let mut text = folder.to_string_lossy().into_owned();
                // The root cannot be hidden.
                if text.len() > 1 {
                    text.push('/');
                    hidden.names.push((text, name.to_owned()));
                }
            }
        };
        add(work, "");
        let folders = blends.iter().filter_map(|blend| blend.parent());
        for folder in folders.filter(|folder| folder.is_absolute()) {
            add(folder, "//");
            let mut up = String::from("//");
            for above in folder.ancestors().skip(1) {
                up.push_str("../");
                if !is_in_layout(above) {
                    break;
                }
                add(above, &up);
            }
        }
        hidden.names.sort_by_key(|(folder, _)| std::cmp::Reverse(folder.len()));
        hidden.names.dedup();
        hidden
    }

    /// Returns the text with the folders replaced.
    pub(crate) fn apply(&self, text: String) -> String {
        let hide = |text: String, (folder, name): &(String, String)| {
            if text.contains(folder.as_str()) { text.replace(folder.as_str(), name) } else { text }
        };
        self.names.iter().fold(text, hide)
    }
}

/// Whether a folder belongs to the layout of a project.
fn is_in_layout(folder: &Path) -> bool {
    let above: Option<PathBuf> = folder.parent().map(Path::to_owned);
    above.is_some_and(|above| above.ancestors().any(|above| above.ends_with(LAYOUTS)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(text: &str) -> String {
        let blend = Path::new("/data/layouts/0123/shots/a/main.blend");
        Hidden::new(Path::new("/data/drawing/blender-x1"), &[blend]).apply(text.into())
    }

    #[test]
    fn paths_in_a_project_are_shown_relative_to_the_blend() {
        for (written, shown) in [
            (
                "Read blend: \"/data/layouts/0123/shots/a/main.blend\"",
                "Read blend: \"//main.blend\"",
            ),
            ("no /data/layouts/0123/shots/b/x.png here", "no //../b/x.png here"),
            ("/data/layouts/0123/lib.blend", "//../../lib.blend"),
            ("Saved: '/data/drawing/blender-x1/frame/0001.png'", "Saved: 'frame/0001.png'"),
            ("/usr/share/fonts/a.ttf /data/layouts", "/usr/share/fonts/a.ttf /data/layouts"),
        ] {
            assert_eq!(applied(written), shown);
        }
    }

    #[test]
    fn without_a_layout_only_the_folder_of_the_blend_is_hidden() {
        let hidden = Hidden::new(Path::new("/tmp/w"), &[Path::new("/shot/a/main.blend")]);
        assert_eq!(hidden.apply("/shot/a/x.png /shot/b.png".into()), "//x.png /shot/b.png");
        let none = Hidden::new(Path::new("/tmp/w"), &[]);
        assert_eq!(none.apply("/shot/a".into()), "/shot/a");
    }
}
