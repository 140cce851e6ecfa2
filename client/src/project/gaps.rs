//! Files of numbered rows that the frames of a job show, and that are not there.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
    sync::Arc,
};

use framecrew_blend::{Files, Numbering};

use super::{
    collection::Collection,
    files::{Found, around_number},
    stored::{Stored, name_of_text, text_of_name},
};
use crate::frames::FrameSet;

/// Frames of a job that are looked at: three quarters of an hour of film. The nodes look at each that they draw.
const FRAMES_MAX: usize = 65_536;

/// Digits of a number in a name: more than any number has.
const DIGITS_MAX: usize = 64;

impl Collection {
    /// Notes of each row which files are lacking that `frames` show. What depends on drivers and the like is left to
    /// the nodes.
    pub(crate) fn note_gaps(&mut self, frames: &FrameSet) {
        for entry in &mut self.entries {
            let is_row = matches!(entry.reference.files, Files::Sequence { .. });
            if !is_row || entry.found.files.is_empty() || entry.numberings.is_empty() {
                continue;
            }
            let gaps = gaps(&entry.stored, &entry.found, &entry.numberings, frames);
            if gaps.is_empty() {
                continue;
            }
            let mut found = (*entry.found).clone();
            for (name, frame) in gaps {
                found.lack(entry.stored.path.with_file_name(name_of_text(&name)));
                if found.lacking_frames.len() < found.lacking.len() {
                    found.lacking_frames.push(frame);
                }
            }
            entry.found = Arc::new(found);
        }
    }
}

/// The names of a row that are shown and lacking, and a frame that shows each.
fn gaps(
    stored: &Stored,
    found: &Found,
    numberings: &[Numbering],
    frames: &FrameSet,
) -> BTreeMap<String, i32> {
    let name = stored.path.file_name().map(text_of_name).unwrap_or_default();
    let mut gaps = BTreeMap::new();
    let Some((before, after)) = around_number(&name) else { return gaps };
    let digits = name.get(before.len()..name.len() - after.len()).unwrap_or_default();
    let Ok(first) = digits.parse::<i64>() else { return gaps };
    let there: HashSet<_> = found.files.iter().filter_map(|file| file_name(&file.path)).collect();
    let number = |name: &String| {
        name.strip_prefix(before).and_then(|rest| rest.strip_suffix(after))?.parse::<i64>().ok()
    };
    let numbers = || there.iter().filter_map(number);
    let ends = numbers().min().zip(numbers().max());
    let width = digits.len().min(DIGITS_MAX);
    for numbering in numberings {
        // Only what stands right before the ending is a number to it.
        let is_last =
            after.is_empty() || (after.starts_with('.') && after.matches('.').count() == 1);
        if numbering.wants_number_last() && !is_last {
            continue;
        }
        for frame in frames.iter().take(FRAMES_MAX) {
            let Some(number) = numbering.number(frame, first) else { continue };
            let is_past = numbering.may_end()
                && ends.is_some_and(|(first, last)| number < first || number > last);
            let name = format!("{before}{number:0width$}{after}");
            if !is_past && !there.contains(&name) {
                gaps.entry(name).or_insert(frame);
            }
        }
    }
    gaps
}

fn file_name(path: &Path) -> Option<String> {
    Some(text_of_name(path.file_name()?).into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use framecrew_blend::{Outside, ReferenceKind};

    use super::*;
    use crate::project::files;

    /// Of the row that begins with the first of these files, what is lacking in frames 1 to 6, and when.
    fn lacking(names: &[&str], numbering: Numbering) -> Vec<(String, i32)> {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::write(folder.path().join(name), b"x").unwrap();
        }
        let row = Files::Sequence { first: None, frames: None };
        let stored = Stored::read(&format!("//{}", names[0]), folder.path());
        let found = files::find(&stored, &row, ReferenceKind::Image, 1_000);
        gaps(&stored, &found, &[numbering], &"1-6".parse().unwrap()).into_iter().collect()
    }

    #[test]
    fn a_picture_is_missed_wherever_its_number_stands() {
        let image = Numbering::Image { start: 1, length: 4, offset: 0, is_cyclic: false };
        for (names, missed) in [
            (["0001_a.png", "0002_a.png", "0004_a.png"], "0003_a.png"),
            (["a_0001.png", "a_0002.png", "a_0004.png"], "a_0003.png"),
            (["a7.0001.b.png", "a7.0002.b.png", "a7.0004.b.png"], "a7.0003.b.png"),
        ] {
            assert_eq!(lacking(&names, image), [(missed.to_owned(), 3)]);
        }
        // One of more digits is not the same.
        let missed = lacking(&["a_1.png", "a_02.png", "a_3.png", "a_4.png"], image);
        assert_eq!(missed, [("a_2.png".to_owned(), 2)]);
    }

    #[test]
    fn volumes_and_caches_are_rows_only_where_the_number_stands_last() {
        let volume = Numbering::Volume { start: 1, length: 6, offset: 0, mode: Outside::Clip };
        let names = ["s_1.vdb", "s_2.vdb", "s_3.vdb", "s_5.vdb", "s_6.vdb"];
        assert_eq!(lacking(&names, volume), [("s_4.vdb".to_owned(), 4)]);
        assert_eq!(lacking(&["1_s.vdb", "3_s.vdb"], volume), []);
        let cache = Numbering::Cache { fixed: Some(3) };
        assert_eq!(lacking(&["c1.abc", "c2.abc"], cache), [("c3.abc".to_owned(), 1)]);
    }

    #[test]
    fn a_clip_may_end_but_has_no_holes() {
        let clip = Numbering::Clip { start: 1, offset: 0 };
        assert_eq!(lacking(&["c_02.png", "c_04.png"], clip), [("c_03.png".to_owned(), 2)]);
    }
}
