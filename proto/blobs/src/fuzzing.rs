//! What the fuzz target does.

use std::{
    collections::BTreeSet,
    path::{Component, Path},
};

use crate::{ProjectPath, check_paths};

/// A list of paths, one on each line.
pub fn project_paths(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let texts: Vec<&str> = text.split('\n').collect();
    let root = Path::new("/project");
    for text in &texts {
        let Ok(path) = text.parse::<ProjectPath>() else { continue };
        assert_eq!(path.as_str(), *text);
        let place = path.under(root);
        let inside = place.strip_prefix(root).expect("a path leads out of its project");
        assert!(inside.components().all(|part| matches!(part, Component::Normal(_))));
        assert!(inside.components().count() >= 1);
    }
    if !check_paths(texts.iter().copied()).is_empty() {
        return;
    }
    let folded: BTreeSet<String> = texts.iter().map(|text| text.to_lowercase()).collect();
    assert_eq!(folded.len(), texts.len(), "two files have one path");
    for path in &folded {
        let mut folders = path.match_indices('/').map(|(at, _)| &path[..at]);
        assert!(!folders.any(|folder| folded.contains(folder)), "a file is a folder");
    }
}

#[cfg(test)]
#[path = "../../fuzz/seeds.rs"]
mod seeds;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_of_project_paths_hold() {
        let seeds = [
            ("good", "shot.blend\ntextures/wood.png\ntextures/é/日本.exr"),
            ("outward", "../a\n/etc/passwd\nC:/a\n\\\\host\\a\na/./b\na//b"),
            ("twice", "a.blend\nA.blend\na.blend\nA.BLEND/b"),
            ("folder", "tex\nTex/wood.png\ntex-a\ntex/b"),
            ("letters", "İ\ni\u{307}\nK\nk\nſ\ns"),
        ];
        let seeds = seeds.map(|(name, text)| (name, text.into()));
        super::seeds::check("project_paths", &seeds, project_paths);
    }
}
