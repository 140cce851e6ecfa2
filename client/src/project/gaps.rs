//! Finds missing files of numbered sequences that the frames of a job show.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
    sync::Arc,
};

use framecrew_blend::{Files, Numbering, ReferenceKind};

use super::{
    collection::Collection,
    files::{Found, around_number},
    stored::{Stored, name_of_text, text_of_name},
};
use framecrew_model::FrameSet;

/// Maximum number of frames that are checked: three quarters of an hour of film. The nodes check every frame that
/// they draw.
const FRAMES_MAX: usize = 65_536;

/// Minimum number of files of a simulation that count as a sequence, in which one may be missing.
const ROW_MIN: usize = 3;

/// Maximum number of digits in a name, more than any sequence uses.
const DIGITS_MAX: usize = 64;

impl Collection {
    /// Records for each sequence which of the files that `frames` show are missing. Settings with drivers and the
    /// like are left to the nodes.
    pub(crate) fn note_gaps(&mut self, frames: &FrameSet) {
        for entry in &mut self.entries {
            if let Files::Named(names) = &entry.reference.files {
                let is_of_scene = entry.wanted_by == 0 && Some(entry.reference.block) == self.scene;
                let numberings = if is_of_scene { &entry.numberings[..] } else { &[] };
                if entry.reference.is_optional {
                    entry.found = Arc::new(entry.found.unmissed());
                } else if entry.found.missing > 0 {
                    let found = of_strip(&entry.stored, &entry.found, names, numberings, frames);
                    entry.found = Arc::new(found);
                }
                continue;
            }
            let gaps = match entry.reference.files {
                _ if entry.found.files.is_empty() => continue,
                Files::Sequence { .. } => {
                    gaps(&entry.stored, &entry.found, &entry.numberings, frames)
                }
                Files::Folder if entry.is_drawn => {
                    let name = entry.reference.cache_name.as_deref();
                    holes(entry.reference.kind, name, &entry.found, frames)
                }
                _ => continue,
            };
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

/// Of a strip's missing pictures, keeps those that `frames` show. If it is not known which a frame shows, the nodes
/// decide, unless all are missing.
fn of_strip(
    stored: &Stored,
    found: &Found,
    names: &[String],
    numberings: &[Numbering],
    frames: &FrameSet,
) -> Found {
    if numberings.is_empty() {
        return if found.files.is_empty() { found.clone() } else { found.unmissed() };
    }
    let there: HashSet<_> = found.files.iter().map(|file| &*file.path).collect();
    let mut gaps = BTreeMap::new();
    for frame in frames.iter().take(FRAMES_MAX) {
        let numbers = numberings.iter().filter_map(|numbering| numbering.number(frame, 0));
        for name in numbers.filter_map(|number| names.get(usize::try_from(number).ok()?)) {
            // Names with folders are not looked for.
            if name.contains(['/', '\\']) && !there.is_empty() {
                continue;
            }
            let path = stored.path.join(name);
            if !there.contains(&*path) {
                gaps.entry(path).or_insert(frame);
            }
        }
    }
    let mut of_frames = found.unmissed();
    if !gaps.is_empty() {
        of_frames.absence.clone_from(&found.absence);
    }
    for (path, frame) in gaps {
        of_frames.lack(path);
        if of_frames.lacking_frames.len() < of_frames.lacking.len() {
            of_frames.lacking_frames.push(frame);
        }
    }
    of_frames
}

/// Finds the missing frames of a baked simulation. It has a file for every frame, or for every n-th. `cache_name` is
/// how the names of its files begin, if others are in the same folder.
fn holes(
    kind: ReferenceKind,
    cache_name: Option<&str>,
    found: &Found,
    frames: &FrameSet,
) -> BTreeMap<String, i32> {
    let mut rows: BTreeMap<(&Path, String, String), BTreeMap<i64, usize>> = BTreeMap::new();
    for file in &found.files {
        let folder = file.path.parent().unwrap_or(&file.path);
        let name = file_name(&file.path).unwrap_or_default();
        let Some((before, after)) = around_frame(kind, cache_name, &name) else { continue };
        let digits = name.get(before.len()..name.len() - after.len()).unwrap_or_default();
        let Ok(number) = digits.parse() else { continue };
        let row = rows.entry((folder, before.to_owned(), after.to_owned())).or_default();
        row.insert(number, digits.len());
    }
    let mut holes = BTreeMap::new();
    for ((_, before, after), row) in rows {
        let Some((first, last, step)) = stride(&row) else { continue };
        let width = row.get(&first).copied().unwrap_or_default();
        for frame in frames.iter().take(FRAMES_MAX) {
            let number = i64::from(frame);
            let is_between = (first..last).contains(&number) && (number - first) % step == 0;
            if is_between && !row.contains_key(&number) {
                holes.insert(format!("{before}{number:0width$}{after}"), frame);
            }
        }
    }
    holes
}

/// Returns the first and the last number in step, and the most frequent distance between files. A simulation also
/// keeps its first state and its last frame, which may be out of step.
fn stride(row: &BTreeMap<i64, usize>) -> Option<(i64, i64, i64)> {
    let pairs = || row.keys().zip(row.keys().skip(1)).map(|(a, b)| (*a, *b, b - a));
    let ends = [0, row.len().saturating_sub(2)];
    let mut counts = BTreeMap::<i64, (usize, usize)>::new();
    for (at, (_, _, step)) in pairs().enumerate() {
        let (everywhere, within) = counts.entry(step).or_default();
        *everywhere += 1;
        *within += usize::from(!ends.contains(&at));
    }
    // On a tie, prefer the step that does not occur at the ends, then the shorter one. Two files with a hole
    // between them define no step.
    let (step, _) = counts.into_iter().max_by_key(|(step, count)| (*count, -step))?;
    let (anchor, ..) = pairs().find(|(_, _, of_pair)| *of_pair == step)?;
    let mut in_step = row.keys().copied().filter(|number| (number - anchor) % step == 0);
    let first = in_step.next()?;
    let last = in_step.next_back()?;
    (row.len() >= ROW_MIN).then_some((first, last, step))
}

/// Splits the name of a simulation's file into what precedes and follows the frame number. `None` if there is no
/// frame in it, or the file belongs to another simulation.
fn around_frame<'n>(
    kind: ReferenceKind,
    cache_name: Option<&str>,
    name: &'n str,
) -> Option<(&'n str, &'n str)> {
    let end_of_digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    match kind {
        ReferenceKind::FluidCache => around_number(name),
        // `00004_00000.json`: the frame, then its part.
        ReferenceKind::NodesCache if name.ends_with(".json") => {
            Some(("", &name[end_of_digits(name)..]))
        }
        // `47726964_000004_00.bphys`: the cache, the frame, and the number of the cache.
        ReferenceKind::PointCache => {
            let mut parts = name.rsplitn(3, '_');
            let (_, frame, owner) = (parts.next()?, parts.next()?, parts.next()?);
            let is_it = cache_name.is_none_or(|name| owner == name);
            let at = owner.len() + 1;
            is_it.then(|| (&name[..at], &name[at + frame.len()..]))
        }
        _ => None,
    }
}

/// Returns the names of a sequence that are shown but missing, each with a frame that shows it.
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
        // For these files Blender only counts digits directly before the extension as the number.
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

    use framecrew_blend::Outside;

    use super::*;
    use crate::project::files;

    fn holes_of(
        path: &str,
        cache_name: Option<&str>,
        kind: ReferenceKind,
        names: &[&str],
    ) -> Vec<(String, i32)> {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let file = folder.path().join(path).join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, b"x").unwrap();
        }
        let stored = Stored::read(&format!("//{path}"), folder.path());
        let found = files::find(&stored, &Files::Folder, kind, 1_000);
        holes(kind, cache_name, &found, &"1-6".parse().unwrap()).into_iter().collect()
    }

    #[test]
    fn a_missing_frame_between_others_of_a_simulation_is_found() {
        use ReferenceKind::{FluidCache, NodesCache, PointCache};
        let fluid = ["data/f_0001.vdb", "data/f_0002.vdb", "data/f_0004.vdb"];
        assert_eq!(holes_of("c", None, FluidCache, &fluid), [("f_0003.vdb".to_owned(), 3)]);
        let nodes =
            ["1/meta/00001_00000.json", "1/meta/00003_00000.json", "1/meta/00004_00000.json"];
        let missed = [("00002_00000.json".to_owned(), 2)];
        assert_eq!(holes_of("c", None, NodesCache, &nodes), missed);
        // Every second frame is stored. The cache of another object does not count.
        let points = [
            "47726964_000001_00.bphys",
            "47726964_000003_00.bphys",
            "47726964_000005_00.bphys",
            "00FF_000001_00.bphys",
            "00FF_000002_00.bphys",
            "00FF_000005_00.bphys",
        ];
        assert_eq!(holes_of("c", Some("47726964"), PointCache, &points), []);
        let points =
            ["47726964_000001_00.bphys", "47726964_000002_00.bphys", "47726964_000004_00.bphys"];
        let missed = [("47726964_000003_00.bphys".to_owned(), 3)];
        assert_eq!(holes_of("c", Some("47726964"), PointCache, &points), missed);
        // The cache has a name of its own.
        let points =
            ["my_cape_000001_00.bphys", "my_cape_000002_00.bphys", "my_cape_000004_00.bphys"];
        let missed = [("my_cape_000003_00.bphys".to_owned(), 3)];
        assert_eq!(holes_of("c", Some("my_cape"), PointCache, &points), missed);
        // The last frame and the first state are kept although they are out of step.
        let points = [0, 1, 3, 5, 6].map(|frame| format!("47726964_{frame:06}_00.bphys"));
        let points = points.each_ref().map(String::as_str);
        assert_eq!(holes_of("c", Some("47726964"), PointCache, &points), []);
    }

    /// Returns the names that are missing in frames 1 to 6 of the sequence that begins with the first file, each
    /// with its frame.
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
    fn a_missing_picture_is_found_wherever_its_number_is() {
        let image = Numbering::Image { start: 1, length: 4, offset: 0, is_cyclic: false };
        for (names, missed) in [
            (["0001_a.png", "0002_a.png", "0004_a.png"], "0003_a.png"),
            (["a_0001.png", "a_0002.png", "a_0004.png"], "a_0003.png"),
            (["a7.0001.b.png", "a7.0002.b.png", "a7.0004.b.png"], "a7.0003.b.png"),
        ] {
            assert_eq!(lacking(&names, image), [(missed.to_owned(), 3)]);
        }
        // A number with a different count of digits is a different name.
        let missed = lacking(&["a_1.png", "a_02.png", "a_3.png", "a_4.png"], image);
        assert_eq!(missed, [("a_2.png".to_owned(), 2)]);
    }

    #[test]
    fn volumes_and_caches_are_sequences_only_if_the_number_is_last() {
        let volume = Numbering::Volume { start: 1, length: 6, offset: 0, mode: Outside::Clip };
        let names = ["s_1.vdb", "s_2.vdb", "s_3.vdb", "s_5.vdb", "s_6.vdb"];
        assert_eq!(lacking(&names, volume), [("s_4.vdb".to_owned(), 4)]);
        assert_eq!(lacking(&["1_s.vdb", "3_s.vdb"], volume), []);
        let cache = Numbering::Cache { fixed: Some(3) };
        assert_eq!(lacking(&["c1.abc", "c2.abc"], cache), [("c3.abc".to_owned(), 1)]);
    }

    #[test]
    fn a_clip_may_end_but_has_no_gaps() {
        let clip = Numbering::Clip { start: 1, offset: 0 };
        assert_eq!(lacking(&["c_02.png", "c_04.png"], clip), [("c_03.png".to_owned(), 2)]);
    }
}
